"""BNS: the weights of each step by least squares, along the converged trajectory of a model."""

from __future__ import annotations

import torch
from torch import Tensor

from hasten.core.fitters import fitters
from hasten.denoisers import DenoiserLike
from hasten.fit.learners import Learner, learners
from hasten.fit.least_squares import least_squares
from hasten.fit.runs import solve
from hasten.fit.trajectory import Trajectory, converged
from hasten.grids import GridLike, schedule
from hasten.processes import Array, Process
from hasten.solvers import BNS, Query
from hasten.solvers.base import Noise, Walk
from hasten.solvers.bns import BASE
from hasten.solvers.table import program

RIDGE = 1e-6


@fitters.of(BNS)
@torch.no_grad()
def fit(
    solver: BNS, denoiser: DenoiserLike, noises: Tensor, steps: int = 10, grid: GridLike = "karras",
    trajectory: Trajectory | None = None, ridge: float = RIDGE,
) -> BNS:  # fmt: skip
    """`BNS().fit(denoiser, noises)`: with weights that lead along the converged trajectory of this model.

    To fit inside a pipeline, let it run by a `Recording` and then by what `learning` gives.

    denoiser: the model, with the prompts of the noises bound to it.
    noises: start states, (rows, ...), 10 or more.
    steps: of the runs that it is fitted for.
    grid: their times.
    trajectory: of the noises; None solves it here, see `converged`.
    ridge: how strongly weights stay near those of DPM-Solver++ 2M, above 0.

    Source: Shaul et al. 2024, section 3.1; by least squares instead of its gradient descent.
    """
    learner = LearningBNS(solver.order, trajectory or converged(denoiser, noises), ridge)
    solve(learner, denoiser, schedule(grid, denoiser.process, steps), noises)
    return learner.fitted[-1]


@learners.of(BNS)
def learn(solver: BNS, trajectory: Trajectory) -> LearningBNS:
    """A BNS of the same order that fits itself to its model while it runs.

    solver: whose order it has.
    trajectory: of its start states.
    """
    return LearningBNS(solver.order, trajectory)


class LearningBNS(BNS, Learner):
    """A run that fits the weights of each step once it is there, and goes on with them.

    Every step is fitted from where the steps before it really lead, so it makes up for their errors.

    order: as in BNS.
    trajectory: of the states that it will start from.
    ridge: how strongly weights stay near those of DPM-Solver++ 2M, above 0.
    """

    fitted: list[BNS]  # type: ignore[assignment]
    trajectory: Trajectory
    ridge: float

    def __init__(self, order: int, trajectory: Trajectory, ridge: float = RIDGE) -> None:
        super().__init__(order)
        vars(self).update(trajectory=trajectory, ridge=ridge, fitted=[])  # which are no settings of a recipe

    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        _, updates, _ = program(BASE, process, times)
        weights: list[float] = []
        past: list[Tensor] = []
        for i, update in enumerate(updates):
            p = yield Query(x, update.time, update.step, len(updates))
            past = [p.data, *past][: self.order]
            terms = [p.state, *past]
            aim = self.trajectory.at(times[i + 1]).to(x)
            fitted = least_squares(terms, aim, (update.a, *update.b), self.ridge)
            x = sum((weight * term for weight, term in zip(fitted, terms)), torch.zeros_like(x))
            weights += fitted + [0.0] * (self.order - len(past))
        self.fitted.append(BNS(self.order, tuple(weights), tuple(times.tolist())))
        return x
