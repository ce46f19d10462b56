"""One-sided stochastic interpolants: Gaussian noise to data along three classic paths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hasten.core.errors import one_of
from hasten.processes.base import Array, Process
from hasten.processes.gaussian import CONTINUOUS_T_MIN

PATHS = ("linear", "trig", "vp")


@dataclass(frozen=True)
class OneSided(Process):
    """alpha and sigma over t in [0, 1]: 1 - t and t; cos and sin of a quarter turn; 1 - t and sqrt(1 - alpha^2).

    The network is shown t. The paper's time runs the other way, its velocity b is minus the slope of the state in t
    here.

    path: "linear" (rectified flow), "trig" or "vp".

    Source: Albergo et al. 2023, arXiv 2303.08797, on one-sided interpolants.
    """

    path: str = "linear"
    t_max = 1.0
    t_min = CONTINUOUS_T_MIN

    def __post_init__(self) -> None:
        one_of("path", self.path, PATHS)

    def alpha(self, t: ArrayLike) -> Array:
        t = np.asarray(t, float)
        return np.where(t >= 1, 0.0, np.cos(np.pi / 2 * t)) if self.path == "trig" else 1 - t

    def sigma(self, t: ArrayLike) -> Array:
        t = np.asarray(t, float)
        return {"linear": t * 1.0, "trig": np.sin(np.pi / 2 * t), "vp": np.sqrt(t * (2 - t))}[self.path]

    def time(self, lam: ArrayLike) -> Array:
        lam = np.asarray(lam, float)
        if self.path == "linear":
            return np.exp(-np.logaddexp(0.0, lam))
        if self.path == "trig":
            return 2 / np.pi * np.arctan(np.exp(-lam))
        return -np.expm1(-0.5 * np.logaddexp(0.0, -2 * lam))
