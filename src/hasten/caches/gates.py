"""When a cache lets the network compute in full: a rule on the step, never on a count of calls."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from hasten.acceleration import Run
from hasten.errors import HastenError


class Gate(Protocol):
    """Decides which steps are computed in full. All queries of a step (predictor, corrector) share its fate."""

    def opens(self, run: Run) -> bool:
        """Whether the query that `run` is at is computed in full."""
        ...


@dataclass(frozen=True)
class Every(Gate):
    """Full on steps 0, interval, 2 interval, ...: ceil(steps / interval) of them."""

    interval: int

    def opens(self, run: Run) -> bool:
        return run.step % self.interval == 0


@dataclass(frozen=True)
class Listed(Gate):
    """Full on the listed steps, and always on step 0."""

    steps: frozenset[int]

    def opens(self, run: Run) -> bool:
        return run.step == 0 or run.step in self.steps


@dataclass(frozen=True)
class Centered(Gate):
    """As many full steps as `Every` has, but dense around step `center`. See `centered_steps`."""

    interval: int
    center: int
    power: float
    signed: bool

    def opens(self, run: Run) -> bool:
        return run.step in centered_steps(run.steps, self.interval, self.center, self.power, self.signed)


@lru_cache(maxsize=128)
def centered_steps(steps: int, interval: int, center: int, power: float, signed: bool) -> frozenset[int]:
    """ceil(steps / interval) steps out of `steps`, dense around `center`: a power curve, cut at whole numbers.

    signed: take sign(u) |u|^power left of the center and round; otherwise as the authors' code does, where
    the root of a negative number is complex and the real part of its power is cut towards zero.
    Where steps fall together, the power is lowered by 0.02 until they do not.
    Raises HastenError if that happens down to power 1.
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
