"""The exact trajectory of start states, solved once and readable at any time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.core.files import save_tensors
from hasten.processes import Array, Process


@dataclass(frozen=True)
class Trajectory:
    """States of the probability-flow ODE on a fine grid, cubic (Hermite) in between, and their data.

    times: of the grid, noisiest first. states, slopes: there, dy/dr in the coordinates y = x / (alpha + sigma),
    r = sigma / (alpha + sigma), where the velocity prediction is the slope. end: the data.
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
        """What `save` wrote of a trajectory of this process. Raises HastenError for a file that cannot be read."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            kept = load_file(file)
        except SafetensorError as error:
            raise HastenError(f"{file} cannot be read ({error}); delete it") from None
        states, slopes = (list(kept[name]) for name in ("states", "slopes"))
        return cls(process, kept["times"].numpy(), states, slopes, kept["end"])


def _coordinates(process: Process, times: Array) -> tuple[Array, Array]:
    alpha, sigma = process.alpha(times), process.sigma(times)
    return alpha + sigma, sigma / (alpha + sigma)
