"""Sites in the attention and MLP units of any network."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from hasten.caching.memory import Memory
from hasten.caching.sites import SITES, Site, Standing
from hasten.core.errors import UnsupportedModel, one_of
from hasten.runtime.anatomy import is_attention
from hasten.runtime.rows import mapped
from hasten.runtime.view import wrap

UNITS = ("attention", "self-attention", "cross-attention", "mlp", "all")


class Joined(NamedTuple):
    """An attention and an MLP side by side, whose outputs one projection joins: together one unit.

    feeding: the attention and the first layer of the MLP.
    projection: what joins them; the unit is known by it.
    """

    feeding: tuple[nn.Module, ...]
    projection: nn.Module


@SITES.add
@dataclass(frozen=True)
class Units(Site):
    """All units of one kind, each a piece of its own. Their outputs are remembered; gates and residual adds are fresh.

    kind: "attention" (all of it), "self-attention", "cross-attention", "mlp", or "all": attention and MLP, and where a
        block joins the two in one projection, the output of that.
    first: which of the places with units, in order, is the first that is taken.
    last: the place after the last that is taken; None is the end.
    """

    kind: str = "attention"
    first: int = 0
    last: int | None = None

    name = "units"

    def __post_init__(self) -> None:
        one_of("kind", self.kind, UNITS)

    def inside(self, network: nn.Module) -> list[nn.Module | Joined]:
        """The units, in the order of the model.

        Raises UnsupportedModel if there are none.
        """
        hosts = hosts_of(network)
        if not hosts:
            raise UnsupportedModel(f"model: {type(network).__name__} has no attention units; give one that does")
        units = [unit for host in hosts[self.first : self.last] for unit in units_of(host, self.kind)]
        if not units:
            raise UnsupportedModel(
                f"kind: {type(network).__name__} has no {self.kind} units from {self.first} to {self.last}; "
                f"choose one of: {', '.join(kind for kind in UNITS if kind != self.kind)}"
            )
        return units

    def check(self, network: nn.Module) -> None:
        self.inside(network)

    def attach(self, network: nn.Module, memory: Memory) -> None:
        for i, unit in enumerate(self.inside(network)):
            stand(unit, memory, (self.kind, i))


def stand(unit: nn.Module | Joined, memory: Memory, key: Hashable) -> None:
    """Let the memory decide over a unit.

    unit: of a view, which is changed.
    memory: of the cache.
    key: under which its tensors are remembered.
    """
    if isinstance(unit, Joined):
        for part in unit.feeding:
            wrap(part, _Silent(memory, key))
    wrap(unit.projection if isinstance(unit, Joined) else unit, Standing(memory, key))


def hosts_of(module: nn.Module) -> list[nn.Module]:
    """The places where units are found: modules that have attention among their children."""
    return [host for host in module.modules() if any(map(is_attention, host.children()))]


def units_of(host: nn.Module, kind: str) -> list[nn.Module | Joined]:
    """The units of one kind that are children of a block.

    host: the block, as of `hosts_of`.
    kind: one of `UNITS`.
    """
    attention = [part for part in host.children() if is_attention(part)]
    if kind == "attention":
        return [*attention]
    if kind in ("self-attention", "cross-attention"):
        crosses = kind == "cross-attention"
        return [part for part in attention if bool(getattr(part, "is_cross_attention", False)) == crosses]
    mlps = [part for name, part in host.named_children() if part not in attention and _is_mlp(name, part)]
    if kind == "mlp":
        return [*mlps]
    joined = _joined(host, attention)
    return [joined] if joined else [*attention, *mlps]


def _is_mlp(name: str, part: nn.Module) -> bool:
    weights = [m for m in part.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    return len(weights) >= 2 and not name.startswith("norm")


def _joined(host: nn.Module, attention: list[nn.Module]) -> Joined | None:
    """An attention beside a linear layer, if another linear layer takes the outputs of both together."""
    linear = [part for part in host.children() if isinstance(part, nn.Linear)]
    width = getattr(getattr(attention[0], "to_q", None), "out_features", None) if len(attention) == 1 else None
    for into in linear:
        for out in linear:
            if width and out.in_features == width + into.out_features and out.out_features == into.in_features:
                return Joined((attention[0], into), out)
    return None


class _Silent:
    """In place of what feeds a joined unit: where no row is computed, zeros of a single channel come out.

    The block joins and activates them, which is next to no work, and nothing reads what comes of that.
    """

    def __init__(self, memory: Memory, key: Hashable) -> None:
        self.memory, self.key = memory, key
        self._outlines: dict[Any, Any] = {}  # of what comes out, by the shape of the states

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        memory = self.memory
        split = memory.split((self.key, 0))
        if split.none:
            rows = len(split.forecast)
            return mapped(self._outlines[memory.shape], lambda x: x.expand(rows, *x.shape[1:]))
        result = memory.compute(split, inner, args, kwargs)
        self._outlines[memory.shape] = mapped(result, _outline)
        return result


def _outline(x: Tensor) -> Tensor:
    """A single channel of zeros for one row of x, (1, ..., 1), that takes no memory."""
    return x.new_zeros(()).expand(1, *x.shape[1:-1], 1)
