"""FittedGrid: times searched for one model, solver and number of steps."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hasten.core.fitters import fitters
from hasten.denoisers import DenoiserLike
from hasten.fit.aim import BROKEN, Aim
from hasten.fit.runs import solve
from hasten.grids import Bent, FittedGrid, GridLike, schedule
from hasten.processes import Array
from hasten.solvers import Solver

SLOPES, RESTS = (-0.5, 0.0, 0.5), (-2.0, 0.0)
STARTS = [np.array([slope, 0.0, 0.0, rest]) for slope in SLOPES for rest in RESTS]  # shapes, see `bent`
RADIUS = 0.5  # of the first trust region around the best of them


@fitters.of(FittedGrid)
@torch.no_grad()
def fit(
    grid: FittedGrid, denoiser: DenoiserLike, solver: Solver, noises: Tensor, steps: int = 10,
    limit: GridLike = "karras", evaluations: int = 120, aim: Aim | None = None,
) -> FittedGrid:  # fmt: skip
    """`FittedGrid().fit(denoiser, solver, noises)`: with times that bring a solver nearest to converged results.

    Flips are no more frequent than on `limit`. The grids that are tried are `Bent`, so that no gap can open where no
    fitted noise would notice: times that are free one by one have lower errors still, but twice the flips.

    denoiser: the model.
    solver: one that draws no noise.
    noises: start states to learn on (use others to judge by), (rows, ...), at least 16, better 100.
    steps: of the runs that it is fitted for.
    limit: the grid whose flips are allowed.
    evaluations: how many grids are tried, each costing `steps` calls on the noises and on states beside watersheds
        (see `Aim`).
    aim: what to come near to; None solves it here. A denoiser that is bound to the rows of `noises` (each with its
        own prompt) cannot look beside watersheds: give it `Aim.at(noises, converged results)`.
    """
    from scipy.optimize import minimize

    process = denoiser.process
    allowing = schedule(limit, process, steps)
    target = Aim.of_model(denoiser, noises) if aim is None else aim
    allowed = target.judge(lambda x: solve(solver, denoiser, allowing, x))[1]

    def loss(shape: Array) -> float:
        times = np.append(bent(shape).times(process, steps), 0.0)
        if not (np.diff(times) < 0).all():
            return BROKEN
        return target.loss(lambda x: solve(solver, denoiser, times, x), allowed)

    options = {"maxfev": evaluations - len(STARTS), "initial_tr_radius": RADIUS}
    best = minimize(loss, min(STARTS, key=loss), method="COBYQA", options=options)
    return FittedGrid(tuple(bent(best.x).times(process, steps).tolist()))


def bent(shape: Array) -> Bent:
    """The grid of a shape: slope, curve, twist, and the log of the rest."""
    with np.errstate(over="ignore"):
        return Bent(*shape[:-1].tolist(), rest=float(np.exp(shape[-1])))
