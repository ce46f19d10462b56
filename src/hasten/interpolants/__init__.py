"""Stochastic interpolants between two data sets: x_t = alpha x_data + beta x_base + gamma z, t from 0 to 1.

Time runs as everywhere here, data at 0 and base at 1; a velocity is the slope of the state in t (minus the
paper's b). With a Gaussian base the one-sided paths are plain processes: `hasten.processes.OneSided`.
Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hasten.core.errors import HastenError, one_of, positive_int
from hasten.denoisers import GaussianMixture
from hasten.sampling import seeded_noise
from hasten.train import Objective

PATHS = ("linear", "trig", "encode-decode")
GAMMAS = ("brownian", "quadratic", "sine", "zero")


class Weights(NamedTuple):
    """alpha, beta and gamma at a time, and their slopes; gamma's slope times gamma, which is always finite."""

    alpha: Any
    beta: Any
    gamma: Any
    alpha_slope: Any
    beta_slope: Any
    gamma_rise: Any


class Fields(NamedTuple):
    """The mean slope of the states at a place and time, and the score of their density (None if never noisy)."""

    velocity: Tensor
    score: Tensor | None = None


FieldsLike = Callable[[Tensor, float], Fields]


@dataclass(frozen=True)
class TwoSided:
    """Which path joins a base and a data sample, and how much noise lies on it.

    path: "linear", "trig" (a quarter turn, shortened so that alpha^2 + beta^2 + gamma^2 = 1), or
    "encode-decode" (base to pure noise to data, with gamma "sine"). gamma: "brownian" is
    sqrt(scale t (1 - t)), "quadratic" t (1 - t), "sine" sin^2(pi t), "zero" none (two-sided flow matching).
    scale: above 0, below 4. Source: Albergo et al. 2023, section 4.
    """

    path: str = "linear"
    gamma: str = "brownian"
    scale: float = 1.0

    def __post_init__(self) -> None:
        one_of("path", self.path, PATHS)
        one_of("gamma", self.gamma, GAMMAS)
        if not 0 < self.scale < 4:
            raise HastenError(f"scale: {self.scale} is not possible; give a number above 0 and below 4")
        if (self.path == "encode-decode") != (self.gamma == "sine"):
            raise HastenError(
                f"gamma: {self.gamma!r} does not fit path {self.path!r}; 'sine' is for 'encode-decode' only"
            )

    def weights(self, t: Any) -> Weights:
        """At a number or an array of times within [0, 1]."""
        t = np.asarray(t, float)
        gamma, rise = self._gamma(t)
        turn = np.pi / 2 * t
        if self.path == "linear":
            return Weights(1 - t, t, gamma, -np.ones_like(t), np.ones_like(t), rise)
        if self.path == "trig":
            short = np.sqrt(1 - gamma**2)
            a, b = np.cos(turn), np.sin(turn)
            shrink, speed = -rise / short, short * np.pi / 2
            return Weights(short * a, short * b, gamma, shrink * a - speed * b, shrink * b + speed * a, rise)
        level, slope = np.cos(np.pi * t) ** 2, -np.pi * np.sin(2 * np.pi * t)
        data = t < 0.5
        zero = np.zeros_like(t)
        on_data, on_base = (lambda v: np.where(data, v, zero)), (lambda v: np.where(data, zero, v))
        return Weights(on_data(level), on_base(level), gamma, on_data(slope), on_base(slope), rise)

    def _gamma(self, t: Any) -> tuple[Any, Any]:
        if self.gamma == "brownian":
            return np.sqrt(self.scale * t * (1 - t)), self.scale * (1 - 2 * t) / 2
        if self.gamma == "quadratic":
            return t * (1 - t), t * (1 - t) * (1 - 2 * t)
        if self.gamma == "sine":
            return np.sin(np.pi * t) ** 2, np.pi * np.sin(np.pi * t) ** 2 * np.sin(2 * np.pi * t)
        return 0 * t, 0 * t

    def fields(self, slope: Tensor, noise: Tensor, t: float) -> Fields:
        """From two networks' answers, the slope of alpha x_data + beta x_base and z, without dividing at an end.

        b = v + gamma' eta and s = -eta / gamma; at an end, where gamma is 0, there is no score to be had.
        """
        w = self.weights(t)
        if w.gamma == 0:
            return Fields(slope, None)
        return Fields(slope + float(w.gamma_rise / w.gamma) * noise, noise * float(-1 / w.gamma))


