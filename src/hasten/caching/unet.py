"""Sites in U-Nets: the deep part, and the encoder. Found by what a model is made of, not by what it is called."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from hasten.caching.memory import Memory
from hasten.caching.sites import SITES, Site, Standing
from hasten.core.errors import HastenError, UnsupportedModel
from hasten.core.registry import Span
from hasten.runtime.anatomy import unet_units
from hasten.runtime.rows import mapped
from hasten.runtime.view import wrap


@SITES.add
@dataclass(frozen=True)
class UNetDeep(Site):
    """Everything of a U-Net that is deeper than unit `branch` of its ways down and up.

    Units are d_0 (the input convolution), d_1, ... on the way down, and their mirror images u_0 (the last one), u_1,
    ... on the way up: u_j takes the skip that d_j leaves. What is remembered is the tensor that enters u_branch. While
    the deep part is skipped, d_0 .. d_branch, u_branch .. u_0 and the output head run afresh.

    branch: the deepest unit that runs at every step, at least 0.
    """

    branch: int = 0

    name = "unet-deep"
    search_space: ClassVar[Mapping[str, Any]] = {"branch": Span(0, 5)}

    def __post_init__(self) -> None:
        if isinstance(self.branch, bool) or not isinstance(self.branch, int) or self.branch < 0:
            raise HastenError(f"branch: {self.branch!r} is not possible; give a whole number of at least 0")

    def check(self, network: nn.Module) -> None:
        down, _ = unet_units(network)
        if self.branch >= len(down):
            raise UnsupportedModel(
                f"branch: {self.branch} is deeper than this {type(network).__name__} goes; "
                f"give a number from 0 to {len(down) - 1}"
            )

    def attach(self, network: nn.Module, memory: Memory) -> None:
        down, up = unet_units(network)
        deep_down, deep_up = down[self.branch + 1 :], up[self.branch + 1 :]
        running = {unit.block for unit in (*down[: self.branch + 1], *up[: self.branch + 1])}
        for block in {unit.block for unit in deep_down} - running:
            wrap(block, Hollow(memory, written=True))
        for block in {unit.block for unit in deep_up} - running:
            wrap(block, Hollow(memory))
        if isinstance(network.mid_block, nn.Module):
            wrap(network.mid_block, Hollow(memory))
        for unit in deep_down:
            if unit.block in running:
                for part in unit.parts:
                    wrap(part, Hollow(memory, written=unit.ends_block))
        entry = up[self.branch]
        inside = [part for unit in reversed(deep_up) if unit.block is entry.block for part in unit.parts]
        for part in inside[:-1]:
            wrap(part, Hollow(memory))
        if inside:
            wrap(inside[-1], _Leaving(memory, entry.block))
        else:
            wrap(entry.block, _Entering(memory, entry.block))


@SITES.add
@dataclass(frozen=True)
class UNetEncoder(Site):
    """The way down of a U-Net and its middle: all skips and what enters the way up are remembered.

    While it is skipped only the way up runs, on old features, at the new time and with the conditioning of the new
    step. Residuals of ControlNets are added to the skips afterwards, and so act at every step.

    Source: Li et al. 2023 (Faster Diffusion), section 3.2.
    """

    name = "unet-encoder"
    search_space: ClassVar[Mapping[str, Any]] = {}
    within = ("deepcache",)

    def check(self, network: nn.Module) -> None:
        unet_units(network)
        if not isinstance(network.mid_block, nn.Module):
            raise UnsupportedModel(f"model: {type(network).__name__} has no mid_block; give a U-Net with one")

    def attach(self, network: Any, memory: Memory) -> None:
        wrap(network.conv_in, Standing(memory, "conv_in"))
        for i, block in enumerate(network.down_blocks):
            wrap(block, Standing(memory, f"down {i}", written=True))
        wrap(network.mid_block, Standing(memory, "mid", written=True))


DEEP = "deep"  # what enters the way up where it runs at every step


class Hollow:
    """In place of a deep module's forward: where no row is computed, stand-ins of the right shape come out.

    Block code goes on to join them with one another, so they have a single channel and take no memory; nothing reads
    what comes of that.

    memory: of the cache.
    written: give out a hidden state of its own with all its channels, because adapters write into it.
    key: of the tensor whose rows decide whether anything is computed.
    """

    def __init__(self, memory: Memory, written: bool = False, key: Hashable = DEEP) -> None:
        self.memory, self.written, self.key = memory, written, key
        self._outlines: dict[Any, Any] = {}  # of what comes out, by the shape of the states

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        memory = self.memory
        split = memory.split(self.key)
        if not split.none:
            result = memory.compute(split, inner, args, kwargs)
            self._outlines[memory.shape] = mapped(result, _outline)
            return result
        rows = len(split.forecast)
        outline = self._outlines[memory.shape]
        standing = mapped(outline, lambda x: x[:, :1].expand(rows, *x[:, :1].shape[1:]))
        if not self.written:
            return standing
        hidden = outline[0] if isinstance(outline, tuple) else outline
        hidden = hidden.new_empty(rows, *hidden.shape[1:])
        return (hidden, *standing[1:]) if isinstance(outline, tuple) else hidden


def _outline(x: Tensor) -> Tensor:
    """Zeros of the size of one row of x, (1, channels, height, width), that take no memory."""
    return x.new_zeros(()).expand(1, *x.shape[1:])


class _Entering:
    """In place of an up block's forward: its input is what is remembered, and recalled where it was not computed."""

    def __init__(self, memory: Memory, block: nn.Module) -> None:
        self.memory, self.block = memory, block

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        hidden, args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), args)
        return inner(_settled(self.memory, hidden, self.block), *args, **kwargs)


class _Leaving:
    """In place of the forward of the last deep part of a block that goes on: the same for its output."""

    def __init__(self, memory: Memory, block: nn.Module) -> None:
        self.memory, self.block = memory, block
        self.in_tuple = False

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        split, hidden = self.memory.split(DEEP), None
        if not split.none:
            result = self.memory.compute(split, inner, args, kwargs)
            self.in_tuple = isinstance(result, tuple)
            hidden = result[0] if self.in_tuple else result
        hidden = _settled(self.memory, hidden, self.block)
        return (hidden,) if self.in_tuple else hidden


def _settled(memory: Memory, hidden: Tensor | None, block: nn.Module) -> Tensor:
    """The deep tensor of all rows; a copy of its own for blocks that write into it, which those with FreeU do."""
    settled = memory.settle(DEEP, None if memory.split(DEEP).none else hidden)
    return settled.clone() if getattr(block, "b1", None) else settled
