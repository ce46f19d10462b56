"""DPM-OT: optimal transport from noise straight to slightly noisy data, then only the last steps of a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hasten.core.registry import Paper
from hasten.processes import Process
from hasten.starts.base import STARTS, Start

BLOCK = 4096  # how many noises are compared with all targets at once


@STARTS.add
@dataclass(frozen=True, eq=False)
class DPMOT(Start):
    """Sends each noise to one of finitely many noised data, each of which gets the same share of the noise.

    The map is the gradient of the potential u(z) = max_i (z . y_i + h_i): it jumps between modes instead of blending
    them. Outputs are variations of the targets: choose `at` with sigma / alpha of 0.5 to 2, go on with a stochastic
    solver for variety, and look how near the outputs are to the data. Fitted by `fit`, see `hasten.fit.dpm_ot`.

    targets: y, states at the time `at`, (n, ...).
    heights: h, (n,).
    at: the time where the run begins.

    Source: Li et al. 2023, the semi-discrete Brenier potential and its Adam solver; unlike the official code,
    targets are noised at the very time where sampling goes on.
    """

    targets: Tensor | None = None
    heights: Tensor | None = None
    at: float = 0.0
    name = "dpm-ot"
    paper = Paper("DPM-OT: A New Diffusion Probabilistic Model Based on Optimal Transport", 2023, "2307.11308")

    @property
    def needs_fit(self) -> bool:
        return self.targets is None

    def __call__(self, process: Process, noise: Tensor, time: float | None = None) -> tuple[Tensor, float]:
        return self._fitted("targets", noise)[self.cells(noise)].to(noise), self._only_time(time, self.at)

    def cells(self, noise: Tensor) -> Tensor:
        """The index of the target that each noise goes to, (rows,).

        noise: unit noise, (rows, ...).
        """
        targets, heights = self._fitted("targets", noise), self._fitted("heights", noise)
        self._check_shape(noise, targets.shape[1:])
        return highest(noise.to(targets).flatten(1), targets.flatten(1), heights)


def highest(z: Tensor, flat: Tensor, heights: Tensor) -> Tensor:
    """The target that each noise goes to, (rows,).

    z: noise, (rows, size).
    flat: targets, (n, size).
    heights: of the potential, (n,).
    """
    return torch.cat([(part @ flat.T + heights).argmax(1) for part in z.split(BLOCK)])
