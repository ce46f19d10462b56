"""Starts that know mean and covariance of the data: at high noise every data set looks like its Gaussian.

For a Gaussian the ODE separates along the eigenvectors of the covariance: each component keeps its number of
standard deviations, so one product carries a state from any noise level to any other.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError, positive_int
from hasten.core.registry import Paper
from hasten.denoisers import DenoiserLike, coefficients
from hasten.predictions import Prediction
from hasten.processes import Process
from hasten.sampling import sample
from hasten.starts.base import STARTS, Start

Self = TypeVar("Self", bound="Moments")
Level = tuple[float, float]  # alpha, sigma


@dataclass(frozen=True, eq=False)
class Moments(Start):
    """A Gaussian model of data: mean (...), basis (rank, ...) of orthonormal directions, variances (rank,).

    Variance outside of the basis is taken to be 0. rank: how many directions `fit` keeps at most.
    """

    mean: Tensor | None = None
    basis: Tensor | None = None
    variances: Tensor | None = None
    rank: int = 1000

    def __post_init__(self) -> None:
        positive_int("rank", self.rank)

    def fit(self: Self, data: Tensor) -> Self:
        """With the moments of data (n, ...), in the scale the network works in (latents, or pixels in [-1, 1])."""
        if len(data) < 2:
            raise HastenError(f"data: {len(data)} rows are too few for a covariance; give at least 2")
        flat = data.double().flatten(1)
        _, values, vectors = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
        kept = min(self.rank, int((values > values[0] * 1e-12).sum()))
        return dataclasses.replace(
            self, mean=data.double().mean(0), basis=vectors[:kept].contiguous().reshape(kept, *data.shape[1:]),
            variances=values[:kept].square() / (len(data) - 1),
        )  # fmt: skip

    def fit_model(
        self: Self, denoiser: DenoiserLike, shape: tuple[int, ...], count: int = 1000, steps: int = 20, seed: int = 0
    ) -> Self:
        """With the moments of `count` samples of a model, where its data are not at hand. shape: of one sample."""
        noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
        return self.fit(sample(denoiser, noise * denoiser.process.start_scale, steps=steps))

    def carry(self, x: Tensor, old: Level, new: Level) -> Tensor:
        """The exact ODE solution for this Gaussian from noise level (alpha, sigma) to another."""
        mean, basis, variances = self._parts(x)
        alpha, sigma = old
        offset = (x.double() - alpha * mean).flatten(1)
        parts = offset @ basis.T
        grown = ((new[1] ** 2 + new[0] ** 2 * variances) / (sigma**2 + alpha**2 * variances)).sqrt()
        moved = (offset - parts @ basis) * (new[1] / sigma) + (parts * grown) @ basis
        return (new[0] * mean + moved.reshape(x.shape)).to(x.dtype)

    def denoise(self, process: Process, x: Tensor, t: float) -> Prediction:
        """What a network would say if the data were this Gaussian."""
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
        """The share of the network's score, at time t on noised `data` (rows, ...), that this Gaussian explains."""
        alpha, sigma = coefficients(denoiser.process, t, data)
        noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(seed), dtype=data.dtype)
        x = alpha * data + sigma * noise.to(data.device)
        said = denoiser(x, t).noise
        return 1 - float((said - self.denoise(denoiser.process, x, t).noise).square().sum() / said.square().sum())


@STARTS.add
@dataclass(frozen=True, eq=False)
class GaussianTeleport(Moments):
    """Skips the first steps of a run: the closed ODE solution for the data's Gaussian, from pure noise to a time.

    reach: where to begin if no time is given, in noise levels sigma / alpha per largest standard deviation of
    the data; 6 is safe, at 3 modes begin to blend. For guided models with scale w, use the mean
    mean_without + w (mean_with - mean_without).
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
    given says nothing about the data. spread: restore the covariance too, by the exact solution from pure noise
    for the data's Gaussian. Fit per prompt or class where their means differ. Without effect where alpha is 0.
    time is that of the first query; t_max if None. For a trained module see `one_more_step`.
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

    data: what is seen in the noise: minus the output of a trained OMS module (it predicts v at alpha 0), or a
    mean. eta: 0 (DDIM) up to sigma (ancestral, what the official code does); needs `fresh` unit noise.
    The official code weighs fresh noise by its variance; here by its standard deviation.
    """
    alpha, sigma = _level(process, time)
    if not 0 <= eta <= sigma:
        raise HastenError(f"eta: {eta:g} is not possible; give 0 to sigma = {sigma:g}")
    x = alpha * data + (sigma**2 - eta**2) ** 0.5 * noise
    return x if fresh is None else x + eta * fresh


def _level(process: Process, t: float) -> Level:
    return float(process.alpha(t)), float(process.sigma(t))
