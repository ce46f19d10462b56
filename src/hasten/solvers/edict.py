"""EDICT: two coupled copies of a state, so that each step can be undone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hasten.core.errors import positive_share
from hasten.core.registry import Paper
from hasten.predictions import combine
from hasten.solvers.base import SOLVERS
from hasten.solvers.reversible import Reversible, Stepping, Timeline, Two


@SOLVERS.add
@dataclass(frozen=True)
class EDICT(Reversible):
    """Two copies, each moved by a DDIM step that asks the network about the other, then mixed; exactly invertible.

    Which copy moves first alternates. First order, with both queries of a step at the time it starts from: a tool for
    inversion, not a fast sampler. The copies' difference grows by mixing^-2 a step inverted.

    mixing: the share of itself that a copy keeps (the paper's p), above 0 up to 1; 0.9 to 0.97 for 50 steps. 1 is no
        mixing, unstable at few steps.

    Source: Wallace et al. 2022, the coupled steps with mixing layers; the alternation is in the official code.
    """

    mixing: float = 0.93
    name = "edict"
    evaluations = 2
    warning = "made for inversion: two calls a step at first order, poor at few steps, worst under guidance"
    paper = Paper("EDICT: Exact Diffusion Inversion via Coupled Transformations", 2022, "2211.12446")
    search_space: ClassVar[Sequence[Mapping[str, Any]]] = ()  # made for inversion

    def __post_init__(self) -> None:
        positive_share("mixing", self.mixing)

    def growth(self, steps: int) -> float:
        return self.mixing ** (-2 * steps)

    def step(self, run: Timeline, i: int, pair: Two) -> Stepping:
        one, other = pair if i % 2 == 0 else pair[::-1]
        p = yield run.query(other, i, i)
        one, other = run.euler(one, run.value(p), i, i + 1), p.x
        p = yield run.query(one, i, i, 1)
        one, other = p.x, run.euler(other, run.value(p), i, i + 1)
        x, y = (one, other) if i % 2 == 0 else (other, one)
        x = combine(x, self.mixing, y, 1 - self.mixing)
        return x, combine(y, self.mixing, x, 1 - self.mixing)

    def inverse_step(self, run: Timeline, i: int, pair: Two) -> Stepping:
        x, y = pair
        y = combine(y, 1 / self.mixing, x, 1 - 1 / self.mixing)
        x = combine(x, 1 / self.mixing, y, 1 - 1 / self.mixing)
        one, other = (x, y) if i % 2 == 0 else (y, x)
        p = yield run.query(one, i, i)
        other = run.euler(other, run.value(p), i + 1, i)
        p = yield run.query(other, i, i, 1)
        one = run.euler(one, run.value(p), i + 1, i)
        return (one, other) if i % 2 == 0 else (other, one)
