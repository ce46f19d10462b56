"""What pipelines hand to `step` besides the network's answer: honoured, of no matter, or refused by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.predictions import Reading
from hasten.processes import Process, RectifiedFlow
from hasten.solvers import Solver

IRRELEVANT = {
    "prev_timestep": "it is the next one of the run",
    "s_tmin": "bounds of s_churn, which is refused",
    "s_tmax": "bounds of s_churn, which is refused",
    "order": "of LMS's own steps",
    "old_pred_original_sample": "a solver remembers by itself",
    "timestep_back": "a solver remembers by itself",
    "r_timestep": "it is the next one of the run",
}
EXTRAS = {
    "eta": "replaces the solver's eta for this run",
    "s_noise": "replaces the solver's s_noise for this run",
    "use_clipped_model_output": "whether re-noising follows data that was clipped",
    "variance_noise": "the noise of a stochastic step",
    "per_token_timesteps": "a time for each token, with solvers whose step is Euler's",
    "pred_original_sample": "the data prediction, in place of the network's answer",
}
NEUTRAL = {"eta": 0.0, "s_noise": 1.0, "s_churn": 0.0, "use_clipped_model_output": False}
REASONS = {
    "s_churn": "use the solver 'edm', which has churn as its field",
    "original_image": "RePaint's own steps are refused",
    "mask": "RePaint's own steps are refused",
}


def check_extras(solver: Solver, extras: Mapping[str, Any]) -> None:
    """Look whether a solver can honour what is handed to `step` besides.

    solver: of the run.
    extras: by name; None and what changes nothing are always fine.
    Raises HastenError for the first that it cannot.
    """
    for name, value in extras.items():
        if name in IRRELEVANT or value is None or _is_neutral(name, value):
            continue
        if name not in EXTRAS:
            reason = REASONS.get(name, f"{solver.name!r} has nothing of that name; leave it out")
            raise HastenError(f"{name}: {_short(value)} is not possible with a solver of hasten: {reason}")
        if name in ("eta", "s_noise") and not has(solver, name):
            raise HastenError(
                f"{name}: {value} is not possible with solver {solver.name!r}, which has no {name}; leave it out, or "
                "choose one that has, such as 'ddim' or 'euler-ancestral'"
            )
        if name == "per_token_timesteps" and not steps_like_euler(solver):
            raise HastenError(
                f"per_token_timesteps: not possible with solver {solver.name!r}: all tokens have one time there; "
                "choose 'euler'"
            )


def check_call(solver: Solver, arguments: Mapping[str, Any]) -> None:
    """Look whether a solver can honour what the caller of a pipeline passes, before anything is run.

    solver: of the run.
    arguments: of the call, by name; those that are none of a scheduler's business are passed over.
    Raises HastenError for the first that it cannot.
    """
    check_extras(solver, {name: arguments[name] for name in NEUTRAL if name in arguments})
    if arguments.get("denoising_end") is not None and solver.evaluations > 1:
        raise HastenError(
            f"denoising_end: not possible with solver {solver.name!r}, which asks the network more than once a step: "
            "the pipeline would stop inside one; choose a solver of one evaluation a step"
        )


def adjusted(solver: Solver, extras: Mapping[str, Any], given: frozenset[str] | None) -> Solver:
    """The solver of a run, with the fields that are handed to its first step.

    extras: of the first step.
    given: what the caller of the pipeline passed; then even what pipelines have by default counts.
    Raises HastenError for a value that its field does not allow.
    """
    fields = {
        _field(solver, name): float(extras[name])
        for name in ("eta", "s_noise")
        if extras.get(name) is not None and has(solver, name)
        and (not _is_neutral(name, extras[name]) or name in (given or ()))
    }  # fmt: skip
    return dataclasses.replace(solver, **fields) if fields else solver  # type: ignore[type-var]


def adjusted_reading(reading: Reading, extras: Mapping[str, Any]) -> Reading:
    """How this step's answer is read.

    reading: of the network.
    extras: of the step.
    """
    if extras.get("use_clipped_model_output") and reading.limit is not None:
        return dataclasses.replace(reading, limit=dataclasses.replace(reading.limit, renoise=True))
    return reading


def per_token(numbers: Tensor, process: Process, levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """alpha and sigma of every token now, and the next sigma of the run below it, as (rows, tokens, 1).

    numbers: that the network was shown, (rows, tokens).
    process: of the network.
    levels: of the run, falling, the end included.
    Raises HastenError for another process than a flow.
    """
    if not isinstance(process, RectifiedFlow) or process.inverted:
        raise HastenError("per_token_timesteps: only possible for flow models; leave it out")
    now = (numbers / process.scale).unsqueeze(-1)
    levels = levels.to(now)
    below = torch.where(levels < now - 1e-6, levels, torch.zeros_like(levels))
    return 1 - now, now, below.max(-1, keepdim=True).values


def without_variance(output: Tensor, sample: Tensor, learned: bool) -> Tensor:
    """The answer without the channels of a predicted variance.

    output: of the network.
    sample: the state.
    learned: whether the model predicts one.
    Raises HastenError for an answer that is not shaped like the state.
    """
    if output.shape == sample.shape:
        return output
    channels = sample.shape[1] if sample.ndim > 1 else 0
    if learned and output.ndim == sample.ndim and output.shape[1] == 2 * channels:
        return output[:, :channels]
    raise HastenError(
        f"model_output: its shape {tuple(output.shape)} is not that of the state, {tuple(sample.shape)}"
        + ("" if learned else "; a variance among its channels needs variance_type 'learned_range' in the config")
    )


def has(solver: Solver, name: str) -> bool:
    """Whether a solver has a field for what pipelines call so.

    solver: of the run.
    name: of the argument.
    """
    fields = {field.name for field in dataclasses.fields(solver)}  # type: ignore[arg-type]
    return _field(solver, name) in fields


def steps_like_euler(solver: Solver) -> bool:
    """Whether a solver's step is Euler's.

    solver: of the run.
    """
    return solver.name == "euler" or (solver.name == "ddim" and not solver.stochastic)


def _field(solver: Solver, name: str) -> str:
    """What a solver calls an argument of pipelines: TCD's gamma is diffusers' eta."""
    return "gamma" if name == "eta" and hasattr(solver, "gamma") else name


def _is_neutral(name: str, value: Any) -> bool:
    return name in NEUTRAL and not isinstance(value, Tensor) and value == NEUTRAL[name]


def _short(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
