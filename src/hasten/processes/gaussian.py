"""The processes of pretrained models: variance preserving and exploding, rectified flow, cosine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hasten.core.errors import HastenError, one_of, unknown
from hasten.core.frozen import set_fields
from hasten.processes.base import Array, Process

COSINE_OFFSET = 0.008  # the paper's s
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

    Source: Karras et al. 2022, table 1.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise HastenError(f"sigma_min: {self.sigma_min} must lie between 0 and sigma_max = {self.sigma_max}")
        set_fields(self, t_max=self.sigma_max)
        set_fields(self, t_min=self.sigma_min)

    def alpha(self, t: ArrayLike) -> Array:
        return np.ones_like(np.asarray(t, float))

    def sigma(self, t: ArrayLike) -> Array:
        return np.asarray(t, float) * 1.0

    def time(self, lam: ArrayLike) -> Array:
        return np.exp(-np.asarray(lam, float))

    def network_time(self, t: ArrayLike) -> Array:
        return 0.25 * np.log(np.asarray(t, float))

    def from_network_time(self, number: ArrayLike) -> Array:
        return np.exp(4.0 * np.asarray(number, float))

    @property
    def start_scale(self) -> float:
        return self.sigma_max


@dataclass(frozen=True)
class RectifiedFlow(Process):
    """alpha = 1 - sigma, with sigma(t) = shift t / (1 + (shift - 1) t) for t in [0, 1].

    shift: above 0; more than 1 spends more of a uniform grid on high noise (SD3 uses 3, Flux exp(mu)).
    scale: the network is shown scale * sigma.

    Source: Esser et al. 2024, eq. (23).
    """

    shift: float = 1.0
    scale: float = 1000.0
    t_max = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.shift) and self.shift > 0):
            raise HastenError(f"shift: {self.shift} is not possible; give a number above 0 (1 means none)")
        set_fields(self, t_min=self.time_of_sigma(1 / self.scale).item())

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
        return self.time_of_sigma(_logistic(-np.asarray(lam, float)))

    def network_time(self, t: ArrayLike) -> Array:
        return self.scale * self.sigma(t)

    def from_network_time(self, number: ArrayLike) -> Array:
        return self.time_of_sigma(np.asarray(number, float) / self.scale)


@dataclass(frozen=True)
class Cosine(Process):
    """alpha = cos((t + s) / (1 + s) pi / 2) / cos(s / (1 + s) pi / 2), variance preserving, t in [0, 1].

    At t = 1 alpha is 0.

    s: keeps noise from vanishing too fast near data, above 0.
    scale: the network is shown scale * t.

    Source: Nichol & Dhariwal 2021, eq. (17).
    """

    s: float = COSINE_OFFSET
    scale: float = 1000.0
    t_max = 1.0
    t_min = CONTINUOUS_T_MIN

    def _angle(self, t: ArrayLike) -> Array:
        return (np.asarray(t, float) + self.s) / (1 + self.s) * np.pi / 2

    def alpha(self, t: ArrayLike) -> Array:
        ratio = np.cos(self._angle(t)) / np.cos(self._angle(0.0))
        return np.where(np.asarray(t) >= 1.0, 0.0, np.clip(ratio, 0.0, 1.0))

    def sigma(self, t: ArrayLike) -> Array:
        # cos^2 a - cos^2 b = sin(a + b) sin(b - a): no cancellation near t = 0
        zero, angle = self._angle(0.0), self._angle(t)
        return np.sqrt(np.sin(zero + angle) * np.sin(angle - zero)) / np.cos(zero)

    def time(self, lam: ArrayLike) -> Array:
        alpha = np.exp(-0.5 * np.logaddexp(0.0, -2 * np.asarray(lam, float)))
        angle = np.arccos(np.clip(alpha * np.cos(self._angle(0.0)), -1, 1))
        return angle * 2 / np.pi * (1 + self.s) - self.s

    def network_time(self, t: ArrayLike) -> Array:
        return self.scale * np.asarray(t, float)

    def from_network_time(self, number: ArrayLike) -> Array:
        return np.asarray(number, float) / self.scale


def table_betas(schedule: str, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000) -> Array:
    """The betas of a discrete training table, as diffusers names them.

    schedule: "linear", "scaled_linear", "squaredcos_cap_v2" or "sigmoid".
    beta_start, beta_end: of all but "squaredcos_cap_v2".
    steps: how many betas.

    Raises HastenError for an unknown schedule.
    """
    tables = {
        "linear": lambda: np.linspace(beta_start, beta_end, steps),
        "scaled_linear": lambda: np.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2,
        "squaredcos_cap_v2": lambda: _squared_cosine_betas(steps),
        "sigmoid": lambda: _logistic(np.linspace(-6, 6, steps)) * (beta_end - beta_start) + beta_start,
    }
    if schedule not in tables:
        raise unknown("beta_schedule", schedule, tables)
    return tables[schedule]()


def zero_terminal(alphas_cumprod: ArrayLike) -> Array:
    """Shift and scale sqrt(alphas_cumprod) so that it ends in 0 and starts as before.

    alphas_cumprod: decreasing table of alpha^2.

    Source: Lin et al. 2023, algorithm 1.
    """
    root = np.sqrt(np.asarray(alphas_cumprod, float))
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def from_config(config: Mapping[str, Any]) -> Process:
    """The process that a diffusers scheduler config describes.

    config: its betas (named table or `trained_betas`, with `rescale_betas_zero_snr`), flow matching with its
        `shift` (`flow_shift`), or an EDM scheduler's sigma range are read.

    Raises HastenError for an unknown beta_schedule.
    """
    has_betas = "beta_start" in config or config.get("trained_betas") is not None
    flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    if flow or ("shift" in config and not has_betas):
        shift = config.get("shift", config.get("flow_shift", 1.0))
        # with a dynamic shift (Flux) the pipeline hands over mu for each picture size
        shift = 1.0 if config.get("use_dynamic_shifting") else float(shift or 1.0)
        return RectifiedFlow(shift, float(config.get("num_train_timesteps", 1000)))
    if "sigma_data" in config and not has_betas:
        return VarianceExploding(float(config["sigma_min"]), float(config["sigma_max"]))
    if config.get("trained_betas") is not None:
        betas = np.asarray(config["trained_betas"], float)
    else:
        betas = table_betas(
            config.get("beta_schedule", "linear"), config.get("beta_start", 0.0001),
            config.get("beta_end", 0.02), config.get("num_train_timesteps", 1000),
        )  # fmt: skip
    alphas_cumprod = np.cumprod(1 - betas)
    return VariancePreserving(zero_terminal(alphas_cumprod) if config.get("rescale_betas_zero_snr") else alphas_cumprod)


def dynamic_process(config: Mapping[str, Any], process: Process, mu: float | None) -> Process:
    """The process once the picture size is known: `mu` sets the shift where the config shifts dynamically.

    Raises HastenError if such a config gets no usable mu. Elsewhere mu is ignored, as diffusers does.
    """
    if not config.get("use_dynamic_shifting") or not isinstance(process, RectifiedFlow):
        return process
    if mu is None or not np.isfinite(mu):
        raise HastenError(f"mu: {mu} is not possible; this model shifts by picture size and needs a number")
    kind = config.get("time_shift_type", "exponential")
    one_of("time_shift_type", kind, ("exponential", "linear"))
    return RectifiedFlow(float(np.exp(mu)) if kind == "exponential" else float(mu), process.scale)


def _squared_cosine_betas(steps: int, cap: float = 0.999) -> Array:
    """Of the cosine of `Cosine`, with betas of at most `cap`."""
    bar = np.cos((np.arange(steps + 1) / steps + COSINE_OFFSET) / (1 + COSINE_OFFSET) * np.pi / 2) ** 2
    return np.minimum(1 - bar[1:] / bar[:-1], cap)


def _logistic(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))
