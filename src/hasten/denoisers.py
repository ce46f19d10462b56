"""A denoiser answers `(x, t) -> Prediction`: a network with its process, or an exact score in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hasten.core.errors import HastenError, one_of
from hasten.predictions import KINDS, Prediction
from hasten.processes import MeanReverting, PFGMPlusPlus, Process

Times = float | np.ndarray  # one time for all rows, or one time a row


@runtime_checkable
class DenoiserLike(Protocol):
    """What solvers' hosts need: a process, and an answer for a state at a time (or a time a row)."""

    @property
    def process(self) -> Process:
        """That the network was trained on."""
        ...

    def __call__(self, x: Tensor, t: Times) -> Prediction: ...


def coefficients(process: Process, t: Times, x: Tensor) -> tuple[Any, Any]:
    """alpha and sigma at t: floats for one time, else tensors that broadcast over the rows of x.

    process: whose alpha and sigma.
    t: one time, or (rows,).
    x: the state, (rows, ...).
    """
    if np.ndim(t) == 0:
        return float(process.alpha(t)), float(process.sigma(t))
    shape = (-1,) + (1,) * (x.ndim - 1)
    alpha, sigma = (torch.as_tensor(f(t)).to(x.device, x.dtype).reshape(shape) for f in (process.alpha, process.sigma))
    return alpha, sigma


class Denoiser:
    """A torch network as a denoiser.

    network: called as `network(x, number)` with x of shape (rows, ...) in its own dtype and `number` a
        (rows,) tensor, the process's network_time; returns a tensor shaped like x. Bind conditioning beforehand.
    process: that the network was trained on.
    kind: what the network predicts, one of `hasten.predictions.KINDS`.
    dtype: what x is cast to for the call; None leaves it.
    """

    def __init__(
        self, network: Callable[[Tensor, Tensor], Tensor], process: Process, kind: str = "epsilon",
        dtype: torch.dtype | None = None,
    ) -> None:  # fmt: skip
        one_of("kind", kind, KINDS)
        self.network, self.process, self.kind, self.dtype = network, process, kind, dtype

    def __call__(self, x: Tensor, t: Times) -> Prediction:
        numbers = np.broadcast_to(self.process.network_time(t), len(x))
        shown = torch.as_tensor(numbers.copy(), dtype=torch.float32, device=x.device)
        output = self.network(x.to(self.dtype or x.dtype), shown).to(x.dtype)
        return Prediction(x, *coefficients(self.process, t, x), output, self.kind)


