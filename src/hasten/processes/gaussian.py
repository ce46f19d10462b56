"""The processes of pretrained models: variance preserving and exploding, rectified flow, cosine, angular."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from hasten.core.errors import HastenError, one_of
from hasten.core.frozen import set_fields
from hasten.processes.base import Array, Process
from hasten.processes.betas import COSINE_OFFSET, logistic, table_betas, zero_terminal

CONTINUOUS_T_MIN = 1e-3  # the smallest time of a process over [0, 1] that says nothing else


@dataclass(frozen=True, eq=False)
class VariancePreserving(Process):
    """alpha^2 + sigma^2 = 1, from a table of cumulative alphas made continuous.

    Table index n sits at time n + 1, and log alpha is interpolated linearly in between; a table that ends in exactly
    0 (zero terminal SNR) is interpolated linearly in alpha on its last interval instead, where log alpha has no end.
    Without arguments this is Stable Diffusion's scaled-linear table of 1,000 steps.

    alphas_cumprod: decreasing table of alpha^2 at training steps 0 .. N-1, values in [0, 1).

    Raises HastenError for a table that does not fall steadily within [0, 1).
    """

    alphas_cumprod: Array = field(default_factory=lambda: np.cumprod(1 - table_betas("scaled_linear")))

    discrete = True

    def __post_init__(self) -> None:
        table = np.asarray(self.alphas_cumprod, float)
        if table.ndim != 1 or not len(table) or (np.diff(table) >= 0).any() or table[0] >= 1 or table[-1] < 0:
            raise HastenError(
                "alphas_cumprod: must be a list of numbers that fall steadily within [0, 1); "
                f"got {np.array2string(table, threshold=6)}"
            )
        reaches_zero = table[-1] == 0.0
        positive = table[:-1] if reaches_zero else table
        set_fields(self, alphas_cumprod=table)
        set_fields(self, t_max=float(len(table)))
        set_fields(self, t_min=1.0)
        set_fields(self, _reaches_zero=reaches_zero)
        set_fields(self, _log_alphas=np.concatenate([[0.0], 0.5 * np.log(positive)]))

    @classmethod
    def from_betas(
        cls, schedule: str = "scaled_linear", beta_start: float = 0.00085, beta_end: float = 0.012,
        steps: int = 1000, zero_terminal_snr: bool = False,
    ) -> VariancePreserving:  # fmt: skip
        """The process of a named table of betas.

        schedule, beta_start, beta_end, steps: see `table_betas`.
        zero_terminal_snr: whether the table is changed to end in 0, see `zero_terminal`.
        """
        alphas_cumprod = np.cumprod(1 - table_betas(schedule, beta_start, beta_end, steps))
        return cls(zero_terminal(alphas_cumprod) if zero_terminal_snr else alphas_cumprod)

    def _log_alpha(self, t: ArrayLike) -> Array:
        t = np.asarray(t, float)
        logs: Array = self._log_alphas  # type: ignore[attr-defined]
        log_alpha = np.interp(t, np.arange(len(logs)), logs)
        if self._reaches_zero:  # type: ignore[attr-defined]
            with np.errstate(divide="ignore", invalid="ignore"):
                log_alpha = np.where(t > len(logs) - 1, logs[-1] + np.log(self.t_max - t), log_alpha)
        return log_alpha

    def alpha(self, t: ArrayLike) -> Array:
        return np.exp(self._log_alpha(t))

    def sigma(self, t: ArrayLike) -> Array:
        return np.sqrt(-np.expm1(2 * self._log_alpha(t)))  # no cancellation where alpha is nearly 1

    def time(self, lam: ArrayLike) -> Array:
        log_alpha = -0.5 * np.logaddexp(0.0, -2 * np.asarray(lam, float))
        logs: Array = self._log_alphas  # type: ignore[attr-defined]
        t = np.interp(-log_alpha, -logs, np.arange(len(logs), dtype=float))
        if self._reaches_zero:  # type: ignore[attr-defined]
            t = np.where(log_alpha < logs[-1], self.t_max - np.exp(log_alpha - logs[-1]), t)
        return t

    def network_time(self, t: ArrayLike) -> Array:
        return np.maximum(np.asarray(t, float) - 1.0, 0.0)

    def from_network_time(self, number: ArrayLike) -> Array:
        return np.asarray(number, float) + 1.0


@dataclass(frozen=True)
class VarianceExploding(Process):
    """alpha = 1 and sigma = t, the process of EDM; the network is shown log(sigma) / 4.

    sigma_min, sigma_max: the range the network was trained on.
    shown: as what the network is shown sigma: "log" is log(sigma) / 4, "log-1000" that times 1000 (consistency models),
        "angle" atan(sigma) in quarter turns (Stable Audio).

    Source: Karras et al. 2022, table 1.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    shown: str = "log"

    _SCALES: ClassVar[dict[str, float]] = {"log": 0.25, "log-1000": 250.0}

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise HastenError(f"sigma_min: {self.sigma_min} must lie between 0 and sigma_max = {self.sigma_max}")
        one_of("shown", self.shown, (*self._SCALES, "angle"))
        set_fields(self, t_max=self.sigma_max)
        set_fields(self, t_min=self.sigma_min)

    def alpha(self, t: ArrayLike) -> Array:
        return np.ones_like(np.asarray(t, float))

    def sigma(self, t: ArrayLike) -> Array:
        return np.asarray(t, float) * 1.0

    def time(self, lam: ArrayLike) -> Array:
        return np.exp(-np.asarray(lam, float))

    def network_time(self, t: ArrayLike) -> Array:
        if self.shown == "angle":
            return np.arctan(np.asarray(t, float)) * 2 / np.pi
        return self._SCALES[self.shown] * np.log(np.asarray(t, float))

    def from_network_time(self, number: ArrayLike) -> Array:
        if self.shown == "angle":
            return np.tan(np.asarray(number, float) * np.pi / 2)
        return np.exp(np.asarray(number, float) / self._SCALES[self.shown])

    @property
    def start_scale(self) -> float:
        return self.sigma_max


