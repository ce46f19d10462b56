"""UniPC: a predictor, and a corrector that costs no further query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hasten.core.errors import one_of
from hasten.core.registry import Paper
from hasten.solvers.base import SOLVERS
from hasten.solvers.exponential import Exponential


@SOLVERS.add
@dataclass(frozen=True)
class UniPC(Exponential):
    """UniPC: a predictor of order p, and a corrector of order p + 1 that re-uses the next step's query.

    order: p, 1 to 3 (2 for guided, 3 for unconditional sampling).
    variant: "bh2" or "bh1", which differ only where the paper takes 1/2 instead of solving (predictor of order 2,
        corrector of order 1); "exact" solves there too.
    corrector: False leaves the predictor UniP.
    expand: "data" or "noise".
    lower_order_final: end with lower orders.

    Source: Zhao et al. 2023, algorithms 1 and 2, eq. (3) and (9).
    """

    order: int = 2
    variant: str = "bh2"
    corrector: bool = True
    expand: str = "data"
    lower_order_final: bool = True
    name = "unipc"
    paper = Paper("UniPC: A Unified Predictor-Corrector Framework", 2023, "2302.04867")
    search_space: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"order": 1}, {"order": 2}, {"order": 3}, {"order": 2, "variant": "bh1"}, {"order": 3, "variant": "bh1"},
        {"order": 2, "corrector": False}, {"order": 3, "corrector": False},
    )  # fmt: skip

    def __post_init__(self) -> None:
        one_of("order", self.order, (1, 2, 3))
        one_of("variant", self.variant, ("bh1", "bh2", "exact"))
        one_of("expand", self.expand, ("data", "noise"))

    @property
    def convergence(self) -> int:
        return self.order + self.corrector

    @property
    def bend(self) -> str:
        return {"bh1": "linear", "bh2": "midpoint", "exact": "exact"}[self.variant]