class GaussianMixture:
    """The exact denoiser of a mixture of isotropic Gaussians, in any process.

    Computes in the dtype of x. With one component the ODE has a closed solution; see `transport`.

    means: (K, ...).
    stds: a number or (K,), all at least 0.
    weights: (K,), at least 0, of any sum; None for equal ones.
    process: that noises the data.

    Raises HastenError for shapes that do not agree, or weights below 0.
    """

    def __init__(self, means: ArrayLike, stds: ArrayLike, weights: ArrayLike | None, process: Process) -> None:
        self.means = torch.as_tensor(np.asarray(means, float))
        if self.means.ndim < 2:
            raise HastenError(
                f"means: shape {tuple(self.means.shape)} is not possible; give (components, dimensions...)"
            )
        count = len(self.means)
        self.stds = torch.as_tensor(np.broadcast_to(np.asarray(stds, float), (count,)).copy())
        raw = np.ones(count) if weights is None else np.asarray(weights, float)
        if raw.shape != (count,) or (raw < 0).any() or not raw.sum() > 0:
            raise HastenError(f"weights: give {count} numbers of at least 0 that do not sum to 0; got {raw}")
        self.weights = torch.as_tensor(raw / raw.sum())
        self.process = process

    def __call__(self, x: Tensor, t: Times) -> Prediction:
        alpha, sigma = coefficients(self.process, t, x)
        a, s = (v.reshape(-1, 1).double() if isinstance(v, Tensor) else v for v in (alpha, sigma))
        flat = x.flatten(1).double()  # squares of distances are small differences of large numbers
        means, stds, weights = (v.to(x.device) for v in (self.means.flatten(1), self.stds, self.weights))
        variance = ((a * stds) ** 2 + s * s).expand(len(x), -1)  # (rows, K)
        square = flat.square().sum(1, keepdim=True) - 2 * a * (flat @ means.T) + (a * a) * means.square().sum(1)
        logits = weights.log() - 0.5 * square / variance - 0.5 * flat.shape[1] * variance.log()
        share = torch.softmax(logits, -1)
        gain = a * stds**2 / variance
        data = (share * (1 - a * gain)) @ means + (share * gain).sum(1, keepdim=True) * flat
        return Prediction(x, alpha, sigma, data.to(x.dtype).reshape(x.shape), "sample")

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws from the data distribution, (count, ...), float64.

        count: how many.
        generator: what chance is drawn from; None for torch's own.
        """
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, *self.means.shape[1:], dtype=torch.float64, generator=generator)
        return self.means[which] + self.stds[which].reshape(-1, *(1,) * (self.means.ndim - 1)) * noise

    def transport(self, x: Tensor, s: float, t: float) -> Tensor:
        """The exact ODE solution, for a single component.

        x: the state at time s, (rows, ...).
        s: the time of the state.
        t: the time of the result.

        Raises HastenError for more components.
        """
        if len(self.means) != 1:
            raise HastenError(f"transport: closed form only for one component; this mixture has {len(self.means)}")
        (a0, s0), (a1, s1) = (coefficients(self.process, time, x) for time in (s, t))
        mean, std = self.means[0].to(x.dtype), float(self.stds[0])
        return a1 * mean + math.sqrt((a1 * std) ** 2 + s1**2) / math.sqrt((a0 * std) ** 2 + s0**2) * (x - a0 * mean)


class AroundMean:
    """A mean-reverting network as a plain denoiser of y = x - mean, for every solver there is.

    A restored image is `mean + sample(AroundMean(...), process.start_scale * noise, "mr-sampler", steps)`;
    "mr-sampler-sde" draws noise on the way, both have variants that expand the noise prediction, and the paper's
    baseline, the posterior step, is `DDIM(eta=1.0)`. Thresholds meant for images do not suit y.

    network: called as `network(x, mean, number)`.
    mean: the degraded images, (rows, ...), one a row of the states.
    process: that the network was trained on.
    kind: what it predicts, "epsilon", "sample" (clean images) or "v_prediction" (of unit noise: alpha times
        stationary noise minus sqrt(1 - alpha^2) times (clean - mean)).

    Source: Li et al. 2025, arXiv 2502.07856.
    """

    def __init__(
        self, network: Callable[[Tensor, Tensor, Tensor], Tensor], mean: Tensor, process: MeanReverting,
        kind: str = "epsilon",
    ) -> None:  # fmt: skip
        one_of("kind", kind, ("epsilon", "sample", "v_prediction"))
        self.network, self.mean, self.process, self.kind = network, mean, process, kind

    def __call__(self, x: Tensor, t: Times) -> Prediction:
        numbers = np.broadcast_to(self.process.network_time(t), len(x))
        shown = torch.as_tensor(numbers.copy(), dtype=torch.float32, device=x.device)
        output = self.network(x + self.mean, self.mean, shown)
        alpha, sigma = coefficients(self.process, t, x)
        if self.kind == "sample":
            return Prediction(x, alpha, sigma, output - self.mean, "sample")
        if self.kind == "v_prediction":
            data = Prediction(x, alpha, sigma / self.process.stationary, output, "v_prediction").data
            return Prediction(x, alpha, sigma, data, "sample")
        return Prediction(x, alpha, sigma, output, self.kind)


class ElectricPoints:
    """The exact denoiser of finitely many points under PFGM++: what a perfectly trained network would answer.

    points: (K, ...).
    process: that noises them.

    Source: Xu et al. 2023, arXiv 2302.04265, section 3.
    """

    def __init__(self, points: ArrayLike, process: PFGMPlusPlus) -> None:
        self.points, self.process = torch.as_tensor(np.asarray(points, float)), process

    def __call__(self, x: Tensor, t: Times) -> Prediction:
        alpha, sigma = coefficients(self.process, t, x)
        points = self.points.flatten(1).to(x.device, x.dtype)
        square = (x.flatten(1)[:, None] - points).square().sum(-1)
        logs = self.process.log_kernel(square.double().cpu().numpy(), np.reshape(t, (-1, 1)), points.shape[1])
        share = torch.softmax(torch.as_tensor(logs), -1).to(x)
        return Prediction(x, alpha, sigma, (share @ points).reshape(x.shape), "sample")
