"""Where a diffusers scheduler config puts its steps: the grid a pipeline was shipped with, and custom lists.

Recognised by the fields of a config rather than by class name, which configs do not always carry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hasten.core.errors import HastenError, positive_int
from hasten.grids import Grid, Karras, LogSNR, Uniform, schedule
from hasten.processes import Array, Process, RectifiedFlow, VarianceExploding

RHO = 7.0  # what diffusers bends its Karras schedules by


@dataclass(frozen=True)
class Shipped(Grid):
    """The times that the scheduler of this config would visit.

    Variance-preserving configs: timestep_spacing with steps_offset, or use_karras / exponential / beta_sigmas
    and use_lu_lambdas. Flow configs: uniform down to the smallest level, then shift (and shift_terminal).
    EDM configs: Karras with their rho.
    """

    config: Mapping[str, Any]
    name = "shipped"

    def times(self, process: Process, count: int) -> Array:
        if isinstance(process, RectifiedFlow):
            return flow_times(self.config, process, _flow_levels(self.config, process, count))
        if isinstance(process, VarianceExploding):
            if self.config.get("sigma_schedule", "karras") == "exponential":
                return LogSNR().times(process, count)
            return Karras(float(self.config.get("rho", RHO))).times(process, count)
        if self.config.get("use_karras_sigmas"):
            return Karras(RHO).times(process, count)
        if self.config.get("use_exponential_sigmas") or self.config.get("use_lu_lambdas"):
            return LogSNR().times(process, count)
        if self.config.get("use_beta_sigmas"):
            ends = np.exp(-process.lam([process.t_max, process.t_min]))
            return ratio_times(process, _beta_spaced(ends[0], ends[1], count))
        return self._table_times(process, count)

    def _table_times(self, process: Process, count: int) -> Array:
        spacing, offset = self.config.get("timestep_spacing", "linspace"), int(self.config.get("steps_offset") or 0)
        multistep = "solver_order" in self.config
        if not multistep or spacing not in ("linspace", "leading"):
            return Uniform(spacing, offset).times(process, count)
        # diffusers' multistep schedulers lay out one step more and leave out the cleanest
        if spacing == "linspace":
            return np.round(np.linspace(process.t_max - 1, 0, count + 1))[:-1] + 1
        return np.arange(count, 0, -1) * (round(process.t_max) // (count + 1)) + offset + 1.0


def flow_times(config: Mapping[str, Any], process: RectifiedFlow, levels: ArrayLike) -> Array:
    """Times for unshifted noise levels: shifted by the process, then stretched or respaced as the config says."""
    sigmas = process.sigma(levels)
    terminal = config.get("shift_terminal")
    if terminal:
        sigmas = 1 - (1 - sigmas) * (1 - terminal) / (1 - sigmas[-1])
    for field, spaced in _RESPACED.items():
        if config.get(field):
            sigmas = spaced(sigmas[0], sigmas[-1], len(sigmas))
    return process.time_of_sigma(sigmas)


def ratio_times(process: Process, ratios: ArrayLike) -> Array:
    """Times at which sigma / alpha has these values; above the largest of the process it is t_max."""
    return np.minimum(process.time(-np.log(np.asarray(ratios, float))), process.t_max)


def run_times(
    config: Mapping[str, Any], process: Process, grid: Grid, end: str, steps: int | None,
    timesteps: Sequence[float] | None, sigmas: Sequence[float] | None,
) -> Array:  # fmt: skip
    """The times of a run as a pipeline asks for it: so many steps of a grid, or its own list.

    config: of the scheduler.
    process: of the model.
    grid: of the times, unless they are given.
    end: "data" or "min".
    steps, timesteps, sigmas: as of `SolverScheduler.set_timesteps`.

    Raises HastenError for contradictory arguments and impossible values.
    """
    if timesteps is None and sigmas is None:
        if steps is None:
            raise HastenError("num_inference_steps: None is not possible without timesteps or sigmas; give one")
        positive_int("num_inference_steps", steps)
        return schedule(grid, process, steps, end)
    if timesteps is not None and sigmas is not None and not isinstance(process, RectifiedFlow):
        raise HastenError("timesteps: sigmas were given as well; give one of the two")
    field, values = ("sigmas", sigmas) if sigmas is not None else ("timesteps", timesteps)
    levels = custom_levels(field, values)
    if steps is not None and steps != len(levels):
        raise HastenError(f"num_inference_steps: {steps} contradicts the {len(levels)} {field}; leave it out")
    if field == "timesteps":
        times, limit = process.from_network_time(levels), float(process.network_time(process.t_max))
    elif isinstance(process, RectifiedFlow):
        times, limit = flow_times(config, process, levels), 1.0
    else:
        times, limit = ratio_times(process, levels), float("inf")
    if times[0] > process.t_max * (1 + 1e-6):
        raise HastenError(f"{field}: {levels[0]:g} is beyond {limit:g}, the noisiest this model was trained on")
    times, last = np.minimum(times, process.t_max), 0.0 if end == "data" else process.t_min
    return schedule(np.append(times, last) if last < times[-1] else times, process, len(levels))


def custom_levels(field: str, values: Any) -> Array:
    """A caller's list of steps as float64, without a final 0 that stands for the data.

    Raises HastenError unless it is a list of finite numbers that fall steadily and stay above 0 (sigmas) or
    at least 0 (timesteps).
    """
    levels = np.atleast_1d(np.asarray(values, float))
    if field == "sigmas" and len(levels) > 1 and levels[-1] == 0:
        levels = levels[:-1]
    ends_well = len(levels) and (levels[-1] > 0 or (field == "timesteps" and levels[-1] == 0))
    if levels.ndim != 1 or not ends_well or not np.isfinite(levels).all() or (np.diff(levels) >= 0).any():
        shown = np.array2string(levels, precision=4, threshold=12)
        raise HastenError(f"{field}: must be a list of numbers that fall steadily towards 0; got {shown}")
    return levels


def is_uniform(sigmas: Sequence[float]) -> bool:
    """Whether this is the list 1, (n - 1) / n, ..., 1 / n that flow pipelines fill in."""
    count = len(sigmas)
    return count > 0 and np.allclose(np.asarray(sigmas, float), np.linspace(1, 1 / count, count), atol=1e-6)


def _flow_levels(config: Mapping[str, Any], process: RectifiedFlow, count: int) -> Array:
    if config.get("use_flow_sigmas"):  # solvers made for tables, switched to flow; UniPC's is the other way round
        ends = (1, 1 / process.scale) if "predict_x0" in config else (1 - 1 / process.scale, 0)
        return np.linspace(*ends, count + 1)[:-1]
    lowest = 1 / process.scale
    if not config.get("use_dynamic_shifting"):
        lowest = process.sigma(lowest)  # diffusers shifts its lowest level twice; so were the defaults tuned
    return np.linspace(1, float(lowest), count)


def _karras_spaced(first: float, last: float, count: int) -> Array:
    return np.linspace(first ** (1 / RHO), last ** (1 / RHO), count) ** RHO


def _exponentially_spaced(first: float, last: float, count: int) -> Array:
    return np.exp(np.linspace(np.log(first), np.log(last), count))


def _beta_spaced(first: float, last: float, count: int) -> Array:
    """Quantiles of a beta distribution. Source: Lee et al. 2024 (2407.12173), with its 0.6 and 0.6."""
    from scipy.stats import beta

    return last + beta.ppf(1 - np.linspace(0, 1, count), 0.6, 0.6) * (first - last)


_RESPACED: dict[str, Callable[[float, float, int], Array]] = {
    "use_karras_sigmas": _karras_spaced,
    "use_exponential_sigmas": _exponentially_spaced,
    "use_beta_sigmas": _beta_spaced,
}
