"""Where a diffusers scheduler config puts its steps: the grid a pipeline was shipped with.

The rules are named by the rows of `hasten.processes.understood`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hasten.core.errors import HastenError
from hasten.grids import Grid, Karras, LogSNR
from hasten.processes import (
    Array,
    Process,
    RectifiedFlow,
    VarianceExploding,
    VariancePreserving,
    table_of,
    understood,
)

RHO = 7.0  # what diffusers bends its Karras schedules by


@dataclass(frozen=True)
class Shipped(Grid):
    """The times that the scheduler of this config would visit, by the rule that its class has in `RULES`.

    config: of a scheduler.
    asked: what else a pipeline asks for: original_inference_steps and strength (LCM), max_timesteps and
        intermediate_timesteps (Sana Sprint).
    """

    config: Mapping[str, Any]
    asked: Mapping[str, Any] = field(default_factory=dict)
    name = "shipped"

    def times(self, process: Process, count: int) -> Array:
        row, own = understood(self.config)
        rule = "flow" if isinstance(process, RectifiedFlow) and row.kind == "table" else row.spacing
        return RULES[rule](process, count, own, self.asked)


def _by_table(rounded: bool, more: int, process: Process, count: int, own: Mapping[str, Any], asked: Any) -> Array:
    """Training steps, or the levels between the noisiest and the cleanest of them.

    more: how many steps too many are laid out, of which the cleanest are left out (multistep schedulers).
    """
    if not isinstance(process, VarianceExploding):
        return _placed(process, count, own, lambda: _visited(process, count, own, rounded, more))
    table = VariancePreserving(table_of(own))  # shown levels rather than steps (Stable Video Diffusion)
    return _placed(process, count, own, lambda: np.exp(-table.lam(_visited(table, count, own, rounded, more))))


def _placed(process: Process, count: int, own: Mapping[str, Any], visited: Callable[[], Array]) -> Array:
    """Times between the ends that a config names, or else that it visits, if it places steps by a rule of levels."""
    rules = [spaced for name, spaced in _RESPACED.items() if own.get(name)]
    if own.get("use_lu_lambdas"):
        rules.append(_exponentially_spaced)
    if not rules:
        return visited()
    # multistep schedulers place steps between the ends of the table, the others between those of the visited steps
    whole = "solver_order" in own or "predictor_order" in own
    ends = np.array([process.t_max, process.t_min]) if whole else visited()[[0, -1]]
    first, last = np.exp(-process.lam(ends))
    return ratio_times(process, rules[0](own.get("sigma_max") or first, own.get("sigma_min") or last, count))


def _visited(process: Process, count: int, own: Mapping[str, Any], rounded: bool, more: int) -> Array:
    spacing, offset = own.get("timestep_spacing", "linspace" if more else "leading"), int(own.get("steps_offset") or 0)
    total, last = int(own.get("num_train_timesteps", 1000)), round(process.t_max)
    if own.get("trained_betas") is not None:
        total = max(total, last)
    if count > last:
        raise HastenError(f"steps: {count} is more than the {last} training steps of this process")
    if spacing == "trailing":
        steps = np.round(np.arange(last, 0, -total / count))
        return steps[steps > 0]
    if spacing == "leading":
        return np.arange(count + more)[::-1][:count] * (last // (count + more)) + offset + 1.0
    if count + more == 1:
        return np.array([float(last)])
    steps = np.linspace(last - 1, 0, count + more)[:count]
    return (np.round(steps) if rounded else steps) + 1


def _distilled(process: Process, count: int, own: Mapping[str, Any], asked: Mapping[str, Any]) -> Array:
    """Some of the steps of the run that a model was distilled from."""
    total = round(process.t_max)
    originals = int(asked.get("original_inference_steps") or own.get("original_inference_steps") or 50)
    if originals > total:
        raise HastenError(f"original_inference_steps: {originals} is more than the {total} training steps")
    strength = float(asked.get("strength", 1.0))
    steps = np.arange(int(originals * strength), 0, -1) * (total // originals)
    if count > len(steps):
        raise HastenError(
            f"num_inference_steps: {count} is more than the {len(steps)} steps of original_inference_steps x strength"
        )
    return steps[np.floor(np.linspace(0, len(steps), count, endpoint=False)).astype(int)].astype(float)


def _both_ends(process: Process, count: int, own: Mapping[str, Any], asked: Any) -> Array:
    return np.round(np.linspace(process.t_max - 1, 0, count)) + 1


def _flow(process: Any, count: int, own: Mapping[str, Any], asked: Any) -> Array:
    if own.get("use_flow_sigmas") and own.get("use_karras_sigmas"):  # by sigma / alpha, without a shift
        table = np.sqrt(1 / table_of(own)[[-1, 0]] - 1)
        ends = own.get("sigma_max") or table[0], own.get("sigma_min") or table[1]
        return ratio_times(process, _karras_spaced(*ends, count))
    return flow_times(own, process, _flow_levels(own, process, count))


def _uniform_flow(process: Any, count: int, own: Mapping[str, Any], asked: Any) -> Array:
    return np.arange(count, 0, -1) / count


def _closed_flow(process: Any, count: int, own: Mapping[str, Any], asked: Any) -> Array:
    """The end is one of the steps asked for."""
    if count < 2:
        raise HastenError(f"num_inference_steps: {count} is not possible; this model counts the end as one, give 2")
    return np.linspace(1, 0, count)[:-1]


def _edm(process: Process, count: int, own: Mapping[str, Any], asked: Any) -> Array:
    if own.get("sigma_schedule", "karras") == "exponential":
        return LogSNR().times(process, count)
    return Karras(float(own.get("rho", RHO))).times(process, count)


def _consistency(process: Any, count: int, own: Mapping[str, Any], asked: Any) -> Array:
    """Every so many of the discretisation steps that the model was trained on."""
    total = int(own.get("num_train_timesteps", 40))
    if count > total:
        raise HastenError(f"num_inference_steps: {count} is more than the {total} steps this model was trained on")
    return consistency_levels(own, process, np.arange(count)[::-1] * (total // count))


def consistency_levels(config: Mapping[str, Any], process: Any, places: Any) -> Array:
    """The noise levels of places in training, as consistency pipelines give them: from the last one, falling to 0.

    config: with num_train_timesteps and rho.
    process: with the ends.
    places: whole numbers, falling.
    """
    total, rho = int(config.get("num_train_timesteps", 40)), float(config.get("rho", RHO))
    ramp = np.asarray(places, float)[::-1] / max(total - 1, 1)
    highest, lowest = process.sigma_max ** (1 / rho), process.sigma_min ** (1 / rho)
    return (highest + ramp * (lowest - highest)) ** rho


def _angles(process: Process, count: int, own: Mapping[str, Any], asked: Mapping[str, Any]) -> Array:
    first, middle = asked.get("max_timesteps"), asked.get("intermediate_timesteps", 1.3)
    first = process.t_max if first is None else min(float(first), process.t_max)
    if count == 2 and middle is not None:
        return np.array([first, float(middle)])
    return np.linspace(first, 0, count + 1)[:-1]


def _squared_sines(process: Process, count: int, own: Mapping[str, Any], asked: Any) -> Array:
    return np.arcsin(np.sin(np.arange(count, 0, -1) / count * np.pi / 2) ** 2)


def _ratios(process: Process, count: int, own: Mapping[str, Any], asked: Any) -> Array:
    return np.arange(count, 0, -1) / count


Rule = Callable[[Any, int, Mapping[str, Any], Mapping[str, Any]], Array]
RULES: dict[str, Rule] = {
    "table": functools.partial(_by_table, True, 0),
    "unrounded": functools.partial(_by_table, False, 0),
    "one-more": functools.partial(_by_table, True, 1),
    "distilled": _distilled,
    "both-ends": _both_ends,
    "flow": _flow,
    "uniform-flow": _uniform_flow,
    "closed-flow": _closed_flow,
    "edm": _edm,
    "consistency": _consistency,
    "angles": _angles,
    "squared-sines": _squared_sines,
    "ratios": _ratios,
}
"""Process, number of steps, the config's fields and what a pipeline asks for -> times, by the rule's name."""


def flow_times(config: Mapping[str, Any], process: RectifiedFlow, levels: ArrayLike) -> Array:
    """Times for unshifted noise levels: shifted by the process, then stretched or respaced as the config says."""
    sigmas = process.sigma(levels)
    terminal = config.get("shift_terminal")
    if terminal:
        sigmas = 1 - (1 - sigmas) * (1 - terminal) / (1 - sigmas[-1])
    for name, spaced in _RESPACED.items():
        if config.get(name):
            sigmas = spaced(sigmas[0], sigmas[-1], len(sigmas))
    if _of_unipc(config):  # which keeps away from pure noise, where the logarithm of alpha / sigma is infinite
        sigmas = np.minimum(sigmas, 1 - 1e-6)
    return process.time_of_sigma(sigmas)


def ratio_times(process: Process, ratios: ArrayLike) -> Array:
    """Times at which sigma / alpha has these values; above the largest of the process it is t_max."""
    return np.minimum(process.time(-np.log(np.asarray(ratios, float))), process.t_max)


def _flow_levels(config: Mapping[str, Any], process: RectifiedFlow, count: int) -> Array:
    if config.get("use_flow_sigmas"):  # solvers made for tables, switched to flow; UniPC's is the other way round
        ends = (1, 1 / process.scale) if _of_unipc(config) else (1 - 1 / process.scale, 0)
        return np.linspace(*ends, count + 1)[:-1]
    lowest = 1 / process.scale
    if not config.get("use_dynamic_shifting"):
        lowest = process.sigma(lowest)  # diffusers shifts its lowest level twice; so were the defaults tuned
    return np.linspace(1, float(lowest), count)


def _of_unipc(config: Mapping[str, Any]) -> bool:
    return bool(config.get("use_flow_sigmas")) and "predict_x0" in config


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
