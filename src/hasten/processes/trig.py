"""TrigFlow: a quarter turn from data to noise of the data's own standard deviation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hasten.core.errors import HastenError
from hasten.processes.base import Array, Process
from hasten.processes.gaussian import CONTINUOUS_T_MIN

QUARTER_TURN = 1.57080  # as Sana-Sprint rounds it, up


@dataclass(frozen=True)
class TrigFlow(Process):
    """alpha = cos t and sigma = sigma_data sin t, for t in [0, t_max]; from pi / 2 on alpha is 0.

    The network is shown t. What it answers is the slope of the state in t, which is a v-prediction in noise of standard
    deviation sigma_data (`hasten.predictions.Reading` with that as its `unit`).

    sigma_data: standard deviation of the data, above 0.
    t_max: where sampling starts, above 0 up to 1.5708; the paper has arctan(80 / sigma_data).

    Raises HastenError for values outside of these ranges.
    Source: Lu & Song 2024, section 3.
    """

    sigma_data: float = 0.5
    t_max: float = QUARTER_TURN
    t_min = CONTINUOUS_T_MIN

    def __post_init__(self) -> None:
        if not (np.isfinite(self.sigma_data) and self.sigma_data > 0):
            raise HastenError(f"sigma_data: {self.sigma_data} is not possible; give a standard deviation above 0")
        if not self.t_min < self.t_max <= QUARTER_TURN:
            raise HastenError(f"t_max: {self.t_max} is not possible; give an angle up to {QUARTER_TURN} (pi / 2)")

    def alpha(self, t: ArrayLike) -> Array:
        t = np.asarray(t, float)
        return np.where(t >= np.pi / 2, 0.0, np.cos(t))

    def sigma(self, t: ArrayLike) -> Array:
        return self.sigma_data * np.sin(np.minimum(np.asarray(t, float), np.pi / 2))

    def time(self, lam: ArrayLike) -> Array:
        lam = np.asarray(lam, float)
        with np.errstate(over="ignore"):
            t = np.arctan(np.exp(-lam) / self.sigma_data)
        return np.where(np.isneginf(lam), self.t_max, t)

    @property
    def start_scale(self) -> float:
        return self.sigma_data
