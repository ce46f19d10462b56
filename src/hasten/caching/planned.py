"""Gates whose full steps are worked out before the run, for its number of steps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hasten.caching.gates import GATES, Gate
from hasten.core.errors import HastenError
from hasten.runtime.run import Run


@GATES.add
@dataclass(frozen=True)
class Magnitude(Gate):
    """Full where the error of holding a residual, estimated from known ratios of its size, would grow too large.

    See `magnitude_steps`.

    ratios: of the residual's size at each step to that of the step before.
    threshold: how large the errors of a stretch of skipped steps may be in sum.
    most: how many steps in a row may be skipped.
    retention: share of the steps, at the beginning, that are full, 0 to 1.
    keep: steps that are full in any case.
    """

    ratios: tuple[float, ...] = ()
    threshold: float = 0.24
    most: int = 5
    retention: float = 0.1
    keep: tuple[int, ...] = ()

    name = "magnitude"

    def opens(self, run: Run) -> bool:
        return run.step in magnitude_steps(run.steps, self.ratios, self.threshold, self.most, self.retention, self.keep)


@lru_cache(maxsize=128)
def magnitude_steps(
    steps: int, ratios: tuple[float, ...], threshold: float, most: int, retention: float, keep: tuple[int, ...]
) -> frozenset[int]:
    """The full steps of a run: the first round(retention steps), then where the error would grow too large.

    The product of the ratios since the last full step is how large the residual would have become; its distance from 1
    is the error of a step.

    steps: of the run.
    ratios: of the residual's size at each step to that of the step before, on a run of `len(ratios)` steps; in runs of
        another number the nearest is taken.
    threshold: how large the errors of a stretch of skipped steps may be in sum.
    most: how many steps in a row may be skipped.
    retention: share of the steps, at the beginning, that are full, 0 to 1.
    keep: steps that are full in any case.

    Source: Ma et al. 2025 (MagCache), section 3.3, and its code.
    """
    early, product, error, skipped = int(retention * steps + 0.5), 1.0, 0.0, 0
    full = {0}
    for step in range(steps):
        if step < early:
            full.add(step)
            continue
        product *= _nearest(ratios, step, steps)
        error, skipped = error + abs(1 - product), skipped + 1
        if step == 0 or step in keep or error > threshold or skipped > most:
            full.add(step)
            product, error, skipped = 1.0, 0.0, 0
    return frozenset(full)


def _nearest(ratios: tuple[float, ...], step: int, steps: int) -> float:
    """The ratio at the same fraction of the way; 1 if there are none."""
    if not ratios:
        return 1.0
    return ratios[round(step * (len(ratios) - 1) / (steps - 1))] if steps > 1 else ratios[-1]


@GATES.add
@dataclass(frozen=True)
class Centered(Gate):
    """As many full steps as `Every` has, but dense around one step. See `centered_steps`.

    interval: there are ceil(steps / interval) full steps; 1 is off.
    center: the step around which they are dense.
    power: how much denser they are there, above 1.
    signed: the form of the curve.
    """

    interval: int = 2
    center: int = 15
    power: float = 1.4
    signed: bool = False

    name = "centered"

    def opens(self, run: Run) -> bool:
        return run.step in centered_steps(run.steps, self.interval, self.center, self.power, self.signed)


@lru_cache(maxsize=128)
def centered_steps(steps: int, interval: int, center: int, power: float, signed: bool) -> frozenset[int]:
    """ceil(steps / interval) of the steps of a run, dense around `center`: a power curve, cut at whole numbers.

    Where steps fall together, the power is lowered by 0.02 until they do not.

    steps: of the run.
    interval: of how many steps one is full on average; 1 is all of them.
    center: the step around which they are dense.
    power: of the curve, above 1.
    signed: take sign(u) |u|^power left of the center and round. Otherwise do as the authors' code, where the root of a
        negative number is complex, and the real part of its power is cut towards zero.

    Raises HastenError if steps fall together down to power 1.
    Source: Ma et al. 2023 (DeepCache), section 3.4; `sample_from_quad_center` of its code.
    """
    if interval == 1:
        return frozenset(range(steps))
    count = -(-steps // interval)
    curve = _signed_curve if signed else _official_curve
    lowered = power
    while lowered > 1:
        distinct = np.unique(curve(steps, count, center, lowered))
        chosen = frozenset({0, *distinct[1:-1].tolist()})
        if len(chosen) == count:
            return chosen
        lowered -= 0.02
    raise HastenError(
        f"center: no {count} of {steps} steps can be spread around step {center} with a power of at most {power}; "
        'move the center, raise the power, or use schedule="uniform"'
    )


def _official_curve(steps: int, count: int, center: int, power: float) -> np.ndarray:
    roots = np.linspace(complex(-center) ** (1 / power), complex(steps - center) ** (1 / power), count + 1)
    return np.trunc((roots**power).real).astype(int) + center


def _signed_curve(steps: int, count: int, center: int, power: float) -> np.ndarray:
    def signed(u: np.ndarray | float, exponent: float) -> np.ndarray:
        return np.sign(u) * np.abs(u) ** exponent

    roots = np.linspace(signed(-center, 1 / power), signed(steps - center, 1 / power), count + 1)
    return np.round(signed(roots, power)).astype(int) + center
