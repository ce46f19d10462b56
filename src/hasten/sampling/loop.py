"""One walk and its denoiser: a plain loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.denoisers import DenoiserLike
from hasten.grids import GridLike, schedule
from hasten.predictions import Prediction
from hasten.processes import Process
from hasten.sampling.noise import brownian_noise, seeded_noise
from hasten.solvers import SOLVERS, DPMSolverPP, Query, Solver
from hasten.solvers.base import Walk

Callback = Callable[[Query, Prediction], Prediction | None]


class Asked(NamedTuple):
    """A walk that waits for an answer, and so whose rows a call of the denoiser holds.

    walk: the solver's generator.
    index: which one it is of those that are walked together, from 0.
    query: what it asks.
    """

    walk: Walk
    index: int
    query: Query

    @property
    def rows(self) -> int:
        """How many rows of the call are its own."""
        return len(self.query.x)


class Following(Protocol):
    """A denoiser that wants to know whose rows a call holds.

    Caches need this (`hasten.runtime.following.AcceleratedDenoiser`), and so does conditioning that differs by run.
    """

    def follow(self, asked: Sequence[Asked]) -> None:
        """Take note that the next call holds the rows of these walks, in this order."""
        ...


def sample(
    denoiser: DenoiserLike, noise: Tensor, solver: Solver | str | Mapping[str, Any] | None = None,
    steps: int = 10, grid: GridLike = "logsnr", end: str = "data", callback: Callback | None = None,
    seed: int = 0, brownian: bool = False,
) -> Tensor:  # fmt: skip
    """Solve from the start state to data. Half-precision states are stepped in float32.

    denoiser: the network with its process.
    noise: the state at the first time, (rows, ...): unit noise for variance-preserving and flow processes,
        sigma_max times that for exploding ones.
    solver: an instance, a name or a mapping; DPM-Solver++ 2M if None.
    steps: how many, at least 1.
    grid: where the times lie: a name, a Grid, or explicit decreasing times, which imply the steps.
    end: "data" (the last step returns the data prediction) or "min" (stop at the smallest time).
    callback: is called as callback(query, prediction) after each network call; a Prediction that it returns
        replaces the network's.
    seed: of the noise that a stochastic solver asks for.
    brownian: take that noise from one Brownian path a seed, so that results at more and more steps approach one
        image (see `brownian_noise`); otherwise query i has noise of its own whatever the times.
    Returns the state at the last time, in the dtype of `noise`.
    Raises HastenError for unknown names, impossible settings, and start states that are not finite.
    """
    walk = start(denoiser.process, noise, solver, steps, grid, end, seed, brownian)
    follow = getattr(denoiser, "follow", None)
    try:
        query = next(walk)
        while True:
            if follow is not None:
                follow([Asked(walk, 0, query)])
            prediction = denoiser(query.x, query.t)
            if callback is not None:
                prediction = callback(query, prediction) or prediction
            query = walk.send(prediction)
    except StopIteration as done:
        return done.value.to(noise.dtype)


def start(
    process: Process, noise: Tensor, solver: Solver | str | Mapping[str, Any] | None = None, steps: int = 10,
    grid: GridLike = "logsnr", end: str = "data", seed: int = 0, brownian: bool = False,
) -> Walk:  # fmt: skip
    """The walk of one run, not begun, with its input checked and half precision raised to float32.

    process: of the denoiser that will be asked.
    Other parameters: as of `sample`.
    Raises HastenError as `sample` does.
    """
    if not torch.isfinite(noise).all():
        raise HastenError("noise: the start state has values that are not finite; give finite numbers")
    x = noise.float() if noise.dtype in (torch.float16, torch.bfloat16) else noise
    chosen = DPMSolverPP() if solver is None else SOLVERS.build(solver)
    times = schedule(grid, process, steps, end)
    unit = seeded_noise(x, seed)
    if brownian and chosen.stochastic:
        asked = [query.t for query in chosen.query_times(process, times)]
        unit = brownian_noise(x, seed, process, np.array([*asked, times[-1]]))
    return chosen.walk(process, times, x, unit)
