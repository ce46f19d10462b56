"""The tables of betas that discrete models were trained with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from hasten.core.errors import unknown
from hasten.processes.base import Array

COSINE_OFFSET = 0.008  # the paper's s


def table_betas(schedule: str, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000) -> Array:
    """The betas of a discrete training table, as diffusers names them.

    schedule: "linear", "scaled_linear", "squaredcos_cap_v2", "laplace" or "sigmoid".
    beta_start, beta_end: of all but "squaredcos_cap_v2" and "laplace".
    steps: how many betas.

    Raises HastenError for an unknown schedule.
    """
    tables = {
        "linear": lambda: np.linspace(beta_start, beta_end, steps),
        "scaled_linear": lambda: np.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2,
        "squaredcos_cap_v2": lambda: _betas_of(_squared_cosine, steps),
        "laplace": lambda: _betas_of(_laplace, steps),
        "sigmoid": lambda: logistic(np.linspace(-6, 6, steps)) * (beta_end - beta_start) + beta_start,
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


def snr_shifted(alphas_cumprod: ArrayLike, scale: float) -> Array:
    """The table with every signal-to-noise ratio divided by `scale`, as CogVideoX shifts its own.

    alphas_cumprod: decreasing table of alpha^2.
    scale: above 0.
    """
    table = np.asarray(alphas_cumprod, float)
    return table / (scale + (1 - scale) * table)


def logistic(x: ArrayLike) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(x, float)))


def _betas_of(alpha_bar: Callable[[Array], Array], steps: int, cap: float = 0.999) -> Array:
    """Of a function of time in [0, 1] that gives alpha^2 up to a factor, with betas of at most `cap`."""
    bar = alpha_bar(np.arange(steps + 1) / steps)
    return np.minimum(1 - bar[1:] / bar[:-1], cap)


def _squared_cosine(t: Array) -> Array:
    return np.cos((t + COSINE_OFFSET) / (1 + COSINE_OFFSET) * np.pi / 2) ** 2


def _laplace(t: Array) -> Array:
    """alpha^2 as diffusers takes the Laplace distribution of noise levels."""
    log_snr = -0.5 * np.copysign(1.0, 0.5 - t) * np.log(1 - 2 * np.abs(0.5 - t) + 1e-6)
    snr = np.exp(log_snr)
    return np.sqrt(snr / (1 + snr))
