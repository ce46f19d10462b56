"""Gates that look into the running call: a row is computed when what their indicator sees has moved far enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hasten.caching.gates import GATES, Gate
from hasten.caching.history import History
from hasten.caching.indicators import INDICATORS
from hasten.core.errors import HastenError
from hasten.core.frozen import set_fields
from hasten.runtime.run import Run


class Online(Gate):
    """A gate with an indicator, which may decide freely except at the ends of the run and after many skips.

    threshold: on what the indicator measures, at least 0, which is off.
    warmup: how many first steps are computed; one is in any case.
    tail: how many last steps are computed.
    most: how many steps in a row may be skipped; None is no limit.
    """

    threshold: float
    warmup: int
    tail: int
    most: int | None

    def __post_init__(self) -> None:
        set_fields(self, indicator=INDICATORS.build(self.indicator))  # type: ignore[arg-type]
        if not self.threshold >= 0:
            raise HastenError(f"threshold: {self.threshold!r} is not possible; give a number of at least 0 (0 is off)")

    def forced(self, run: Run, history: History, score: float | None) -> bool:
        """Whether the row is computed whatever was seen.

        run: the request.
        history: of the row.
        score: what the indicator measured, or None.
        """
        unseen = score is None or not math.isfinite(score)
        edge = run.step < max(1, self.warmup) or run.step >= run.steps - self.tail
        return unseen or edge or (self.most is not None and history.skipped >= self.most)


@GATES.add
@dataclass(frozen=True)
class Moved(Online):
    """Computed unless what the indicator sees is nearer than `threshold` to what it saw when the row was last computed.

    threshold: relative L1 distance, at least 0, which is off.
    indicator: where it looks: a name, an object with a name and fields, or an instance.
    warmup: how many first steps are computed; one is in any case.
    tail: how many last steps are computed.
    most: how many steps in a row may be skipped; None is no limit.
    inclusive: skip at exactly the threshold too.

    Source: the first-block cache of ParaAttention and diffusers, and DBCache of cache-dit.
    """

    threshold: float = 0.08
    indicator: Any = "added"
    warmup: int = 1
    tail: int = 0
    most: int | None = None
    inclusive: bool = False

    name = "moved"

    def decide(self, run: Run, histories: Sequence[History], scores: Sequence[float | None]) -> Sequence[bool]:
        return [
            self.forced(run, history, score) or not self._near(score)  # type: ignore[arg-type]
            for history, score in zip(histories, scores)
        ]

    def _near(self, score: float) -> bool:
        return score < self.threshold or (self.inclusive and score == self.threshold)


@GATES.add
@dataclass(frozen=True)
class Accumulated(Online):
    """Computed when what the indicator sees has moved by `threshold` in all, summed from step to step.

    threshold: of the sum of relative L1 distances, at least 0, which is off.
    indicator: where it looks: a name, an object with a name and fields, or an instance.
    coefficients: of a polynomial, highest power first, that estimates the change of the output from the change that is
        seen; estimates below 0 count as 0.
    warmup: how many first steps are computed; one is in any case.
    tail: how many last steps are computed.
    most: how many steps in a row may be skipped; None is no limit.

    Source: Liu et al. 2024 (TeaCache), eq. (7).
    """

    threshold: float = 0.1
    indicator: Any = "modulated"
    coefficients: tuple[float, ...] = (1.0, 0.0)
    warmup: int = 1
    tail: int = 1
    most: int | None = None

    name = "accumulated"
    follows = True

    def decide(self, run: Run, histories: Sequence[History], scores: Sequence[float | None]) -> Sequence[bool]:
        return [self._opens(run, history, score) for history, score in zip(histories, scores)]

    def _opens(self, run: Run, history: History, score: float | None) -> bool:
        if not self.forced(run, history, score) and score is not None:
            total = history.notes.get(self.name, 0.0) + max(0.0, float(np.polyval(self.coefficients, score)))
            history.notes[self.name] = total
            if total < self.threshold:
                return False
        history.notes[self.name] = 0.0
        return True
