"""Which process a diffusers scheduler config describes, as the table of `hasten.processes.understood` has it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from hasten.core.errors import HastenError, one_of
from hasten.processes.base import Array, Process
from hasten.processes.betas import snr_shifted, table_betas, zero_terminal
from hasten.processes.gaussian import Angular, Cosine, RectifiedFlow, VarianceExploding, VariancePreserving
from hasten.processes.trig import TrigFlow
from hasten.processes.understood import CLASHES, FIELDS, SCHEDULERS, Row

OURS = ("solver", "grid", "end", "origin")  # what a config of hasten's own scheduler has besides
PLACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
EVERYTHING = Row("", tuple(FIELDS))  # of a config that does not say whose it is


def described(scheduler: Any) -> dict[str, Any]:
    """The config of a scheduler, with the name of its class, which configs made in code leave out.

    scheduler: of diffusers, or hasten's own.
    """
    name = type(scheduler).__name__
    if name == "SolverScheduler":  # others may have been made from the config of one, which leaves its fields there
        name = scheduler.config.get("origin") or name
    return {**scheduler.config, "_class_name": name}


def class_of(config: Mapping[str, Any]) -> str | None:
    """The scheduler class that a config is of, as it says itself, or by its fields; None if neither tells.

    config: of a scheduler.
    Classes with the same fields describe the same process; the first in the table is taken.
    """
    names = (config.get("_class_name"), config.get("origin"))
    for name in names:
        if name is not None and name != "SolverScheduler":
            return str(name)
    fitting = [name for name, row in SCHEDULERS.items() if set(row.fields) <= set(config)]
    return max(fitting, key=lambda name: len(SCHEDULERS[name].fields), default=None)


def understood(config: Mapping[str, Any]) -> tuple[Row, dict[str, Any]]:
    """The row of a config's class, and the fields of the config that its class reads, checked.

    A config keeps fields of classes that it was converted from; those are left out.

    config: of a scheduler.
    Raises HastenError for a class that is refused, values that are not understood, and configs of an unknown
    class whose fields do not tell what they describe.
    """
    name = class_of(config)
    row = SCHEDULERS.get(name, EVERYTHING) if name else EVERYTHING
    if name and name not in SCHEDULERS:
        _check_foreign(name, config)
    if row.refused:
        raise HastenError(f"scheduler: {name} cannot be replaced or followed: {row.refused}")
    own = {field: config[field] for field in row.fields if field in config}
    if name and len(own) < len(row.fields):
        own = {field: value for field, value in defaults(name).items() if field in row.fields} | own
    if row.end in config:  # some pipelines register final_sigmas_type with a class that has no such field
        own[row.end] = config[row.end]
    for field, value in own.items():
        rule = row.special.get(field) or FIELDS[field]
        if rule.only and value not in rule.only:
            reason = rule.otherwise or f"choose one of: {', '.join(map(str, rule.only))}"
            raise HastenError(f"{field}: {value!r} is not understood: {reason}")
    _check_clashes(row, own)
    return (row if row.kind else _guessed(own)), own


def defaults(name: str | None) -> dict[str, Any]:
    """What a scheduler class of diffusers takes for fields that a config leaves out; {} for other names.

    name: of the class.
    """
    import diffusers

    origin = getattr(diffusers, str(name), None)
    if not (isinstance(origin, type) and issubclass(origin, diffusers.SchedulerMixin)):
        return {}
    parameters = inspect.signature(origin.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def from_config(config: Mapping[str, Any]) -> Process:
    """The process that a diffusers scheduler config describes.

    config: of a scheduler; see `hasten.processes.understood` for which of its fields are read.

    Raises HastenError for schedulers and values that are refused there.
    """
    row, own = understood(config)
    return _BUILDERS[row.kind](row, own)


def dynamic_process(config: Mapping[str, Any], process: Process, mu: float | None) -> Process:
    """The process once the picture size is known: `mu` sets the shift where the config shifts dynamically.

    config: of the scheduler.
    process: that it describes.
    mu: of the picture size.
    Raises HastenError if such a config gets no usable mu. Elsewhere mu is ignored, as diffusers does.
    """
    if not config.get("use_dynamic_shifting") or not isinstance(process, RectifiedFlow):
        return process
    if mu is None or not np.isfinite(mu):
        raise HastenError(f"mu: {mu} is not possible; this model shifts by picture size and needs a number")
    kind = config.get("time_shift_type", "exponential")
    one_of("time_shift_type", kind, ("exponential", "linear"))
    return replace(process, shift=float(np.exp(mu)) if kind == "exponential" else float(mu))


def table_of(config: Mapping[str, Any]) -> Array:
    """The whole table of cumulative alphas of a config with betas.

    config: of a scheduler.
    """
    return _table(*understood(config))


def ends_on_data(config: Mapping[str, Any]) -> bool:
    """Whether the last step of the scheduler ends on data, or else at its smallest noise level.

    config: of a scheduler.
    """
    row, own = understood(config)
    return own.get(row.end, row.end != "min") not in (False, "sigma_min")


def _check_foreign(name: str, config: Mapping[str, Any]) -> None:
    """Whether the fields alone tell what a config of somebody's own class describes."""
    public = {key for key in config if not key.startswith("_")} - set(OURS)
    complete = (
        {"beta_start", "beta_end", "beta_schedule", "prediction_type"} <= public
        or "shift" in public
        or {"sigma_min", "sigma_max", "sigma_data", "prediction_type"} <= public
    )
    strange = sorted(public - set(FIELDS))
    if strange or not complete:
        told = f"its field {strange[0]!r} is not known" if strange else "its fields do not tell which process it has"
        raise HastenError(
            f"scheduler: {name!r} is not a class of diffusers, and {told}; give the config of one that is, "
            "such as DDIMScheduler or FlowMatchEulerDiscreteScheduler"
        )


