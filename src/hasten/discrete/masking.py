"""How many tokens are masked at which time: each one on its own, with probability `masked(t)`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hasten.core.errors import HastenError
from hasten.processes import Array


class Schedule(ABC):
    """masked(t) rises from about 0 at time 0 to about 1 at time 1; runs start with every token masked."""

    @abstractmethod
    def masked(self, t: ArrayLike) -> Array:
        """The probability that a token is masked at time t, in [0, 1]: 1 - exp(-total noise)."""

    @abstractmethod
    def rate(self, t: ArrayLike) -> Array:
        """d log masked / dt: the rate at which a masked token is revealed in reverse, t > 0."""


@dataclass(frozen=True)
class LogLinear(Schedule):
    """masked = (1 - floor) t.

    floor: the share of tokens that is never masked, from 0 to below 1.
    Source: Lou et al. 2023, arXiv 2310.16834.
    """

    floor: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 <= self.floor < 1:
            raise HastenError(f"floor: {self.floor} is not possible; give a number from 0 to below 1")

    def masked(self, t: ArrayLike) -> Array:
        return (1 - self.floor) * np.asarray(t, float)

    def rate(self, t: ArrayLike) -> Array:
        return 1 / np.asarray(t, float)


@dataclass(frozen=True)
class Geometric(Schedule):
    """Total noise low^(1 - t) high^t.

    low: the total noise at time 0, above 0.
    high: the total noise at time 1, above `low`.
    Source: Lou et al. 2023, arXiv 2310.16834.
    """

    low: float = 1e-5
    high: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise HastenError(f"low: {self.low} must lie between 0 and high = {self.high}")

    def _total(self, t: ArrayLike) -> Array:
        t = np.asarray(t, float)
        return self.low ** (1 - t) * self.high**t

    def masked(self, t: ArrayLike) -> Array:
        return -np.expm1(-self._total(t))

    def rate(self, t: ArrayLike) -> Array:
        total = self._total(t)
        return total * math.log(self.high / self.low) / np.expm1(total)