@dataclass(frozen=True)
class RectifiedFlow(Process):
    """alpha = 1 - sigma, with sigma(t) = shift t / (1 + (shift - 1) t) for t in [0, 1].

    shift: above 0; more than 1 spends more of a uniform grid on high noise (SD3 uses 3, Flux exp(mu)).
    scale: the network is shown scale * sigma.
    inverted: it is shown scale * (1 - sigma) instead.

    Source: Esser et al. 2024, eq. (23).
    """

    shift: float = 1.0
    scale: float = 1000.0
    inverted: bool = False
    t_max = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.shift) and self.shift > 0):
            raise HastenError(f"shift: {self.shift} is not possible; give a number above 0 (1 means none)")
        smallest = 1 / self.scale if self.scale > 1 else CONTINUOUS_T_MIN
        set_fields(self, t_min=self.time_of_sigma(smallest).item())

    def alpha(self, t: ArrayLike) -> Array:
        t = np.asarray(t, float)
        return (1 - t) / (1 + (self.shift - 1) * t)

    def sigma(self, t: ArrayLike) -> Array:
        t = np.asarray(t, float)
        return self.shift * t / (1 + (self.shift - 1) * t)

    def time_of_sigma(self, sigma: ArrayLike) -> Array:
        """The time at which sigma(t) is `sigma`, in [0, 1]."""
        sigma = np.asarray(sigma, float)
        return sigma / (self.shift - (self.shift - 1) * sigma)

    def time(self, lam: ArrayLike) -> Array:
        # alpha / sigma = e^lam and alpha + sigma = 1
        return self.time_of_sigma(logistic(-np.asarray(lam, float)))

    def network_time(self, t: ArrayLike) -> Array:
        return self.scale * (self.alpha(t) if self.inverted else self.sigma(t))

    def from_network_time(self, number: ArrayLike) -> Array:
        level = np.asarray(number, float) / self.scale
        return self.time_of_sigma(1 - level if self.inverted else level)


