"""Running a solver or the exact ODE from inside a fit, and a progress bar."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.processes import Array, Process


def solve(solver: Any, denoiser: Any, times: Array, x: Tensor) -> Tensor:
    """Where a deterministic solver takes the state x along these times. Raises HastenError for a stochastic one."""
    if solver.stochastic:
        raise HastenError(f"solver: {solver.name!r} draws noise; fits aim at one solution, so set its eta to 0")
    walk = solver.walk(denoiser.process, times, x, lambda i: torch.zeros_like(x))
    try:
        query = next(walk)
        while True:
            query = walk.send(denoiser(query.x, query.t))
    except StopIteration as done:
        return done.value


def integrate(denoiser: Any, x: Tensor, times: Sequence[float] | Array, substeps: int = 12) -> list[Tensor]:
    """The states of the probability-flow ODE at `times` (noisiest first), from x at the first, by Runge-Kutta 4.

    substeps: per interval, four network calls each. A last time of 0 gives the data prediction at t_min.
    In y = x / (alpha + sigma) and r = sigma / (alpha + sigma) the ODE is dy/dr = noise - data, regular at both ends.
    """
    process: Process = denoiser.process
    path = np.asarray(times, float)
    ends = np.maximum(path, process.t_min) if path[-1] == 0 else path
    states = [x]
    for s, t in pairwise(ends):
        states.append(states[-1] if s <= t else _runge_kutta(denoiser, states[-1], s, t, substeps))
    if path[-1] == 0:
        states[-1] = denoiser(states[-1], float(ends[-1])).data
    return states


def _runge_kutta(denoiser: Any, x: Tensor, s: float, t: float, substeps: int) -> Tensor:
    process: Process = denoiser.process
    scale = [float(process.alpha(u) + process.sigma(u)) for u in (s, t)]
    levels = [float(process.sigma(u)) / c for u, c in zip((s, t), scale)]
    # uniform in the cube root of the noise level: finer towards data, where the answers turn fastest
    r = np.linspace(levels[0] ** (1 / 3), levels[1] ** (1 / 3), substeps + 1) ** 3

    def slope(y: Tensor, level: float) -> Tensor:
        time = s if level == r[0] else float(process.time(np.log(1 - level) - np.log(level)))
        return denoiser(y * float(process.alpha(time) + process.sigma(time)), time).velocity

    y = x / scale[0]
    for a, b in pairwise(r):
        h, middle = b - a, (a + b) / 2
        k1 = slope(y, a)
        k2 = slope(y + h / 2 * k1, middle)
        k3 = slope(y + h / 2 * k2, middle)
        k4 = slope(y + h * k3, b)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return y * scale[1]


def shown(text: str, items: Iterable[Any]) -> Iterable[Any]:
    """The items, with a bar on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(list(items), text, console=console, transient=True, disable=not console.is_terminal)