class MixtureBridge:
    """The exact fields between two mixtures of isotropic Gaussians: `bridge(x, t) -> Fields`.

    Components pair up as base and data samples do, independently. The mixtures' own processes do not matter.
    """

    def __init__(self, base: GaussianMixture, data: GaussianMixture, interpolant: TwoSided) -> None:
        self.base, self.data, self.interpolant = base, data, interpolant

    def __call__(self, x: Tensor, t: float) -> Fields:
        w = Weights(*(float(v) for v in self.interpolant.weights(t)))
        base, data, flat = self.base, self.data, x.flatten(1)

        def pairs(of_base: Tensor, of_data: Tensor, b: float, a: float) -> Tensor:
            return (b * of_base[:, None] + a * of_data[None]).flatten(0, 1).to(x)

        ends = base.means.flatten(1), data.means.flatten(1)
        mean, drift = pairs(*ends, w.beta, w.alpha), pairs(*ends, w.beta_slope, w.alpha_slope)
        spreads = base.stds**2, data.stds**2
        variance = pairs(*spreads, w.beta**2, w.alpha**2) + w.gamma**2
        growth = pairs(*spreads, w.beta * w.beta_slope, w.alpha * w.alpha_slope) + w.gamma_rise
        offset = flat[:, None] - mean
        logits = pairs(base.weights.log(), data.weights.log(), 1, 1) - offset.square().sum(-1) / (2 * variance)
        share = torch.softmax(logits - flat.shape[1] / 2 * variance.log(), -1)[..., None]
        velocity = (share * (drift + (growth / variance)[:, None] * offset)).sum(1)
        score = -(share * offset / variance[:, None]).sum(1)
        return Fields(velocity.reshape(x.shape), score.reshape(x.shape))


def transport(
    fields: FieldsLike, x: Tensor, steps: int = 100, diffusion: float = 0.0, heun: bool = True, seed: int = 0,
    start: float = 1.0, end: float = 0.0,
) -> Tensor:  # fmt: skip
    """Carry states from time `start` to `end`, either way, in equal steps.

    diffusion: 0 follows the ODE; above 0 the SDE with that much noise, which has the same densities, chosen
    after training. heun: two evaluations a step, at its two ends, after the noise of the step is
    added (the authors' code takes both at the end, which is first order for the ODE); else Euler-Maruyama.
    With networks stay 1e-3 from both ends, where gamma = 0 has no score.
    Source: Albergo et al. 2023, arXiv 2303.08797; the bound on the KL divergence is least at diffusion
    |error of the velocity| / |error of the score|.
    """
    positive_int("steps", steps)
    if not diffusion >= 0:
        raise HastenError(f"diffusion: {diffusion} is not possible; give a number of at least 0")
    if not (0 <= min(start, end) < max(start, end) <= 1):
        raise HastenError(f"start, end: {start} and {end} are not possible; give two times within [0, 1]")
    noise, times = seeded_noise(x, seed), np.linspace(start, end, steps + 1)

    def slope(x: Tensor, t: float, h: float) -> Tensor:
        velocity, score = fields(x, t)
        if not diffusion:
            return velocity
        if score is None:
            raise HastenError(f"diffusion: there is no score at time {t:g}; give 0, or stay away from the ends")
        return velocity + math.copysign(diffusion, h) * score

    for step, (s, t) in enumerate(pairwise(times.tolist())):
        h = t - s
        if diffusion:
            x = x + math.sqrt(2 * diffusion * abs(h)) * noise(step)
        first = slope(x, s, h)
        if not heun:
            x = x + h * first
            continue
        x = x + h / 2 * (first + slope(x + h * first, t, h))
    return x


class Interpolating(Objective):
    """Trains a velocity and, if given, a noise network (x, t) -> like x on `batch["sample"]` and `batch["base"]`.

    Rows are paired as they come. Times are uniform in [cut, 1 - cut]. The velocity is regressed on the slope
    of the path with +z and with -z, which cancels the part of its variance that grows like 1 / t at the ends.
    Source: Albergo et al. 2023, arXiv 2303.08797 (losses of b and eta; antithetic sampling).
    """

    def __init__(self, velocity: nn.Module, noise: nn.Module | None, interpolant: TwoSided, cut: float = 1e-3):
        super().__init__()
        self.velocity, self.noise, self.interpolant, self.cut = velocity, noise, interpolant, cut

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        data, base = batch["sample"], batch["base"]
        t = self.cut + (1 - 2 * self.cut) * torch.rand(len(data))
        z = torch.randn_like(data)
        total = velocity_loss(self.velocity, self.interpolant, data, base, z, t).mean()
        if self.noise is None:
            return total
        x, _ = _draw(self.interpolant, data, base, z, t)
        answer = self.noise(x, t)
        return total + (0.5 * answer.square() - z * answer).flatten(1).sum(1).mean()


def velocity_loss(
    velocity: Callable[[Tensor, Tensor], Tensor], interpolant: TwoSided, data: Tensor, base: Tensor, z: Tensor,
    t: Tensor, antithetic: bool = True,
) -> Tensor:  # fmt: skip
    """|b|^2 / 2 - b . slope for each row, (rows,), averaged over z and -z if antithetic."""
    signs = (1.0, -1.0) if antithetic else (1.0,)
    total = torch.zeros(len(data), dtype=data.dtype, device=data.device)
    for sign in signs:
        x, slope = _draw(interpolant, data, base, sign * z, t)
        b = velocity(x, t)
        total = total + (0.5 * b.square() - b * slope).flatten(1).sum(1) / len(signs)
    return total


def _draw(interpolant: TwoSided, data: Tensor, base: Tensor, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """States at times t (rows,), and the slopes of their paths."""
    w = interpolant.weights(t.double().cpu().numpy())
    steep = np.divide(w.gamma_rise, w.gamma, out=np.zeros_like(w.gamma), where=w.gamma > 0)
    a, b, g, da, db, dg = (torch.as_tensor(v).to(data).reshape(-1, *[1] * (data.ndim - 1)) for v in (*w[:5], steep))
    return a * data + b * base + g * z, da * data + db * base + dg * z
