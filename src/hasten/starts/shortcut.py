"""DPM-OT: optimal transport from noise straight to slightly noisy data, then only the last steps of a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from hasten.core.errors import HastenError, positive_int
from hasten.core.registry import Paper
from hasten.processes import Process
from hasten.starts.base import STARTS, Start

BLOCK = 4096
"""How many noises are compared with all targets at once."""


@STARTS.add
@dataclass(frozen=True, eq=False)
class DPMOT(Start):
    """Sends each noise to one of finitely many noised data, each of which gets the same share of the noise.

    targets (n, ...): states at the time `at`; heights (n,): of the potential u(z) = max_i (z . y_i + h_i), whose
    gradient is the map. Jumps between modes instead of blending them. Outputs are variations of the targets:
    choose `at` with sigma / alpha of 0.5 to 2, go on with a stochastic solver for variety, and look how near the
    outputs are to the data.
    Source: Li et al. 2023, the semi-discrete Brenier potential and its Adam solver; unlike the official code,
    targets are noised at the very time where sampling goes on.
    """

    targets: Tensor | None = None
    heights: Tensor | None = None
    at: float = 0.0
    name = "dpm-ot"
    paper = Paper("DPM-OT: A New Diffusion Probabilistic Model Based on Optimal Transport", 2023, "2307.11308")

    def fit(
        self, process: Process, data: Tensor, at: float, iterations: int = 3000, rate: float = 0.1,
        batch: int | None = None, nearest: bool = True, tolerance: float = 8e-4, seed: int = 0,
    ) -> DPMOT:  # fmt: skip
        """With data (n, ...) noised to the time `at`, and the heights that make all cells of the same mass.

        iterations: at most so many, each on `batch` noises (10 n if None). rate: of Adam. After 50 iterations
        without a smaller gradient the batch is doubled and the rate cut by a fifth. nearest: begin with each
        noise going to its nearest target, else with heights of 0. Ends early where the masses are off by less
        than `tolerance` (2-norm).
        """
        positive_int("iterations", iterations)
        if len(data) < 1 or not 0 < at <= process.t_max:
            raise HastenError(f"at: {at:g} is not possible; give a time above 0 up to {process.t_max:g}, and some data")
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(data.shape, generator=generator, dtype=data.dtype).to(data.device)
        targets = float(process.alpha(at)) * data + float(process.sigma(at)) * noise
        flat, count = targets.flatten(1), len(data)
        heights = flat.square().sum(1) / -2 if nearest else torch.zeros(count).to(flat)
        drawn, stalled = batch or 10 * count, 0
        momentum, power = torch.zeros_like(heights), torch.zeros_like(heights)
        best, least = heights, float("inf")
        for _ in range(iterations):
            z = torch.randn(drawn, flat.shape[1], generator=generator, dtype=flat.dtype).to(flat.device)
            mass = torch.bincount(_highest(z, flat, heights), minlength=count) / drawn
            gradient = (mass - 1 / count).to(heights)
            off = float(gradient.norm())
            stalled = 0 if off < least else stalled + 1
            if off < least:
                best, least = heights, off
            if least < tolerance and bool((mass > 0).all()):
                break
            if stalled == 50:
                drawn, rate, stalled, least = min(2 * drawn, 200 * count), 0.8 * rate, 0, float("inf")
            momentum = 0.9 * momentum + 0.1 * gradient
            power = 0.999 * power + 0.001 * gradient.square()
            heights = heights - rate * momentum / (power.sqrt() + 1e-8)
            heights = heights - heights.mean()
        return dataclasses.replace(self, targets=targets, heights=best, at=float(at))

    def __call__(self, process: Process, noise: Tensor, time: float | None = None) -> tuple[Tensor, float]:
        return self._fitted("targets", noise)[self.cells(noise)].to(noise), self._only_time(time, self.at)

    def cells(self, noise: Tensor) -> Tensor:
        """The index of the target that each noise (rows, ...) goes to."""
        targets, heights = self._fitted("targets", noise), self._fitted("heights", noise)
        self._check_shape(noise, targets.shape[1:])
        return _highest(noise.to(targets).flatten(1), targets.flatten(1), heights)


def _highest(z: Tensor, flat: Tensor, heights: Tensor) -> Tensor:
    return torch.cat([(part @ flat.T + heights).argmax(1) for part in z.split(BLOCK)])
