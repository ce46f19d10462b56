"""Where in a network a cache sits. Sites are found by what a model is made of, not by what its classes are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from hasten.acceleration import wrap
from hasten.caches.memory import Memory
from hasten.errors import UnsupportedModel


class Site(Protocol):
    """A part of a network, and the tensors that stand in for it."""

    def check(self, network: nn.Module) -> None:
        """Raise UnsupportedModel, saying what is missing, if the network has no such part."""
        ...

    def attach(self, network: nn.Module, memory: Memory) -> None:
        """Make the view `network` ask the memory whether the part is skipped, and give it what to remember."""
        ...


@dataclass(frozen=True)
class UNetDeep(Site):
    """Everything of a U-Net that is deeper than unit `branch` of its ways down and up.

    Units are d_0 (the input convolution), d_1, ... on the way down, and their mirror images u_0 (the last
    one), u_1, ... on the way up: u_j takes the skip that d_j leaves. What is remembered is the tensor that
    enters u_branch. While it is skipped, d_0 .. d_branch, u_branch .. u_0 and the output head run afresh.
    """

    branch: int

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
            wrap(block, _Hollow(memory, written=True))
        for block in {unit.block for unit in deep_up} - running:
            wrap(block, _Hollow(memory))
        if isinstance(network.mid_block, nn.Module):
            wrap(network.mid_block, _Hollow(memory))
        for unit in deep_down:
            if unit.block in running:
                for part in unit.parts:
                    wrap(part, _Hollow(memory, written=unit.ends_block))
        entry = up[self.branch]
        inside = [part for unit in reversed(deep_up) if unit.block is entry.block for part in unit.parts]
        for part in inside[:-1]:
            wrap(part, _Hollow(memory))
        if inside:
            wrap(inside[-1], _Leaving(memory, entry.block))
        else:
            wrap(entry.block, _Entering(memory, entry.block))


@dataclass(frozen=True)
class Unit:
    """What leaves one skip on a U-Net's way down, or takes one on its way up: modules in the order they run."""

    block: nn.Module
    parts: tuple[nn.Module, ...]
    ends_block: bool = False


def unet_units(network: Any) -> tuple[list[Unit], list[Unit]]:
    """The units d_0, d_1, ... of the way down, and their mirror images u_0, u_1, ... of the way up.

    Raises UnsupportedModel for networks that are no U-Nets, or whose ways do not mirror each other.
    """

    def refuse(what: str) -> UnsupportedModel:
        return UnsupportedModel(
            f"model: {type(network).__name__} {what}; give a U-Net whose way up takes one skip "
            "for each residual block, such as UNet2DConditionModel"
        )

    for name in ("conv_in", "down_blocks", "mid_block", "up_blocks"):
        if not hasattr(network, name):
            raise refuse(f"has no {name}")

    def units(block: Any) -> list[Unit]:
        for name in block._modules:
            if name not in ("resnets", "attentions", "downsamplers", "upsamplers"):
                raise refuse(f"has {name} in its {type(block).__name__}")
        resnets, attentions = list(getattr(block, "resnets", ())), list(getattr(block, "attentions", ()))
        if len(attentions) not in (0, len(resnets)):
            raise refuse(f"has {len(resnets)} resnets and {len(attentions)} attentions in a {type(block).__name__}")
        parts = list(zip(resnets, attentions)) if attentions else [(resnet,) for resnet in resnets]
        if getattr(block, "downsamplers", None):
            parts.append(tuple(block.downsamplers))
        return [Unit(block, p, ends_block=p is parts[-1]) for p in parts]

    down = [Unit(network.conv_in, (network.conv_in,)), *(u for block in network.down_blocks for u in units(block))]
    up = [u for block in network.up_blocks for u in units(block)][::-1]
    if len(down) != len(up):
        raise refuse(f"leaves {len(down)} skips and takes {len(up)}")
    return down, up


class _Hollow:
    """In place of a module's forward: on cached steps, stand-ins of the right shape come out at no cost.

    Block code goes on to join them with one another, so they have a single channel; nothing reads what comes
    of that. Where adapters write into the hidden state, it is a tensor of its own with all its channels.
    """

    def __init__(self, memory: Memory, written: bool = False) -> None:
        self.memory, self.written = memory, written
        self.hidden: Tensor
        self.skips: tuple[tuple[Tensor, ...], ...] | None  # None where no tuple comes out

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self.memory.skips:
            result = inner(*args, **kwargs)
            hidden, *skips = result if isinstance(result, tuple) else (result,)
            self.hidden = _outline(hidden, hidden.shape[1] if self.written else 1)
            self.skips = tuple(tuple(map(_outline, some)) for some in skips) if isinstance(result, tuple) else None
            return result
        fitted = self.memory.fitted
        hidden = fitted(self.hidden)
        if self.written:
            hidden = hidden.new_empty(hidden.shape)
        return hidden if self.skips is None else (hidden, *(tuple(map(fitted, some)) for some in self.skips))


def _outline(x: Tensor, channels: int = 1) -> Tensor:
    """Zeros of the size of x, (rows, channels, height, width), that take no memory."""
    return x.new_zeros(()).expand(len(x), channels, *x.shape[2:])


class _Entering:
    """In place of an up block's forward: its input is remembered on full steps, and recalled on cached ones."""

    def __init__(self, memory: Memory, block: nn.Module) -> None:
        self.memory, self.block = memory, block

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        hidden, args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), args)
        if self.memory.skips:
            hidden = _apart(self.memory.recall("deep"), self.block)
        else:
            self.memory.remember("deep", _apart(hidden, self.block))
        return inner(hidden, *args, **kwargs)


class _Leaving:
    """In place of the forward of the last deep part of a block that goes on: the same for its output."""

    def __init__(self, memory: Memory, block: nn.Module) -> None:
        self.memory, self.block = memory, block
        self.in_tuple = False

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.memory.skips:
            hidden = _apart(self.memory.recall("deep"), self.block)
            return (hidden,) if self.in_tuple else hidden
        result = inner(*args, **kwargs)
        self.in_tuple = isinstance(result, tuple)
        self.memory.remember("deep", _apart(result[0] if self.in_tuple else result, self.block))
        return result


def _apart(hidden: Tensor, block: nn.Module) -> Tensor:
    """A copy of its own for blocks that write into their hidden state, which those with FreeU do."""
    return hidden.clone() if getattr(block, "b1", None) else hidden
