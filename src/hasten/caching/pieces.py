"""The pieces of a network by name: blocks, layers and units of U-Nets and transformers, each with what it emits."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hasten.caching.blocks import Blocks
from hasten.caching.memory import Memory
from hasten.caching.sites import SITES, Site, Standing
from hasten.caching.unet import Hollow
from hasten.caching.units import hosts_of, stand, units_of
from hasten.core.errors import UnsupportedModel, one_of
from hasten.core.frozen import set_fields
from hasten.runtime.anatomy import batch_of, blocks_of, unet_units
from hasten.runtime.view import wrap

GRANULARITIES = ("block", "layer", "unit")
KINDS = ("self-attention", "cross-attention", "mlp")

Attach = Callable[[Memory, Hashable, bool], None]
"""(memory, key, residual): let the memory decide over a piece."""


@SITES.add
@dataclass(frozen=True)
class Pieces(Site):
    """Pieces of a network that share a gate, each remembered with all that it emits, the skips of a U-Net included.

    The pieces of a U-Net are called, by granularity:

    - "block": "in" (the input convolution), "down 0", ..., "mid", "up 0", ..., as they run;
    - "layer": "d0" (the input convolution), "d1", ..., "mid", and "u0" (the last), "u1", ...: each what leaves or
      takes one skip, a residual block with its attention, or a downsampler; with an upsampler that follows;
    - "unit": a layer's name and "resnet", "self-attention", "cross-attention" or "mlp": "u3 mlp".

    Those of a transformer are "block 0", ... (blocks are layers there), and units "block 0 mlp", ...

    pieces: their names, where * and ? stand for any characters.
    granularity: "block", "layer" or "unit".
    residual: remember what a piece adds to its input and add that to the input of now, where input and output have one
        shape; else, and with False, remember its output. Attention and MLP units emit what they add already.
    """

    pieces: tuple[str, ...] = ("*",)
    granularity: str = "block"
    residual: bool = True

    name = "pieces"
    within = ("deepcache",)

    def __post_init__(self) -> None:
        one_of("granularity", self.granularity, GRANULARITIES)
        set_fields(self, pieces=(self.pieces,) if isinstance(self.pieces, str) else tuple(self.pieces))

    def inside(self, network: nn.Module) -> Mapping[str, Attach]:
        """The pieces by name, in the order of the model.

        Raises UnsupportedModel for a name that no piece has.
        """
        known = pieces_of(network, self.granularity)
        for pattern in self.pieces:
            if not fnmatch.filter(known, pattern):
                raise UnsupportedModel(
                    f"pieces: {type(network).__name__} has no {self.granularity} {pattern!r}; give names out of: "
                    f"{', '.join(known)}"
                )
        return {name: piece for name, piece in known.items() if any(fnmatch.fnmatchcase(name, p) for p in self.pieces)}

    def check(self, network: nn.Module) -> None:
        self.inside(network)

    def attach(self, network: nn.Module, memory: Memory) -> None:
        for name, piece in self.inside(network).items():
            piece(memory, name, self.residual)


def pieces_of(network: Any, granularity: str) -> dict[str, Attach]:
    """All pieces of a network, by name.

    network: a U-Net or a transformer.
    granularity: "block", "layer" or "unit".

    Raises UnsupportedModel for networks that are neither.
    """
    if not hasattr(network, "up_blocks"):
        blocks = blocks_of(network)
        if granularity == "unit":
            return {f"block {i} {kind}": p for i, b in enumerate(blocks) for kind, p in _units(b).items()}
        return {f"block {i}": functools.partial(_block, network, i) for i in range(len(blocks))}
    layers = _layers(network)
    if granularity == "block":
        named = {"in": network.conv_in}
        named |= {f"down {i}": block for i, block in enumerate(network.down_blocks)} | {"mid": network.mid_block}
        named |= {f"up {i}": block for i, block in enumerate(network.up_blocks)}
        return {name: functools.partial(_chain, (block,)) for name, block in named.items() if block is not None}
    if granularity == "layer":
        return {name: functools.partial(_chain, parts) for name, parts in layers.items()}
    pieces: dict[str, Attach] = {}
    for name, parts in layers.items():
        parts = (*parts[0].resnets, *parts[0].attentions) if name == "mid" else parts
        resnets = [part for part in parts if hasattr(part, "conv1")]
        if resnets:
            pieces[f"{name} resnet"] = functools.partial(_each, [functools.partial(_chain, (r,)) for r in resnets])
        pieces |= {f"{name} {kind}": piece for kind, piece in _units(*parts).items()}
    return pieces


def _layers(network: Any) -> dict[str, tuple[Any, ...]]:
    """The layers of a U-Net: for each, the modules that run one after the other."""
    down, up = unet_units(network)
    layers: dict[str, tuple[Any, ...]] = {f"d{i}": unit.parts for i, unit in enumerate(down)}
    if network.mid_block is not None:
        layers["mid"] = (network.mid_block,)
    for i, unit in reversed([*enumerate(up)]):
        after: Any = getattr(unit.block, "upsamplers", None) if unit.ends_block else None
        layers[f"u{i}"] = (*unit.parts, *(after or ()))
    return layers


def _units(*modules: nn.Module) -> dict[str, Attach]:
    """The attention and MLP units inside of these modules, by kind; those of one kind are one piece."""
    hosts = [host for module in modules for host in hosts_of(module)]
    by_kind = {kind: [unit for host in hosts for unit in units_of(host, kind)] for kind in KINDS}

    def attach(units: list[Any], memory: Memory, key: Hashable, _: bool) -> None:
        for i, unit in enumerate(units):
            stand(unit, memory, (key, i))

    return {kind: functools.partial(attach, units) for kind, units in by_kind.items() if units}


def _block(network: nn.Module, index: int, memory: Memory, _: Hashable, residual: bool) -> None:
    Blocks(index, index + 1, residual).attach(network, memory)


def _each(pieces: list[Attach], memory: Memory, key: Hashable, residual: bool) -> None:
    for i, piece in enumerate(pieces):
        piece(memory, (key, i), residual)


def _chain(parts: tuple[nn.Module, ...], memory: Memory, key: Hashable, residual: bool) -> None:
    """Modules that run one after the other: what leaves the last is remembered, on top of what enters the first."""
    entered: list[Tensor] = []
    standing = Standing(memory, key, written=True)
    enters = batch_of(parts[0])

    def first(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        entered[:] = [enters(args, kwargs)]
        return inner(*args, **kwargs)

    def last(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return standing.stand(entered.pop() if residual else None, inner, args, kwargs)

    if residual:
        wrap(parts[0], first)
    for part in parts[:-1]:
        wrap(part, Hollow(memory, key=(key, 0)))
    wrap(parts[-1], last)
