"""The times of a run as a pipeline asks for it: so many steps of a grid, or a list of its own or its caller's.

What the caller of a pipeline passes wins over a chosen grid; what the pipeline fills in by itself does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hasten.bridge.spacing import flow_times, ratio_times
from hasten.core.errors import HastenError, positive_int
from hasten.grids import Grid, schedule
from hasten.processes import Array, Process, RectifiedFlow, ends_on_data

NO_LENGTH = 1e-6  # share of its time by which a last step ends below its beginning where diffusers lets it stand still
CLOSE = 2e-3  # by how much a level that a pipeline fills in may differ from the rule (whole numbers of 1000)
Levels = Sequence[float] | None


def asked(
    grid: Grid | None, given: frozenset[str] | None, steps: Any, timesteps: Levels, sigmas: Levels,
) -> tuple[int | None, Levels, Levels]:  # fmt: skip
    """What is left to be obeyed of a request for a run, once a grid is chosen: steps, timesteps and sigmas.

    grid: chosen, or None; then lists are used as they are.
    given: which of "timesteps" and "sigmas" the pipeline's caller passed; None if nobody says: then a list that
        pipelines are known to fill in counts as theirs, any other as the caller's.
    steps, timesteps, sigmas: of the request.
    """
    lists = {name: values for name, values in (("timesteps", timesteps), ("sigmas", sigmas)) if values is not None}
    if steps is not None:
        steps = positive_int("num_inference_steps", steps)
    if grid is None or not lists:
        return steps, timesteps, sigmas
    if given is None:
        obeyed = {} if any(is_filled_in(values) for values in lists.values()) else lists
    else:
        obeyed = {name: values for name, values in lists.items() if name in given}
    if obeyed:
        return steps, obeyed.get("timesteps"), obeyed.get("sigmas")
    return len(next(iter(lists.values()))), None, None


def run_times(
    config: Mapping[str, Any], process: Process, grid: Grid, end: str | None, steps: int | None, timesteps: Levels,
    sigmas: Levels,
) -> Array:  # fmt: skip
    """The times of a run, noisiest first.

    config: of the original scheduler.
    process: that it describes.
    grid: places the steps where there is no list.
    end: "data" or "min"; None ends where the original scheduler does.
    steps, timesteps, sigmas: as in `SolverScheduler.set_timesteps`.
    Raises HastenError for contradictory arguments and impossible values.
    """
    if timesteps is None and sigmas is None:
        if steps is None:
            raise HastenError("num_inference_steps: None is not possible without timesteps or sigmas; give one")
        if end is not None:
            return schedule(grid, process, steps, end)
        times = grid.times(process, steps)
        return schedule(np.append(times, _last(config, process, times, end)), process, steps)
    if timesteps is not None and sigmas is not None and not isinstance(process, RectifiedFlow):
        raise HastenError("timesteps: sigmas were given as well; give one of the two")
    name, values = ("sigmas", sigmas) if sigmas is not None else ("timesteps", timesteps)
    if name == "timesteps" and getattr(process, "inverted", False):
        raise HastenError("timesteps: not possible where a model counts its noise levels backwards; give sigmas")
    levels = custom_levels(name, values)
    if steps is not None and steps != len(levels):
        raise HastenError(f"num_inference_steps: {steps} contradicts the {len(levels)} {name}; leave it out")
    if name == "timesteps":
        times, limit = process.from_network_time(levels), float(process.network_time(process.t_max))
    elif isinstance(process, RectifiedFlow):
        times, limit = flow_times(config, process, levels), 1.0
    else:
        times, limit = ratio_times(process, levels), float("inf")
    if times[0] > process.t_max * (1 + 1e-6):
        raise HastenError(f"{name}: {levels[0]:g} is beyond {limit:g}, the noisiest this model was trained on")
    times = np.minimum(times, process.t_max)
    last = _last(config, process, times, end)
    return schedule(np.append(times, last) if last < times[-1] else times, process, len(levels))


def _last(config: Mapping[str, Any], process: Process, times: Array, end: str | None) -> float:
    """The time at which a run ends whose steps begin at these times."""
    if end == "data" or (end is None and ends_on_data(config)):
        return 0.0
    if end == "min":
        return process.t_min
    repeats = isinstance(process, RectifiedFlow) or (config.get("sigma_min") is not None and "predict_x0" in config)
    return times[-1] * (1 - NO_LENGTH) if repeats or process.t_min >= times[-1] else process.t_min


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


def is_filled_in(values: Sequence[float]) -> bool:
    """Whether this is a list that pipelines fill in by themselves, whatever it counts in.

    Known are levels that fall evenly from the top (Flux, LTX, Hunyuan, Bria), whole numbers that do (CogView4,
    GLM-Image), and levels that fall evenly at first and then ever faster (Mochi, LTX's linear-quadratic schedule).
    """
    levels = np.asarray(values, float)
    if levels.ndim != 1 or not len(levels) or not np.isfinite(levels).all() or not levels[0] > 0:
        return False
    count, levels = len(levels), levels / levels[0]
    evenly = (np.linspace(1, 0, count + 1)[:-1], np.linspace(1, 1e-3, count))
    if any(np.allclose(levels, rule, rtol=0, atol=CLOSE) for rule in evenly):
        return True
    return count > 2 and any(
        np.allclose(levels, _linear_quadratic(count, 1 - float(levels[first]), first), rtol=0, atol=CLOSE)
        for first in {count // 2, count - count // 2}
    )


def _linear_quadratic(count: int, threshold: float, linear: int) -> Array:
    """Levels 1 - s, where s grows evenly up to the threshold, and then quadratically to 1 after `count` steps."""
    left = count - linear
    slope = threshold / linear
    bend = (1 - threshold - slope * left) / left**2
    after = np.arange(left)
    return 1 - np.concatenate([slope * np.arange(linear), threshold + slope * after + bend * after**2])
