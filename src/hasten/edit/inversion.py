"""From data back to the noise it came from: exactly by a reversible solver, else by walking backwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.core.registry import Paper
from hasten.denoisers import DenoiserLike
from hasten.grids import GridLike
from hasten.processes import Array, Process
from hasten.sampling import Callback, sample
from hasten.solvers import EDICT, SOLVERS, Solver
from hasten.solvers.base import Noise, Walk
from hasten.solvers.reversible import Reversible


@dataclass(frozen=True)
class Inverse(Solver):
    """The walk of a solver from data to noise, as a solver: every host of walks can invert.

    Its walk takes the same decreasing times as that of `solver`, starts from data and ends with the state at
    times[0]: a Pair if the solver is reversible, whose round trip is then exact. Any other deterministic solver
    is walked backwards, which asks the network at the wrong end of each step; if times end on 0, data is taken
    for a state at the smallest time of the process. Clipping and thresholding have no inverse.

    solver: what takes the noise back to data.
    Raises HastenError for stochastic and adaptive solvers.
    Source: Dhariwal and Nichol 2021, for DDIM walked backwards (naive DDIM inversion).
    """

    solver: Solver
    name = "inverse"
    paper = Paper("Diffusion Models Beat GANs on Image Synthesis", 2021, "2105.05233")

    def __post_init__(self) -> None:
        reason = "draws noise" if self.solver.stochastic else "chooses its own times"
        if self.solver.stochastic or self.solver.adaptive:
            raise HastenError(f"solver: {self.solver.name!r} {reason} and has no inverse; choose 'edict' or 'bdia'")

    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        if isinstance(self.solver, Reversible):
            return self.solver.inverse_walk(process, times, x)
        rising = np.maximum(times[::-1], process.t_min)
        if process.alpha(rising[-1]) == 0:
            rising[-1] *= 1 - 1e-6  # solvers leave pure noise but do not enter it
        if times[-1] < rising[0]:
            x = x * float(process.alpha(rising[0]) / process.alpha(times[-1]))
        return self.solver.walk(process, np.unique(rising), x, noise)


def invert(
    denoiser: DenoiserLike, x0: Tensor, solver: Solver | str | Mapping[str, Any] | None = None, steps: int = 50,
    grid: GridLike = "logsnr", end: str = "data", callback: Callback | None = None,
) -> Tensor:  # fmt: skip
    """The state that `sample(denoiser, state, solver=..., steps=..., grid=..., end=...)` takes back to x0.

    denoiser: the network with its process and its guidance; use the same in both directions.
    x0: data, (rows, ...), in float32 or float64.
    solver: an instance, a name or a mapping; EDICT if None. With a reversible one (edict, bdia) the round trip is
        exact to rounding, which grows along the way; with another deterministic one it is approximate.
    steps: how many, at least 1.
    grid: where the times lie, as of `sample`.
    end: as of `sample`.
    callback: as of `sample`.
    Returns the state at the first time: (rows, ...), or with a reversible solver a `Pair` (2, rows, ...).
    Warns if rounding errors grow more than 1e4 times. Raises HastenError as `sample` does.
    """
    chosen = EDICT() if solver is None else SOLVERS.build(solver)
    return sample(denoiser, x0, Inverse(chosen), steps, grid, end, callback)
