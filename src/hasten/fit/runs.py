"""Running a solver or the exact ODE from inside a fit, and a progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.core.ode import State, runge_kutta
from hasten.denoisers import DenoiserLike
from hasten.processes import Array
from hasten.solvers import Solver

T = TypeVar("T")


def solve(solver: Solver, denoiser: DenoiserLike, times: Array, x: Tensor) -> Tensor:
    """Where a deterministic solver takes a state.

    solver: one that draws no noise.
    denoiser: the model.
    times: decreasing, noisiest first.
    x: the state at the first time, (rows, ...).

    Raises HastenError for a stochastic solver.
    """
    if solver.stochastic:
        raise HastenError(f"solver: {solver.name!r} draws noise; fits aim at one solution, so set its eta to 0")
    walk = solver.walk(denoiser.process, times, x, lambda i: torch.zeros_like(x))
    try:
        query = next(walk)
        while True:
            query = walk.send(denoiser(query.x, query.t))
    except StopIteration as done:
        return done.value


def integrate(denoiser: DenoiserLike, x: Tensor, times: Sequence[float] | Array, substeps: int = 12) -> list[Tensor]:
    """The states of the probability-flow ODE at some times, by the classical Runge-Kutta method.

    In y = x / (alpha + sigma) and r = sigma / (alpha + sigma) the ODE is dy/dr = noise - data, regular at both ends.

    denoiser: the model.
    x: the state at the first time, (rows, ...).
    times: decreasing, noisiest first. A last time of 0 gives the data prediction at t_min.
    substeps: per interval, at least 1; four network calls each.
    """
    process = denoiser.process
    path = np.asarray(times, float)
    ends = np.maximum(path, process.t_min) if path[-1] == 0 else path
    states = [x]
    for s, t in pairwise(ends):
        states.append(states[-1] if s <= t else _carried(denoiser, states[-1], s, t, substeps))
    if path[-1] == 0:
        states[-1] = denoiser(states[-1], float(ends[-1])).data
    return states


def _carried(denoiser: DenoiserLike, x: Tensor, s: float, t: float, substeps: int) -> Tensor:
    """The state at time t of the ODE that is at x at time s."""
    process = denoiser.process
    scale = [float(process.alpha(u) + process.sigma(u)) for u in (s, t)]
    levels = [float(process.sigma(u)) / c for u, c in zip((s, t), scale)]
    # uniform in the cube root of the noise level: finer towards data, where the answers turn fastest
    r = np.linspace(levels[0] ** (1 / 3), levels[1] ** (1 / 3), substeps + 1) ** 3

    def slope(level: float, y: State) -> State:
        time = s if level == r[0] else float(process.time(np.log(1 - level) - np.log(level)))
        return (denoiser(y[0] * float(process.alpha(time) + process.sigma(time)), time).velocity,)

    y = (x / scale[0],)
    for a, b in pairwise(r):
        y = runge_kutta(slope, y, a, b)
    return y[0] * scale[1]
