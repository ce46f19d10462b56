"""Starts that know mean and covariance of the data: at high noise every data set looks like its Gaussian.

For a Gaussian the ODE separates along the eigenvectors of the covariance: each component keeps its number of
standard deviations, so one product carries a state from any noise level to any other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError, positive_int
from hasten.core.registry import Paper
from hasten.denoisers import DenoiserLike, coefficients
from hasten.predictions import Prediction
from hasten.processes import Process
from hasten.starts.base import STARTS, Start

Level = tuple[float, float]  # alpha, sigma


@dataclass(frozen=True, eq=False)
class Moments(Start):
    """A Gaussian model of data. Fitted by `fit`, see `hasten.fit.teleport`.

    mean: (...).
    basis: orthonormal directions, (rank, ...); variance outside of them is taken to be 0.
    variances: along them, (rank,).
    rank: how many directions `fit` keeps at most.
    """

    mean: Tensor | None = None
    basis: Tensor | None = None
    variances: Tensor | None = None
    rank: int = 1000

    def __post_init__(self) -> None:
        positive_int("rank", self.rank)

    @property
    def needs_fit(self) -> bool:
        return self.mean is None

    def carry(self, x: Tensor, old: Level, new: Level) -> Tensor:
        """The exact ODE solution for this Gaussian.

        x: the state, (rows, ...).
        old: its noise level, (alpha, sigma).
        new: the noise level of the result.
        """
        mean, basis, variances = self._parts(x)
        alpha, sigma = old
        offset = (x.double() - alpha * mean).flatten(1)
        parts = offset @ basis.T
        grown = ((new[1] ** 2 + new[0] ** 2 * variances) / (sigma**2 + alpha**2 * variances)).sqrt()
        moved = (offset - parts @ basis) * (new[1] / sigma) + (parts * grown) @ basis
        return (new[0] * mean + moved.reshape(x.shape)).to(x.dtype)

    def denoise(self, process: Process, x: Tensor, t: float) -> Prediction:
        """What a network would predict if the data were this Gaussian.

        process: of the network.
        x: the state, (rows, ...).
        t: its time.
        """
        alpha, sigma = _level(process, t)
        mean, basis, variances = self._parts(x)
        parts = (x.double() - alpha * mean).flatten(1) @ basis.T
        gain = alpha * variances / (alpha**2 * variances + sigma**2)
        data = mean + ((parts * gain) @ basis).reshape(x.shape)
        return Prediction(x, alpha, sigma, data.to(x.dtype), "sample")

    def _parts(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, basis, variances = (self._fitted(field, like) for field in ("mean", "basis", "variances"))
        self._check_shape(like, mean.shape)
        return mean, basis.flatten(1), variances

    def explained(self, denoiser: DenoiserLike, data: Tensor, t: float, seed: int = 0) -> float:
        """The share of the network's score that this Gaussian explains, at most 1.

        denoiser: the model.
        data: clean, (rows, ...).
        t: the time that they are noised to.
        seed: of the noise.
        """
        alpha, sigma = coefficients(denoiser.process, t, data)
        noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(seed), dtype=data.dtype)
        x = alpha * data + sigma * noise.to(data.device)
        said = denoiser(x, t).noise
        return 1 - float((said - self.denoise(denoiser.process, x, t).noise).square().sum() / said.square().sum())


@STARTS.add
@dataclass(frozen=True, eq=False)
class GaussianTeleport(Moments):
    """Skips the first steps of a run: the closed ODE solution for the data's Gaussian, from pure noise to a time.

    For guided models with scale w, use the mean mean_without + w (mean_with - mean_without).

    mean, basis, variances, rank: see `Moments`.
    reach: where to begin if no time is given, in noise levels sigma / alpha per largest standard deviation of
        the data, above 0; 6 is safe, at 3 modes begin to blend.

    Source: Wang & Vastola 2023, the solution for a Gaussian score, in eigenvectors of the covariance.
    """

    reach: float = 6.0
    name = "gaussian-teleport"
    paper = Paper("Diffusion Models Generate Images Like Painters", 2023, "2303.02490")

    def __call__(self, process: Process, noise: Tensor, time: float | None = None) -> tuple[Tensor, float]:
        if time is None:
            spread = float(self._fitted("variances").max()) ** 0.5
            time = min(process.t_max, float(process.time(-np.log(self.reach * spread))))
        start = noise * process.start_scale
        return self.carry(start, _level(process, process.t_max), _level(process, time)), float(time)


@STARTS.add
@dataclass(frozen=True, eq=False)
class OneMoreStep(Moments):
    """Starts with the mean of the data, which training leaves in x_T and unit noise lacks (terminal alpha > 0).

    The closed form: x = alpha mean + sigma noise, what the paper's network tends to, since the noise it is
    given says nothing about the data. Fit per prompt or class where their means differ. Without effect where alpha
    is 0. A call's time is that of the first query; t_max if None. For a trained module see `one_more_step`.

    mean, basis, variances, rank: see `Moments`.
    spread: restore the covariance too, by the exact solution from pure noise for the data's Gaussian.

    Source: Hu et al. 2023, the step from the zero-SNR time S to T.
    """

    spread: bool = False
    name = "one-more-step"
    paper = Paper("One More Step: A Versatile Plug-and-Play Module for Rectifying Diffusion", 2023, "2311.15744")

    def __call__(self, process: Process, noise: Tensor, time: float | None = None) -> tuple[Tensor, float]:
        time = process.t_max if time is None else float(time)
        if self.spread:
            return self.carry(noise, (0.0, 1.0), _level(process, time)), time
        mean = self._fitted("mean")
        self._check_shape(noise, mean.shape)
        return one_more_step(process, mean.to(noise), noise, time), time


def one_more_step(
    process: Process, data: Tensor, noise: Tensor, time: float, eta: float = 0.0, fresh: Tensor | None = None
) -> Tensor:
    """From pure noise at the zero-SNR time to the state at `time`, given a prediction of the data.

    The official code weighs fresh noise by its variance; here by its standard deviation.

    process: of the network.
    data: what is seen in the noise: minus the output of a trained OMS module (it predicts v at alpha 0), or a mean.
    noise: unit noise, (rows, ...).
    time: of the result.
    eta: 0 (DDIM) up to sigma (ancestral, what the official code does); needs `fresh`.
    fresh: unit noise, (rows, ...), or None.

    Raises HastenError for an eta out of range.
    """
    alpha, sigma = _level(process, time)
    if not 0 <= eta <= sigma:
        raise HastenError(f"eta: {eta:g} is not possible; give 0 to sigma = {sigma:g}")
    x = alpha * data + (sigma**2 - eta**2) ** 0.5 * noise
    return x if fresh is None else x + eta * fresh


def _level(process: Process, t: float) -> Level:
    return float(process.alpha(t)), float(process.sigma(t))
