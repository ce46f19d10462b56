"""Grids that were measured on a model: learnt here, or published as Align Your Steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError, one_of
from hasten.fit import Aim, integrate, solve
from hasten.grids.rules import GRIDS, Bent, Grid, GridLike, LogSNR, schedule, start
from hasten.processes import Array, Process

if TYPE_CHECKING:
    from hasten.denoisers import DenoiserLike
    from hasten.solvers import Solver

STARTS = [np.array([slope, 0.0, 0.0, rest]) for slope in (-0.5, 0.0, 0.5) for rest in (-2.0, 0.0)]  # as of `_bent`


@GRIDS.add
@dataclass(frozen=True)
class FittedGrid(Grid):
    """Times learnt for one model, solver and number of steps, for runs that end on data. Unfitted: LogSNR.

    at: the times, noisiest first, without the final 0. Another count of times than theirs is read off
    between them, linearly in lam.
    """

    at: tuple[float, ...] = ()
    name = "fitted"

    def times(self, process: Process, count: int) -> Array:
        if not self.at:
            return LogSNR().times(process, count)
        at = np.asarray(self.at, float)
        return at if count == len(at) else _resampled(at, process, count)

    @torch.no_grad()
    def fit(
        self, denoiser: DenoiserLike, solver: Solver, noises: Tensor, steps: int = 10, limit: GridLike = "karras",
        evaluations: int = 120, aim: Aim | None = None,
    ) -> FittedGrid:  # fmt: skip
        """The grid that brings `solver` nearest to the converged solution, with no more flips than on `limit`.

        noises: start states to learn on (use others to judge by), (rows, ...), at least 16, better 100.
        evaluations: how many grids are tried, each costing `steps` calls on the noises and on states beside
        watersheds (see `Aim`). They are `Bent`, so that no gap can open where no fitted noise would notice: times
        that are free one by one have lower errors still, but twice the flips.
        aim: what to come near to, found here if None. A denoiser that is bound to the rows of `noises` (each with
        its own prompt) cannot look beside watersheds: give it `Aim.at(noises, converged results)`.
        """
        from scipy.optimize import minimize

        process = denoiser.process
        if aim is None:
            fine = np.append(schedule("karras", process, 24)[:-1], 0.0)
            aim = Aim.of(lambda x: integrate(denoiser, x, fine, substeps=1)[-1], noises)
        allowed = aim.judge(lambda x: solve(solver, denoiser, schedule(limit, process, steps), x))[1]

        def loss(shape: Array) -> float:
            times = np.append(_bent(shape).times(process, steps), 0.0)
            if not (np.diff(times) < 0).all():
                return 1e3
            return aim.loss(lambda x: solve(solver, denoiser, times, x), allowed)

        options = {"maxfev": evaluations - len(STARTS), "initial_tr_radius": 0.5}
        found = minimize(loss, min(STARTS, key=loss), method="COBYQA", options=options)
        return FittedGrid(tuple(_bent(found.x).times(process, steps).tolist()))


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

    model: "sd15", "sdxl" or "svd" (needs a process whose sigma / alpha goes beyond 54.5). Another count than
    ten is read off linearly in lam. Source: Sabour et al. 2024, published tables.
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


def _bent(shape: Array) -> Bent:
    """shape: slope, curve, twist, and the log of the rest."""
    with np.errstate(over="ignore"):
        return Bent(*shape[:-1].tolist(), rest=float(np.exp(shape[-1])))


def _resampled(times: Array, process: Process, count: int) -> Array:
    """`count` times with the same ends, linear in lam over the index (the first where lam is finite)."""
    lam = np.append(start(process, times[0]), process.lam(times[1:]))
    where = np.linspace(0, len(lam) - 1, count)
    result = process.time(np.interp(where, np.arange(len(lam)), lam))
    result[0] = times[0]
    return result
