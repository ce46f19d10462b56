"""Feature inheritance: a table of pieces of the network and steps says what is computed and what is inherited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from hasten.caching.cache import CACHES, Cache, Rule
from hasten.caching.gates import Every, Gate, Masked, Within
from hasten.caching.pieces import Pieces
from hasten.core.errors import HastenError, one_of, positive_int, unit_interval
from hasten.core.frozen import set_fields
from hasten.core.registry import Paper, Span

STORAGES = ("residual", "absolute")
MODES = ("uniform", "front", "back", "ends", "mask")


@CACHES.add
@dataclass(frozen=True)
class FeatureInheritance(Cache):
    """Pieces of the network inherit their features from the latest computed step, by a table of pieces and steps.

    DeepCache is {all layers deeper than a branch, absolute}; Faster Diffusion is {in, down *, mid, absolute}.

    pieces: which pieces, as `pieces.Pieces` names them.
    granularity: of the names: "block", "layer" or "unit".
    storage: "residual", what a piece adds, where its input has the shape of its output; or "absolute", its output.
    mode: the steps at which the pieces are computed. "uniform": every `interval`-th. "front", "back" or "ends": all in
        the first, last, or first and last `share` of the run, and every interval-th of the others. "mask": where
        `mask` is true.
    interval: every so many steps, at least 1.
    share: of the run, 0 to 1, for the modes "front", "back" and "ends".
    mask: for the mode "mask", stretched over the run.
    last: compute the last step in any case, unless a mask says otherwise; the first always is.
    policy: the rows of a table, each a mapping of the fields above, which then count instead of these. A piece may be
        in one row only.

    Source: Zhang et al. 2024, which names the granularities; the lists of units and modes are ours.
    """

    pieces: tuple[str, ...] = ("*self-attention",)
    granularity: str = "unit"
    storage: str = "residual"
    mode: str = "uniform"
    interval: int = 2
    share: float = 0.3
    mask: tuple[bool, ...] = ()
    last: bool = True
    policy: tuple[Any, ...] = ()

    name = "feature-inheritance"
    search_space: ClassVar[Mapping[str, Any]] = {"interval": Span(2, 4)}
    paper = Paper(
        "A-SDM: Accelerating Stable Diffusion through Model Assembly and Feature Inheritance Strategies",
        2024,
        "2406.00210",
    )
    after = (*Pieces.within, "cache")  # a "cache" may be of the deep part as well
    off: ClassVar[Mapping[str, Any]] = {"mode": "mask", "mask": (True,)}

    def __post_init__(self) -> None:
        one_of("storage", self.storage, STORAGES)
        one_of("mode", self.mode, MODES)
        positive_int("interval", self.interval)
        unit_interval("share", self.share)
        set_fields(self, pieces=self.site.pieces)
        set_fields(self, mask=tuple(map(bool, self.mask)))
        set_fields(self, policy=tuple(map(self._row, self.policy)))
        _ = self.gate

    def _row(self, row: Any) -> FeatureInheritance:
        if isinstance(row, FeatureInheritance) and not row.policy:
            return row
        if not isinstance(row, Mapping) or "pieces" not in row or row.get("policy"):
            raise HastenError(f"policy: {row!r} is not a row; give an object such as {{'pieces': ['mid']}}")
        return CACHES.build({"name": self.name} | dict(row))  # type: ignore[return-value]

    @property
    def site(self) -> Pieces:
        """The pieces."""
        return Pieces(self.pieces, self.granularity, self.storage == "residual")

    @property
    def gate(self) -> Gate:
        """At which steps they are computed."""
        if self.mode == "mask":
            return Masked(self.mask)
        every, share = Every(self.interval, tail=int(self.last)), min(self.share, 0.5 if self.mode == "ends" else 1.0)
        start = share if self.mode in ("front", "ends") else 0.0
        stop = 1 - share if self.mode in ("back", "ends") else 1.0
        return every if self.mode == "uniform" else Within(every, start, stop)

    def rules(self, network: nn.Module) -> Sequence[Rule]:
        rows = self.policy or (self,)
        names = [(row.granularity, name) for row in rows for name in row.site.inside(network)]
        for granularity, name in names:
            if names.count((granularity, name)) > 1:
                raise HastenError(f"policy: {granularity} {name!r} is in two rows; leave it in one")
        return [Rule(row.site, row.gate) for row in rows]
