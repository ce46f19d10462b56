"""What every process answers: alpha and sigma as functions of time, in float64, without any network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]


class Process(ABC):
    """A Gaussian path from data (t = 0) to noise (t = t_max).

    All methods take a number or an array of times in [0, t_max] and return float64 of the same shape.

    t_max: the time of pure noise, where sampling starts.
    t_min: the smallest time a network was trained on.
    discrete: whether the network was trained on whole-numbered times only.
    """

    t_max: float
    t_min: float
    discrete = False

    @abstractmethod
    def alpha(self, t: ArrayLike) -> Array:
        """How much of the data is left at time t; 1 at t = 0."""

    @abstractmethod
    def sigma(self, t: ArrayLike) -> Array:
        """How much noise there is at time t; 0 at t = 0."""

    @abstractmethod
    def time(self, lam: ArrayLike) -> Array:
        """The time at which log(alpha / sigma) is `lam`; +inf gives 0. Inverse of `lam`."""

    def lam(self, t: ArrayLike) -> Array:
        """Half the log signal-to-noise ratio, decreasing in t, +inf at t = 0."""
        with np.errstate(divide="ignore"):
            return np.log(self.alpha(t)) - np.log(self.sigma(t))

    def network_time(self, t: ArrayLike) -> Array:
        """The number that the network is shown for time t."""
        return np.asarray(t, float)

    def from_network_time(self, number: ArrayLike) -> Array:
        """The time whose `network_time` is `number`."""
        return np.asarray(number, float)

    @property
    def start_scale(self) -> float:
        """What unit noise is multiplied by to become a start state (1 but for exploding processes)."""
        return 1.0
