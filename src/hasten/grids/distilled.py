"""Where distilled models are asked: some of the few levels that they were distilled at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hasten.core.errors import HastenError, positive_int, positive_share
from hasten.grids.base import GRIDS, Grid
from hasten.grids.rules import Karras
from hasten.processes import Array, Process
from hasten.processes.trig import QUARTER_TURN


@GRIDS.add
@dataclass(frozen=True)
class LatentConsistency(Grid):
    """Of `of` even training levels, every so many, from the noisiest: what LCM and TCD were distilled at.

    With N training steps the levels are k, 2k, ... for k = N // of; on continuous processes, those of "trailing".

    of: how many levels, at least 1; the most steps that a run can have.
    strength: only the cleanest share of them, above 0 up to 1: image to image.

    Raises HastenError for more times than levels.
    Source: Luo et al. 2023, section 4.3.
    """

    of: int = 50
    strength: float = 1.0
    name = "lcm"

    def __post_init__(self) -> None:
        positive_int("of", self.of)
        positive_share("strength", self.strength)

    def times(self, process: Process, count: int) -> Array:
        levels = int(self.of * self.strength)
        _at_most(levels, count)
        chosen = levels - np.floor(np.linspace(0, levels, count, endpoint=False))
        if not process.discrete:
            return process.t_max * chosen / self.of
        total = round(process.t_max)
        if self.of > total:
            raise HastenError(f"of: {self.of} is more than the {total} training steps of this process")
        return float(total // self.of) * chosen


@GRIDS.add
@dataclass(frozen=True)
class ConsistencyLevels(Grid):
    """The first of every `of // steps` of `of` Karras levels: where consistency models are asked.

    of: how many levels the model was trained at, at least 1; the most steps that a run can have.
    rho: of the levels, see `Karras`.

    Raises HastenError for more times than levels.
    Source: Song et al. 2023, section 5 and appendix C; their code for multistep sampling.
    """

    of: int = 40
    rho: float = 7.0
    name = "consistency"

    def __post_init__(self) -> None:
        positive_int("of", self.of)

    def times(self, process: Process, count: int) -> Array:
        _at_most(self.of, count)
        return Karras(self.rho).times(process, self.of)[:: self.of // count][:count]


@GRIDS.add
@dataclass(frozen=True)
class SanaSprint(Grid):
    """Even in time from t_max to 0; of two times, the second where Sana-Sprint was found to be best.

    middle: the second of two times, as an angle of which 1.5708 is t_max; None for an even gap.

    Source: Chen et al. 2025 (Sana-Sprint), the pipeline's defaults.
    """

    middle: float | None = 1.3
    name = "scm"

    def __post_init__(self) -> None:
        if self.middle is not None and not 0 < self.middle < QUARTER_TURN:
            raise HastenError(f"middle: {self.middle} is not possible; give an angle between 0 and {QUARTER_TURN}")

    def times(self, process: Process, count: int) -> Array:
        if count == 2 and self.middle is not None:
            return process.t_max * np.array([1.0, self.middle / QUARTER_TURN])
        return process.t_max * np.arange(count, 0, -1) / count


def _at_most(levels: int, count: int) -> None:
    if count > levels:
        raise HastenError(f"steps: {count} times are more than the {levels} levels of this grid")