@dataclass(frozen=True)
class Cosine(Process):
    """alpha = cos((t + s) / (1 + s) pi / 2) / cos(s / (1 + s) pi / 2), variance preserving, t in [0, 1].

    At t = 1 alpha is 0.

    s: keeps noise from vanishing too fast near data, above 0.
    scale: the network is shown scale * t.
    floor: the smallest alpha^2, where the cosine goes below it; 1e-4 in Wuerstchen and Stable Cascade.
    bend: t is 1 - (1 - t)^bend above 1, t^bend below it, before anything else (Wuerstchen's scaler).

    Source: Nichol & Dhariwal 2021, eq. (17).
    """

    s: float = COSINE_OFFSET
    scale: float = 1000.0
    floor: float = 0.0
    bend: float = 1.0
    t_max = 1.0
    t_min = CONTINUOUS_T_MIN

    def __post_init__(self) -> None:
        for name in ("s", "bend"):
            if not (np.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise HastenError(f"{name}: {getattr(self, name)} is not possible; give a number above 0")

    def _angle(self, t: ArrayLike) -> Array:
        t = np.asarray(t, float)
        if self.bend != 1:
            t = 1 - (1 - t) ** self.bend if self.bend > 1 else t**self.bend
        return (t + self.s) / (1 + self.s) * np.pi / 2

    def alpha(self, t: ArrayLike) -> Array:
        ratio = np.cos(self._angle(t)) / np.cos(self._angle(0.0))
        return np.where(np.asarray(t) >= 1.0, self.floor**0.5, np.clip(ratio, self.floor**0.5, 1.0))

    def sigma(self, t: ArrayLike) -> Array:
        # cos^2 a - cos^2 b = sin(a + b) sin(b - a): no cancellation near t = 0
        zero, angle = self._angle(0.0), self._angle(t)
        square = np.sin(zero + angle) * np.sin(angle - zero) / np.cos(zero) ** 2
        return np.sqrt(np.clip(square, 0.0, 1 - self.floor))

    def time(self, lam: ArrayLike) -> Array:
        alpha = np.exp(-0.5 * np.logaddexp(0.0, -2 * np.asarray(lam, float)))
        angle = np.arccos(np.clip(alpha * np.cos(self._angle(0.0)), -1, 1))
        t = np.clip(angle * 2 / np.pi * (1 + self.s) - self.s, 0.0, 1.0)
        if self.bend == 1:
            return t
        return 1 - (1 - t) ** (1 / self.bend) if self.bend > 1 else t ** (1 / self.bend)

    def network_time(self, t: ArrayLike) -> Array:
        return self.scale * np.asarray(t, float)

    def from_network_time(self, number: ArrayLike) -> Array:
        return np.asarray(number, float) / self.scale


@dataclass(frozen=True)
class Angular(Process):
    """alpha = cos t and sigma = sin t, for angles t in [0, pi/2]: the process of Dance Diffusion.

    scale: the network is shown scale * t; 2 / pi shows it quarter turns.

    Source: Salimans & Ho 2022, section 4 (angles of variance-preserving noise).
    """

    scale: float = 2 / np.pi
    t_max = np.pi / 2
    t_min = CONTINUOUS_T_MIN

    def alpha(self, t: ArrayLike) -> Array:
        return np.where(np.asarray(t) >= self.t_max, 0.0, np.cos(np.asarray(t, float)))

    def sigma(self, t: ArrayLike) -> Array:
        return np.sin(np.asarray(t, float))

    def time(self, lam: ArrayLike) -> Array:
        return np.arctan(np.exp(-np.asarray(lam, float)))

    def network_time(self, t: ArrayLike) -> Array:
        return self.scale * np.asarray(t, float)

    def from_network_time(self, number: ArrayLike) -> Array:
        return np.asarray(number, float) / self.scale
