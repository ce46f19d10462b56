"""Rules that place the times of a run, whatever the model: one class a rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hasten.core.errors import HastenError
from hasten.core.registry import Span
from hasten.grids.base import GRIDS, Explicit, Grid, start
from hasten.processes import Array, Process


@dataclass(frozen=True)
class Uniform(Grid):
    """Uniform in time, spaced as diffusers means the words (0-based training step n is time n + 1).

    On processes trained at whole-numbered times the result is rounded to those, as diffusers does; on continuous
    ones it is not, "leading" leaves a gap at the start, and "linspace" ends at t_min.

    spacing: "trailing" starts at the last training step and leaves a gap at the end; "leading" the other
        way round (k * (T // count) + offset); "linspace" visits both ends.
    offset: of "leading", in training steps.

    Source: Lin et al. 2023, table 2.
    """

    spacing: str = "trailing"
    offset: int = 0
    name = "uniform"
    search_space: ClassVar[Mapping[str, Any]] = {"spacing": ("trailing",)}

    def times(self, process: Process, count: int) -> Array:
        if self.spacing not in ("trailing", "leading", "linspace"):
            raise HastenError(f"spacing: {self.spacing!r} is not known; choose trailing, leading or linspace")
        if not process.discrete:
            return self._continuous(process, count)
        total = round(process.t_max)
        if count > total:
            raise HastenError(f"steps: {count} is more than the {total} training steps of this process")
        if self.spacing == "trailing":
            return np.round(total - np.arange(count) * total / count)
        if self.spacing == "leading":
            return (np.arange(count)[::-1] * (total // count) + self.offset + 1).astype(float)
        return np.round(np.linspace(total - 1, 0, count)) + 1 if count > 1 else np.array([float(total)])

    def _continuous(self, process: Process, count: int) -> Array:
        if self.spacing == "linspace":
            return np.linspace(process.t_max, process.t_min, count)
        trailing = process.t_max * np.arange(count, 0, -1) / count
        if self.spacing == "trailing":
            return trailing
        return np.maximum(trailing - process.t_max / count, process.t_min)


@dataclass(frozen=True)
class Power(Grid):
    """Uniform in time^(1 / power) between t_max and t_min, not rounded.

    power: above 0; 2 is "quadratic".
    """

    power: float = 2.0
    name = "quadratic"
    search_space: ClassVar[Mapping[str, Any]] = {"power": Span(0.6, 3.0)}

    def times(self, process: Process, count: int) -> Array:
        _positive("power", self.power)
        roots = np.linspace(process.t_max ** (1 / self.power), process.t_min ** (1 / self.power), count)
        times = roots**self.power
        times[0] = process.t_max
        return times


@dataclass(frozen=True)
class LogSNR(Grid):
    """Uniform in lam = log(alpha / sigma).

    Source: Lu et al. 2022 (DPM-Solver), section 3.3.
    """

    name = "logsnr"
    search_space: ClassVar[Mapping[str, Any]] = {}

    def times(self, process: Process, count: int) -> Array:
        return _between(process, count, lambda first, last: np.linspace(first, last, count))


@dataclass(frozen=True)
class Karras(Grid):
    """Uniform in (sigma / alpha)^(1 / rho).

    rho: above 0; 7 is the paper's.

    Source: Karras et al. 2022, eq. (5).
    """

    rho: float = 7.0
    name = "karras"
    search_space: ClassVar[Mapping[str, Any]] = {"rho": Span(1.0, 10.0)}

    def times(self, process: Process, count: int) -> Array:
        _positive("rho", self.rho)

        def lams(first: float, last: float) -> Array:
            ratios = np.linspace(np.exp(-first / self.rho), np.exp(-last / self.rho), count)
            return -self.rho * np.log(ratios)

        return _between(process, count, lams)


@dataclass(frozen=True)
class FlowShifted(Grid):
    """Uniform u in (0, 1], shifted to u' = shift u / (1 + (shift - 1) u), at noise level u' of the highest.

    The level is sigma / (alpha + sigma), which is time on a rectified flow: there shift 1 is "trailing".

    shift: above 0; more than 1 spends more steps on high noise.

    Source: Esser et al. 2024, eq. (23).
    """

    shift: float = 3.0
    name = "flow-shifted"
    search_space: ClassVar[Mapping[str, Any]] = {"shift": Span(0.2, 6.0)}

    def times(self, process: Process, count: int) -> Array:
        _positive("shift", self.shift)
        u = np.arange(count, 0, -1) / count
        level = _level(process, process.t_max) * self.shift * u / (1 + (self.shift - 1) * u)
        with np.errstate(divide="ignore"):
            times = process.time(np.log(1 - level) - np.log(level))
        times[0] = process.t_max
        return times


@dataclass(frozen=True)
class Bent(Grid):
    """Gaps in lam that follow exp(a cubic in their index): many times here, few there, and no sudden holes.

    slope, curve, twist: the Chebyshev coefficients of the cubic; all 0 is even in lam, a positive slope spends more
        steps on high noise.
    rest: what is left before t_min, in mean gaps, above 0 (or 0 to end there).
    """

    slope: float = 0.0
    curve: float = 0.0
    twist: float = 0.0
    rest: float = 1.0
    name = "bent"
    search_space: ClassVar[Mapping[str, Any]] = {
        "slope": Span(-1.5, 1.5), "curve": Span(-1.0, 1.0), "twist": Span(-0.5, 0.5), "rest": Span(0.05, 3.0),
    }  # fmt: skip

    def times(self, process: Process, count: int) -> Array:
        if not (np.isfinite(self.rest) and self.rest >= 0):
            raise HastenError(f"rest: {self.rest} is not possible; give 0 or a number above it")
        cubic = np.polynomial.chebyshev.Chebyshev([0.0, self.slope, self.curve, self.twist])
        with np.errstate(over="ignore", invalid="ignore"):
            gaps = np.exp(cubic(np.linspace(-1, 1, count)))[1:]
            share = np.cumsum(gaps) / (gaps.sum() + self.rest * gaps.mean()) if count > 1 else gaps
        first, last = start(process), float(process.lam(process.t_min))
        return np.append(process.t_max, process.time(first + (last - first) * share))


def settling(process: Process) -> Grid:
    """The grid on which solutions of the ODE settle with the fewest steps, of those tried: for references."""
    with np.errstate(divide="ignore"):
        bounded = np.isfinite(process.lam(process.t_max))
    return Karras(rho=10.0) if bounded else Uniform("trailing")


for _grid in (Uniform, Power, LogSNR, Karras, FlowShifted, Bent, Explicit):
    GRIDS.add(_grid)
for _spacing in ("trailing", "leading", "linspace"):
    GRIDS.alias(_spacing, "uniform", spacing=_spacing)


def _between(process: Process, count: int, lams: Any) -> Array:
    """Times at lams(first, last)."""
    times = process.time(lams(start(process), float(process.lam(process.t_min))))
    times[0] = process.t_max
    if count > 1:
        times[-1] = process.t_min
    return times


def _level(process: Process, t: float) -> float:
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    return sigma / (alpha + sigma)


def _positive(field: str, value: float) -> None:
    if not (np.isfinite(value) and value > 0):
        raise HastenError(f"{field}: {value} is not possible; give a number above 0")
