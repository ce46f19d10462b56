"""The exact trajectory of start states: solved once, readable at any time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.core.files import save_tensors
from hasten.denoisers import DenoiserLike
from hasten.fit.runs import solve
from hasten.grids import schedule, settling
from hasten.predictions import Prediction
from hasten.processes import Array, Process
from hasten.solvers import Query, UniPC
from hasten.solvers.base import Noise, Walk, told


@dataclass(frozen=True)
class Trajectory:
    """States of the probability-flow ODE on a fine grid, cubic (Hermite) in between, and their data.

    The slopes are dy/dr in the coordinates y = x / (alpha + sigma), r = sigma / (alpha + sigma), where the velocity
    prediction is the slope.

    process: of the network.
    times: of the grid, noisiest first, without 0.
    states: one a time, (rows, ...) each.
    slopes: one a time, shaped like the states.
    end: the data, shaped like a state.
    """

    process: Process
    times: Array
    states: list[Tensor]
    slopes: list[Tensor]
    end: Tensor

    def at(self, t: float) -> Tensor:
        """The states at time t: those of the start at the first time or before it, the data at 0."""
        if t == 0:
            return self.end
        scale, level = _coordinates(self.process, self.times)
        here_scale, here = _coordinates(self.process, np.array([t]))
        i = int(np.clip(np.searchsorted(-level, -here[0], side="right") - 1, 0, len(level) - 2))
        h = level[i + 1] - level[i]
        u = float(np.clip((here[0] - level[i]) / h, 0, 1))
        ends = ((1 + 2 * u) * (1 - u) ** 2 / scale[i], u**2 * (3 - 2 * u) / scale[i + 1])
        turns = (u * (1 - u) ** 2 * h, u**2 * (u - 1) * h)
        parts = (ends[0] * self.states[i], ends[1] * self.states[i + 1], turns[0] * self.slopes[i])
        return float(here_scale[0]) * (sum(parts) + turns[1] * self.slopes[i + 1])

    def rows(self, rows: slice) -> Trajectory:
        """The trajectory of some of the states."""
        states, slopes = ([x[rows] for x in all_of] for all_of in (self.states, self.slopes))
        return Trajectory(self.process, self.times, states, slopes, self.end[rows])

    def save(self, file: Path) -> None:
        """Write all but the process to a safetensors file, which is there once it is whole."""
        tensors = {"times": torch.from_numpy(self.times.copy()), "end": self.end}
        save_tensors(file, tensors | {"states": torch.stack(self.states), "slopes": torch.stack(self.slopes)})

    @classmethod
    def load(cls, file: Path, process: Process) -> Trajectory:
        """What `save` wrote of a trajectory.

        file: its path.
        process: that the trajectory was made for.

        Raises HastenError for a file that cannot be read.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            kept = load_file(file)
        except SafetensorError as error:
            raise HastenError(f"{file} cannot be read ({error}); delete it") from None
        states, slopes = (list(kept[name]) for name in ("states", "slopes"))
        return cls(process, kept["times"].numpy(), states, slopes, kept["end"])


@dataclass(frozen=True)
class Recording(UniPC):
    """UniPC whose runs are kept in `trajectories`, for runs on fine times that end on data."""

    @cached_property
    def trajectories(self) -> list[Trajectory]:
        """One a run so far, the newest last."""
        return []

    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        states: list[Tensor] = []
        slopes: list[Tensor] = []

        def keep(_: Query, p: Prediction) -> Prediction:
            states.append(p.state.clone())
            slopes.append(p.velocity)
            return p

        end = yield from told(super().walk(process, times, x, noise), keep)
        self.trajectories.append(Trajectory(process, times[:-1], states, slopes, end.clone()))
        return end


@torch.no_grad()
def converged(denoiser: DenoiserLike, noises: Tensor, steps: int = 128) -> Trajectory:
    """The converged trajectory of start states; several fits may share it.

    denoiser: the model.
    noises: the start states, (rows, ...).
    steps: of the run that is recorded, one network call each.
    """
    recording = Recording()
    solve(recording, denoiser, schedule(settling(denoiser.process), denoiser.process, steps), noises)
    return recording.trajectories[-1]


def _coordinates(process: Process, times: Array) -> tuple[Array, Array]:
    """alpha + sigma and r at all times."""
    alpha, sigma = process.alpha(times), process.sigma(times)
    return alpha + sigma, sigma / (alpha + sigma)