def _check_clashes(row: Row, own: Mapping[str, Any]) -> None:
    for values, reason in CLASHES:
        if row.kind in ("", "table") and all(own.get(field, False) == value for field, value in values.items()):
            if row is EVERYTHING and "prediction_type" in values:
                continue  # without a class, a flow is recognised by its prediction
            field = list(values)[-1]
            raise HastenError(f"{field}: {values[field]!r} is not understood here: {reason}")
    if own.get("use_flow_sigmas") and own.get("use_karras_sigmas") and "sigma_max" not in row.fields:
        raise HastenError(
            "use_karras_sigmas: True is not understood here: diffusers then steps along levels above 1, where a flow "
            "has none; turn it or use_flow_sigmas off"
        )


def _guessed(own: Mapping[str, Any]) -> Row:
    """The row of a config that does not say whose it is."""
    has_betas = "beta_start" in own or own.get("trained_betas") is not None
    end = next((field for field in ("final_sigmas_type", "set_alpha_to_one") if field in own), "data")
    if own.get("prediction_type") == "flow_prediction" or ("shift" in own and not has_betas):
        return Row("flow", tuple(FIELDS), spacing="flow", end=end)
    if "sigma_data" in own and not has_betas:
        return Row("edm", tuple(FIELDS), spacing="edm", end=end)
    spacing = "one-more" if "solver_order" in own else "table"
    return Row("table", tuple(FIELDS), spacing=spacing, end=end, keeps_noise="set_alpha_to_one" in own)


def _table(row: Row, own: Mapping[str, Any]) -> Array:
    count = int(own.get("num_train_timesteps", 1000))
    if own.get("trained_betas") is not None:
        betas = np.asarray(own["trained_betas"], float)
    else:
        schedule, ends = own.get("beta_schedule", "linear"), (own.get("beta_start", 0.0001), own.get("beta_end", 0.02))
        betas = table_betas(schedule, *ends, count)
    table = np.cumprod(1 - betas)
    if own.get("snr_shift_scale") is not None:
        table = snr_shifted(table, float(own["snr_shift_scale"]))
    if own.get("rescale_betas_zero_snr"):
        table = zero_terminal(table)
        table[-1] = row.least
    return table


def _of_table(row: Row, own: Mapping[str, Any]) -> Process:
    if own.get("use_flow_sigmas") or own.get("prediction_type") == "flow_prediction":
        return _of_flow(row, own)
    table = _table(row, own)
    placed = any(own.get(field) for field in (*PLACED, "use_lu_lambdas"))
    if own.get("timestep_type") == "continuous" and own.get("prediction_type") == "v_prediction":
        lowest, highest = np.sqrt(1 / table[[0, -1]] - 1)
        if placed:
            lowest, highest = own.get("sigma_min") or lowest, own.get("sigma_max") or highest
        return VarianceExploding(float(lowest), float(highest))
    if placed:
        _check_range(own, table)
        return VariancePreserving(table)
    return VariancePreserving(table[: _begin(own, table)])


def _begin(own: Mapping[str, Any], table: Array) -> int:
    """How much of a table is visited, where lambda_min_clipped leaves its noisiest part out."""
    with np.errstate(divide="ignore"):
        lam = 0.5 * (np.log(table) - np.log1p(-table))
    clipped = own.get("lambda_min_clipped")
    return len(table) - int(np.searchsorted(lam[::-1], -np.inf if clipped is None else float(clipped)))


def _check_range(own: Mapping[str, Any], table: Array) -> None:
    """Levels beyond the table have no time of their own."""
    with np.errstate(divide="ignore"):
        highest = float(np.sqrt(1 / table[-1] - 1))
    if own.get("sigma_max") is not None and float(own["sigma_max"]) > highest * (1 + 1e-6):
        raise HastenError(
            f"sigma_max: {own['sigma_max']} is beyond {highest:.4g}, the noisiest that this table of betas reaches; "
            "give a smaller one, or timestep_type 'continuous' for a model of all levels"
        )


def _of_flow(row: Row, own: Mapping[str, Any]) -> Process:
    dynamic = own.get("use_dynamic_shifting")  # the pipeline hands over mu for each picture size
    shift = 1.0 if dynamic else float(own.get("shift", own.get("flow_shift", 1.0)) or 1.0)
    if row.spacing == "closed-flow":
        return RectifiedFlow(shift, 1.0, True)
    return RectifiedFlow(shift, float(own.get("num_train_timesteps", 1000)), bool(own.get("invert_sigmas")))


def _of_levels(shown: str, row: Row, own: Mapping[str, Any]) -> Process:
    for field in ("sigma_min", "sigma_max"):
        if own.get(field) is None:
            raise HastenError(f"{field}: None is not possible for a model of all noise levels; give a number")
    return VarianceExploding(float(own["sigma_min"]), float(own["sigma_max"]), shown)


def _of_angles(row: Row, own: Mapping[str, Any]) -> Process:
    if row.spacing == "angles":
        return TrigFlow(float(own.get("sigma_data", 0.5)))
    return Angular()


def _of_cosine(row: Row, own: Mapping[str, Any]) -> Process:
    return Cosine(float(own.get("s", 0.008)), 1.0, 1e-4, float(own.get("scaler", 1.0)))


_BUILDERS: dict[str, Callable[[Row, Mapping[str, Any]], Process]] = {
    "table": _of_table,
    "flow": _of_flow,
    "edm": functools.partial(_of_levels, "log"),
    "cosine-edm": functools.partial(_of_levels, "angle"),
    "consistency": functools.partial(_of_levels, "log-1000"),
    "angular": _of_angles,
    "cosine": _of_cosine,
}
