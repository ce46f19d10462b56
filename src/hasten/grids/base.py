"""At which times a run asks the network: decreasing times from the start of a process towards data.

A grid gives `count` times, the first at `t_max` unless its definition says otherwise, the last at or above
`t_min`. `schedule` turns them into the times of a run: a run that ends on data appends time 0 after them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from hasten.core.errors import HastenError, positive_int
from hasten.core.fitters import fitters
from hasten.core.registry import Registry
from hasten.processes import Array, Process

ENDS = ("data", "min")
BELOW_INFINITE = 1e-3  # share of the first time by which lam is read off later, where it is infinite there
ROUNDING = 1e-12  # share of t_max by which a first time may be above it


class Grid(ABC):
    """A rule that places decreasing times on a process. Subclasses are frozen dataclasses of settings.

    name: what recipes call it.
    search_space: what a search tries for each setting, as of an Acceleration; None leaves the grid alone.
    needs_fit: whether it takes numbers of the model, see `fit`, and has none yet; it has other times without.
    """

    name: ClassVar[str]
    search_space: ClassVar[Mapping[str, Any] | None] = None
    needs_fit: bool = False

    @abstractmethod
    def times(self, process: Process, count: int) -> Array:
        """Decreasing times in (0, t_max], float64.

        process: of the network.
        count: how many, at least 1.
        """

    def fit(self, *model_and_samples: Any, **settings: Any) -> Self:
        """The same grid with times of one model: `FittedGrid().fit(denoiser, solver, noises, steps=6)`.

        Read on at the function of the class in `hasten.fit` (`fit/grid.py` for `FittedGrid`).
        Raises HastenError if there is nothing to fit in this grid.
        """
        return fitters(self, *model_and_samples, **settings)


@dataclass(frozen=True)
class Explicit(Grid):
    """These times and no others.

    at: decreasing; the last one may be 0 (then the run ends on data).
    """

    at: tuple[float, ...] = ()
    name = "explicit"

    def times(self, process: Process, count: int) -> Array:
        return np.asarray(self.at, float)


GridLike = str | Mapping[str, Any] | Grid | Sequence[float] | Array

GRIDS: Registry[Grid] = Registry("grid", Grid)


def schedule(grid: GridLike, process: Process, steps: int, end: str = "data") -> Array:
    """The steps + 1 times of a run, noisiest first.

    grid: a name, a Grid, or explicit decreasing times (then `steps` is implied and ignored).
    process: of the network.
    steps: at least 1.
    end: "data" appends time 0, where the data prediction is the result; "min" stops at the smallest time.

    Raises HastenError for steps below 1, an unknown name, or times that do not decrease within the process.
    """
    if end not in ENDS:
        raise HastenError(f"end: {end!r} is not known; choose 'data' (finish on data) or 'min' (stop at t_min)")
    resolved = resolve(grid)
    if isinstance(resolved, Explicit):
        return _checked(np.asarray(resolved.at, float), process)
    positive_int("steps", steps)
    if end == "min":
        return _checked(resolved.times(process, steps + 1), process)
    return _checked(np.append(resolved.times(process, steps), 0.0), process)


def resolve(grid: GridLike) -> Grid:
    """The Grid that a name, a mapping with a name and fields, or a sequence of times stands for."""
    if isinstance(grid, Grid):
        return grid
    if isinstance(grid, str | Mapping):
        return GRIDS.build(grid)
    return Explicit(tuple(float(t) for t in grid))


def _checked(times: Array, process: Process) -> Array:
    ok = times.ndim == 1 and len(times) >= 2 and np.isfinite(times).all() and (np.diff(times) < 0).all()
    if not ok or times[0] > process.t_max * (1 + ROUNDING) or times[-1] < 0:
        raise HastenError(
            f"grid: times must fall steadily within [0, {process.t_max:g}] and be at least two; "
            f"got {np.array2string(times, precision=4, threshold=12)}"
        )
    return times


def start(process: Process, t: float | None = None) -> float:
    """lam at t, or at t_max if it is None; where that is -inf, lam a little below."""
    t = process.t_max if t is None else t
    lam = float(process.lam(t))
    return lam if np.isfinite(lam) else float(process.lam(t * (1 - BELOW_INFINITE)))
