"""DC-Solver: compensation ratios searched step by step, and the polynomial that predicts them for other runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hasten.core.console import tracked
from hasten.core.fitters import fitters
from hasten.denoisers import DenoiserLike
from hasten.fit.runs import integrate
from hasten.grids import GridLike, schedule
from hasten.processes import Array
from hasten.solvers import DCSolver
from hasten.solvers.dc_solver import BOUNDS, NODES, cascade_powers, compensation
from hasten.solvers.exponential import Frame
from hasten.solvers.table import weighed

TOLERANCE, TRIALS = 1e-3, 30  # of Brent's method: of a ratio, and how many of them are tried
UNDETERMINED = 1e-8  # singular values below this share of the largest leave the cascade as it is


@fitters.of(DCSolver)
@torch.no_grad()
def fit(
    solver: DCSolver, denoiser: DenoiserLike, noises: Tensor, steps: int = 10, grid: GridLike = "trailing",
    end: str = "data", substeps: int = 12,
) -> DCSolver:  # fmt: skip
    """`DCSolver().fit(denoiser, noises)`: with ratios searched for this model, number of steps and grid.

    Step by step, the ratio is the one that brings the state after the next step and its correction nearest to the
    ODE's own state at that time, found by Brent's method.

    denoiser: the model.
    noises: a few start states (the paper uses 10), (rows, ...).
    steps: of the runs that it is fitted for.
    grid: their times.
    end: where they end, "data" or "min".
    substeps: Runge-Kutta steps that the ODE is solved with, a step.

    Source: Zhao et al. 2024, section 3.
    """
    times = schedule(grid, denoiser.process, steps, end)
    frame, steps = Frame.of(denoiser.process, times, solver.expand), len(times) - 1
    aims = integrate(denoiser, noises, times, substeps)
    x, values = noises, [getattr(denoiser(noises, times[0]), frame.value(0))]
    ratios: list[float] = []
    for i in tracked(range(steps), "DC-Solver"):
        step = functools.partial(after, solver, denoiser, frame, times, x, values)
        ratios.append(1.0 if i + 1 < NODES else best_ratio(step, aims[i + 1]))
        x, values = step(ratios[-1])
    return replace(solver, ratios=tuple(ratios), cascade=())


def fit_cascade(
    solver: DCSolver, denoisers: Mapping[float, DenoiserLike], noises: Tensor, steps: Sequence[int],
    grid: GridLike = "trailing", end: str = "data",
) -> DCSolver:  # fmt: skip
    """The solver with ratios for any number of steps and guidance: cascade polynomial regression.

    solver: whose settings the fitted one has.
    denoisers: guidance scale -> the model at that scale.
    noises: a few start states, (rows, ...).
    steps: the numbers of steps to search at.
    grid: the times of the runs.
    end: where they end, "data" or "min".

    Source: Zhao et al. 2024, section 3.
    """
    ratios = {
        (count, guidance): fit(solver, denoiser, noises, count, grid, end).ratios
        for guidance, denoiser in denoisers.items() for count in steps
    }  # fmt: skip
    return replace(solver, cascade=cascade_of(ratios), ratios=())


def after(
    solver: DCSolver, denoiser: DenoiserLike, frame: Frame, times: Array, x: Tensor, values: list[Tensor], ratio: float
) -> tuple[Tensor, list[Tensor]]:
    """The next state, corrected, and the values so far with its own.

    solver: that steps.
    denoiser: the model.
    frame: of the run.
    times: of the run.
    x: the state that is stepped from.
    values: one a node so far, oldest first, the last as it was asked.
    ratio: that the last value is compensated with.
    """
    i, steps = len(values) - 1, len(times) - 1
    share, *rest = compensation(frame, times, i, ratio)
    kept = [*values[:-1], weighed(values[-1], share, values[-2::-1], rest)] if rest else values
    following = step_of(solver, frame, x, kept, i)
    if i + 1 == steps:
        return following, kept
    values = [*kept, getattr(denoiser(following, times[i + 1]), solver.expand)]
    return step_of(solver, frame, x, values, i) if solver.corrector else following, values


def step_of(solver: DCSolver, frame: Frame, x: Tensor, values: list[Tensor], i: int) -> Tensor:
    """The state after step i, predicted from values 0 .. i, or corrected with value i + 1 as well.

    solver: that steps.
    frame: of the run.
    x: the state before step i.
    values: one a node, oldest first.
    i: the step.
    """
    nodes = [*solver.nodes(i, len(frame.lam) - 1), *range(i + 1, len(values))]
    return frame.step(x, i, i + 1, nodes, values, solver.bend)


def best_ratio(step: Callable[[float], tuple[Tensor, object]], aim: Tensor) -> float:
    """The ratio that leads nearest to the aim, by Brent's method; 1 if none leads nearer than that.

    step: ratio -> the state it leads to, and what else the caller wants of it.
    aim: the state to come near to.
    """
    from scipy.optimize import minimize_scalar

    def loss(ratio: float) -> float:
        return float((step(ratio)[0] - aim).square().mean())

    options = {"xatol": TOLERANCE, "maxiter": TRIALS}
    best = minimize_scalar(loss, bounds=BOUNDS, method="bounded", options=options)
    return float(best.x) if best.fun < loss(1.0) else 1.0


def cascade_of(ratios: Mapping[tuple[int, float], tuple[float, ...]]) -> tuple[float, ...]:
    """The 36 coefficients nearest to these ratios.

    They enter linearly, so this is one least-squares problem, of least norm where the ratios leave some
    undetermined. The first two ratios of a run are always 1 and are left out.

    ratios: (number of steps, guidance scale) -> one a step.

    Source: Zhao et al. 2024, section 3.
    """
    powers = np.concatenate([cascade_powers(*run)[2:] for run in ratios])
    # solved for the deviation from 1, so that what is undetermined stays at ratio 1
    deviation = np.concatenate([of[2:] for of in ratios.values()]) - 1
    coefficients = np.linalg.lstsq(powers, deviation, rcond=UNDETERMINED)[0]
    coefficients[0] += 1
    return tuple(coefficients.tolist())
