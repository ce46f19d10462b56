"""Paths between a base and a data sample, with noise on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from hasten.core.errors import HastenError, one_of

PATHS = ("linear", "trig", "encode-decode")
GAMMAS = ("brownian", "quadratic", "sine", "zero")


class Weights(NamedTuple):
    """The coefficients of a path at a time, a number or an array of them.

    alpha: of the data sample.
    beta: of the base sample.
    gamma: of the noise.
    alpha_slope: the derivative of alpha in t.
    beta_slope: the derivative of beta in t.
    gamma_rise: the derivative of gamma in t, times gamma, which is finite where that derivative is not.
    """

    alpha: Any
    beta: Any
    gamma: Any
    alpha_slope: Any
    beta_slope: Any
    gamma_rise: Any


class Fields(NamedTuple):
    """What is known of the states at a place and time.

    velocity: their mean slope in t, (rows, ...).
    score: the gradient of their log density, (rows, ...); None where there is no noise.
    """

    velocity: Tensor
    score: Tensor | None = None


FieldsLike = Callable[[Tensor, float], Fields]


@dataclass(frozen=True)
class TwoSided:
    """Which path joins a base and a data sample, and how much noise lies on it.

    path: "linear", "trig" (a quarter turn, shortened so that alpha^2 + beta^2 + gamma^2 = 1), or "encode-decode"
        (base to pure noise to data, with gamma "sine").
    gamma: "brownian" is sqrt(scale t (1 - t)), "quadratic" t (1 - t), "sine" sin^2(pi t), "zero" none (two-sided
        flow matching).
    scale: of the Brownian gamma, above 0 and below 4.
    Raises HastenError for settings that are not known or do not fit together.
    Source: Albergo et al. 2023, section 4.
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
        """The coefficients of the path.

        t: a time or an array of times, within [0, 1].
        """
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
        """The fields from what two networks predict; at an end, where gamma is 0, there is no score.

        slope: the predicted slope v of alpha x_data + beta x_base, (rows, ...).
        noise: the predicted z, eta, (rows, ...).
        t: the time, within [0, 1].
        Returns the velocity v + gamma' eta and the score -eta / gamma.
        """
        w = self.weights(t)
        if w.gamma == 0:
            return Fields(slope, None)
        return Fields(slope + float(w.gamma_rise / w.gamma) * noise, noise * float(-1 / w.gamma))
