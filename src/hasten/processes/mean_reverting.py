"""Mean-reverting diffusion: clean data drift towards a degraded image, with stationary noise around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hasten.core.errors import HastenError, one_of, positive_int
from hasten.core.frozen import set_fields
from hasten.processes.base import Array, Process
from hasten.processes.gaussian import COSINE_OFFSET

SPEEDS = ("cosine", "linear", "constant")
SLOWEST, FASTEST = 1e-4, 2e-2  # theta at both ends of a "linear" speed


@dataclass(frozen=True)
class MeanReverting(Process):
    """y = x - mu of dx = theta (mu - x) dt + stationary sqrt(2 theta) dW: a plain process around the mean.

    sigma = stationary sqrt(1 - alpha^2). As in VariancePreserving, table index n is at time n + 1, log alpha is
    linear in between (the official code interpolates alpha, sigma and lam each on its own), and time 0 is clean data.
    The network is shown the index; it is trained on 1 .. steps. `denoisers.AroundMean` wraps a network for it, and
    says which solvers are the paper's.

    stationary: the standard deviation of the noise in the end, in units of the images, above 0; the paper's 50/255 is
        for images in [0, 1].
    final: alpha at the last training step, between 0 and 1.
    speed: how theta varies, "cosine", "linear" or "constant".
    steps: training steps, at least 1.

    Source: Luo et al. 2023, arXiv 2301.11699, section 3; Li et al. 2025, arXiv 2502.07856.
    """

    stationary: float = 50 / 255
    final: float = 0.005
    speed: str = "cosine"
    steps: int = 100

    discrete = True
    t_min = 2.0

    def __post_init__(self) -> None:
        one_of("speed", self.speed, SPEEDS)
        positive_int("steps", self.steps)
        if not self.stationary > 0:
            raise HastenError(f"stationary: {self.stationary} is not possible; give a standard deviation above 0")
        if not 0 < self.final < 1:
            raise HastenError(f"final: {self.final} is not possible; give a number between 0 and 1")
        passed = np.concatenate([[0.0], np.cumsum(_speeds(self.speed, self.steps))])
        # hidden from comparison and hashing: the fields above say it all
        set_fields(self, _log_alphas=np.log(self.final) * passed / passed[-1])
        set_fields(self, t_max=self.steps + 1.0)

    def _log_alpha(self, t: ArrayLike) -> Array:
        logs: Array = self._log_alphas  # type: ignore[attr-defined]
        return np.interp(np.asarray(t, float), np.arange(len(logs)), logs)

    def alpha(self, t: ArrayLike) -> Array:
        return np.exp(self._log_alpha(t))

    def sigma(self, t: ArrayLike) -> Array:
        return self.stationary * np.sqrt(-np.expm1(2 * self._log_alpha(t)))

    def time(self, lam: ArrayLike) -> Array:
        log_alpha = -0.5 * np.logaddexp(0.0, -2 * (np.asarray(lam, float) + np.log(self.stationary)))
        logs: Array = self._log_alphas  # type: ignore[attr-defined]
        return np.interp(-log_alpha, -logs, np.arange(len(logs), dtype=float))

    def network_time(self, t: ArrayLike) -> Array:
        return np.maximum(np.asarray(t, float) - 1.0, 0.0)

    def from_network_time(self, number: ArrayLike) -> Array:
        return np.asarray(number, float) + 1.0

    @property
    def start_scale(self) -> float:
        return self.stationary


def _speeds(speed: str, steps: int) -> Array:
    """theta at indices 0 .. steps, but for a factor."""
    if speed == "cosine":
        whole = 1 + COSINE_OFFSET
        bar = np.cos((np.arange(1, steps + 2) / (steps + 2) + COSINE_OFFSET) / whole * np.pi / 2) ** 2
        return 1 - bar / np.cos(COSINE_OFFSET / whole * np.pi / 2) ** 2
    if speed == "linear":
        return np.linspace(SLOWEST, FASTEST, steps + 1)
    return np.ones(steps + 1)
