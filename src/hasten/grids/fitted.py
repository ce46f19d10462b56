"""Grids that were measured on a model: learnt (by `hasten.fit.grid`), or published as Align Your Steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hasten.core.errors import HastenError, one_of
from hasten.grids.base import GRIDS, Grid, start
from hasten.grids.rules import LogSNR
from hasten.processes import Array, Process


@GRIDS.add
@dataclass(frozen=True)
class FittedGrid(Grid):
    """Times learnt for one model, solver and number of steps, for runs that end on data. Unfitted: LogSNR.

    Fitted by `fit`, see `hasten.fit.grid`.

    at: the times, noisiest first, without the final 0. Another count of times than theirs is read off
        between them, linearly in lam.
    """

    at: tuple[float, ...] = ()
    name = "fitted"

    @property
    def needs_fit(self) -> bool:
        return not self.at

    def times(self, process: Process, count: int) -> Array:
        if not self.at:
            return LogSNR().times(process, count)
        at = np.asarray(self.at, float)
        return at if count == len(at) else _resampled(at, process, count)


# sigma / alpha of the ten published times of each model
_ALIGNED = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034),
}


@GRIDS.add
@dataclass(frozen=True)
class AlignYourSteps(Grid):
    """The published times of Align Your Steps, at the same noise levels on any process; the first is t_max.

    Another count than ten is read off between them, linearly in lam.

    model: "sd15", "sdxl" or "svd" (needs a process whose sigma / alpha goes beyond 54.5).

    Source: Sabour et al. 2024, published tables.
    """

    model: str = "sd15"
    name = "ays"

    def __post_init__(self) -> None:
        one_of("model", self.model, _ALIGNED)

    def times(self, process: Process, count: int) -> Array:
        lam = -np.log(_ALIGNED[self.model])
        if lam[1] <= process.lam(process.t_max):
            raise HastenError(f"model: the times of {self.model!r} begin at more noise than this process has")
        return _resampled(np.append(process.t_max, process.time(lam[1:])), process, count)


def _resampled(times: Array, process: Process, count: int) -> Array:
    """`count` times with the same ends, linear in lam over the index (the first where lam is finite)."""
    lam = np.append(start(process, times[0]), process.lam(times[1:]))
    where = np.linspace(0, len(lam) - 1, count)
    result = process.time(np.interp(where, np.arange(len(lam)), lam))
    result[0] = times[0]
    return result
