"""DC-Solver's compensation ratios: the search for one, and the polynomial that predicts all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from hasten.processes import Array

BOUNDS = (0.3, 2.5)  # where a ratio is searched
POWERS = (4, 3, 3)  # of the cascade: how many powers of step / NFE, guidance / 12 and NFE / 50
COEFFICIENTS = 36  # as many as products of those powers


def best_ratio(step: Callable[[float], tuple[Tensor, object]], aim: Tensor) -> float:
    """The ratio that leads nearest to the aim, by Brent's method; 1 if none leads nearer than that.

    step: ratio -> the state it leads to, and what else the caller wants of it.
    """
    from scipy.optimize import minimize_scalar

    def loss(ratio: float) -> float:
        return float((step(ratio)[0] - aim).square().mean())

    found = minimize_scalar(loss, bounds=BOUNDS, method="bounded", options={"xatol": 1e-3, "maxiter": 30})
    return float(found.x) if found.fun < loss(1.0) else 1.0


def cascade_of(ratios: Mapping[tuple[int, float], tuple[float, ...]]) -> tuple[float, ...]:
    """The 36 coefficients nearest to these ratios. ratios: (number of steps, guidance scale) -> one a step.

    They enter linearly, so this is one least-squares problem, of least norm where the ratios leave some
    undetermined. The first two ratios of a run are always 1 and are left out. Source: Zhao et al. 2024, section 3.
    """
    rows = np.concatenate([_powers(*run)[2:] for run in ratios])
    # solved for the deviation from 1, so that what is undetermined stays at ratio 1
    found = np.linalg.lstsq(rows, np.concatenate([of[2:] for of in ratios.values()]) - 1, rcond=1e-8)[0]
    found[0] += 1
    return tuple(found.tolist())


def cascaded(coefficients: tuple[float, ...], steps: int, guidance: float) -> tuple[float, ...]:
    """The ratios of a run, one a step, that a cascade gives; the first two are 1."""
    found = _powers(steps, guidance) @ np.array(coefficients)
    return (1.0, 1.0, *np.clip(found[2:], *BOUNDS).tolist())[:steps]


def _powers(steps: int, guidance: float) -> Array:
    """(steps, 36): every product of powers of step / NFE, guidance / 12 and NFE / 50, for steps 1 .. NFE."""
    axes = (np.arange(1, steps + 1) / steps, guidance / 12, steps / 50)
    a, b, c = (np.power.outer(axis, np.arange(count, dtype=float)) for axis, count in zip(axes, POWERS))
    return np.einsum("si,j,k->sijk", a, b, c).reshape(steps, -1)
