"""The prior of PFGM++: noise with heavy tails."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.core.registry import Paper
from hasten.processes import Process
from hasten.starts.base import STARTS, Start


@STARTS.add
@dataclass(frozen=True)
class StudentT(Start):
    """Multivariate Student-t noise with `dimensions` degrees of freedom, scaled by sigma: the prior of PFGM++.

    The direction of the noise is kept and its length moved by quantiles, from that of a Gaussian to sigma sqrt(N F),
    F with (N, D) degrees of freedom: no draw of its own, so a seed is an image and nearby D give nearby images. A
    call's time is t_max if None.

    dimensions: D, above 0; infinite is Gaussian, 1 is PFGM.

    Source: Xu et al. 2023, the perturbation kernel p_r at r = sigma sqrt(D).
    """

    dimensions: float = 128.0
    name = "student-t"
    paper = Paper("PFGM++: Unlocking the Potential of Physics-Inspired Generative Models", 2023, "2302.04265")

    def __post_init__(self) -> None:
        if not self.dimensions > 0:
            raise HastenError(f"dimensions: {self.dimensions} is not possible; give a number above 0, or inf")

    def __call__(self, process: Process, noise: Tensor, time: float | None = None) -> tuple[Tensor, float]:
        time = process.t_max if time is None else float(time)
        sigma = float(process.sigma(time))
        if np.isinf(self.dimensions):
            return noise * sigma, time
        lengths = noise.double().flatten(1).square().sum(1)
        grown = torch.as_tensor(self._lengths(lengths.cpu().numpy(), noise[0].numel())).to(lengths.device) / lengths
        shape = (-1,) + (1,) * (noise.ndim - 1)
        return (noise * (sigma * grown.sqrt()).reshape(shape)).to(noise.dtype), time

    def _lengths(self, squared: np.ndarray, size: int) -> np.ndarray:
        """The squared length of t noise at the quantile that `squared` is among Gaussian noise."""
        from scipy.special import betaincinv, gammainc, gammaincc

        half, freedom = size / 2, self.dimensions / 2
        below = betaincinv(half, freedom, gammainc(half, squared / 2))
        above = betaincinv(freedom, half, gammaincc(half, squared / 2))
        # each half of the lengths by its own tail: nothing is lost where a probability is nearly 1
        short = squared < size
        return self.dimensions * np.where(short, below, 1 - above) / np.where(short, 1 - below, above)
