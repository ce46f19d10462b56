"""The checks that every pipeline class goes through, each a function of a `Case` that says what came of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import diffusers
import torch
from torch import Tensor

import hasten
from every.arguments import many
from every.building import STEPS, arguments, build, call
from every.case import Case, Kept, NotHere, equality, works
from every.differences import EXAMPLES, SCHEDULERS
from hasten.recipe import FAMILIES

SOLVERS = ("dpm++", "euler", "heun", "unipc")
STRENGTHS = (0.05, 0.5, 1.0)


def solver_runs(solver: str) -> Callable[[Case], str]:
    """Another solver runs, and makes something else."""

    def check(case: Case) -> str:
        return works(case.accelerated({"solver": solver}), case.plain)

    return check


def scheduler_equal(scheduler: str) -> Callable[[Case], str]:
    """With this scheduler of diffusers in the pipeline, the solver that is it makes the same."""

    def check(case: Case) -> str:
        before = getattr(case.pipe, "scheduler", None)
        kind: Any = type(scheduler, (Kept, getattr(diffusers, scheduler)), {})
        fields = SCHEDULERS[scheduler]
        if type(before).__name__ not in fields["instead_of"]:
            raise NotHere(f"is made for {type(before).__name__}")
        case.pipe.scheduler = kind.from_config(before.config, **fields.get("config", {}))
        try:
            return case.same({"solver": case.own()})
        finally:
            case.pipe.scheduler = before

    return check


def part_works(field: str, method: Any) -> Callable[[Case], str]:
    """A part of a recipe runs and changes something; switched off it changes nothing."""

    def check(case: Case) -> str:
        part = method_dict(method)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            recipe = {field: [part] if field == "caches" else part}
            outcome = _warned(case, recipe, said)
        if outcome == "fault: not finite" and field == "quantize":
            return _overflows(case, method.name)
        if outcome != "works" or not getattr(method, "off", None) or field == "quantize":
            return outcome
        part = {"name": method.name, **method.off}
        switched_off = case.accelerated({field: [part] if field == "caches" else part})
        same = equality(switched_off, case.plain)
        return "works" if same == "equal" else f"fault: switched off it {same.removeprefix('fault: ')}"

    return check


def _warned(case: Case, recipe: dict[str, Any], said: list[Any]) -> str:
    with hasten.accelerate(case.pipe, recipe) as fast:
        result = call(fast, case.arguments, silent=False)
    outcome = works(result, case.plain)
    if outcome == "works" and torch.equal(result, case.plain) and "compile" not in recipe:  # that may be exact
        told = [str(one.message) for one in said if "nothing" in str(one.message)]
        return "works: changes nothing here, and says so" if told else "fault: changes nothing, without a word"
    return outcome


def _overflows(case: Case, dtype: str) -> str:
    pipe, given = build(case.name, dtype=getattr(torch, dtype))
    if torch.isfinite(call(pipe, given)).all():
        return "fault: not finite"
    raise NotHere(f"the pipeline itself overflows in {dtype}")


def part_rows(field: str, method: Any) -> Callable[[Case], str]:
    """Under a part of a recipe, the images of a batch are those that they are alone."""

    def check(case: Case) -> str:
        part = method_dict(method)
        return _batch(case, {field: [part] if field == "caches" else part})

    return check


def seeds(case: Case) -> str:
    """The same seed gives the same image alone and in a batch, and as a generator does."""
    with hasten.accelerate(case.pipe, {"solver": case.own()}) as fast:
        seeded = call(fast, case.arguments, seed=None, more={"seed": 0})
    with case.comparable():
        same = equality(seeded, call(case.pipe, case.arguments))
    return _batch(case, {"solver": case.own()}) if same == "equal" else f"{same} from a generator of that seed"


def _batch(case: Case, recipe: dict[str, Any]) -> str:
    number = many(case.pipe)
    if number is not None and case.count([0], {number: 2}) == 2 * len(case.plain):  # two images of a prompt
        ones, two = [case.arguments, case.arguments], case.arguments
        seed, more = 3, {number: 2}
    else:  # one image of each of two prompts
        ones, two = [arguments(case.pipe, [row]) for row in (0, 1)], arguments(case.pipe, [0, 1])
        seed, more = [3, 4], {}
        if case.count([0, 1], {}) != 2 * len(case.plain):
            raise NotHere("makes one result a call")
    with hasten.accelerate(case.pipe, recipe) as fast:
        singles = [call(fast, one, seed=None, more={"seed": s}) for one, s in zip(ones, (3, 4))]
        both = call(fast, two, seed=None, more={"seed": seed} | more)
    return equality(both, torch.cat(singles))


def strength(value: float) -> Callable[[Case], str]:
    """Image-to-image from so far."""

    def check(case: Case) -> str:
        if not case.takes("strength"):
            raise NotHere("takes no strength")
        return case.same({"solver": case.own()}, steps=_steps(value), more={"strength": value})

    return check


def _steps(strength: float) -> int:
    """So many that a few of them are left of this strength."""
    return max(STEPS, round(1 / strength))


def strength_heun(case: Case) -> str:
    """Image-to-image with a solver that asks the network twice a step."""
    if not case.takes("strength"):
        raise NotHere("takes no strength")
    for value in STRENGTHS:
        more = {"strength": value}
        done = works(case.accelerated({"solver": "heun"}, steps=_steps(value), more=more), case.plain)
        if done != "works":
            return f"{done} (strength {value})"
    return "works"


def callback(case: Case) -> str:
    """A callback that changes the latents midway changes them alike."""
    if case.takes("callback_on_step_end"):
        return case.same({"solver": case.own()}, more={"callback_on_step_end": _halved})
    if case.takes("callback"):
        return case.same({"solver": case.own()}, more={"callback": _halved_in_place, "callback_steps": 1})
    raise NotHere("takes no callback")


def _halved(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"latents": tensors["latents"] * 0.5} if step == 1 else {}


def _halved_in_place(step: int, timestep: Any, latents: Tensor) -> None:
    if step == 1:
        latents.mul_(0.5)


def interrupt(case: Case) -> str:
    """Interrupted midway it stops as the plain pipeline does, and the next call is as ever."""
    if not case.takes("callback_on_step_end"):
        raise NotHere("takes no callback")
    if not hasattr(case.pipe, "interrupt"):
        raise NotHere("cannot be interrupted")
    outcome = case.same({"solver": case.own()}, more={"callback_on_step_end": _interrupted})
    return outcome if outcome != "equal" else case.same({"solver": case.own()})


def guidance_midway(case: Case) -> str:
    """A callback that changes the guidance scale midway changes it alike."""
    if not case.takes("callback_on_step_end"):
        raise NotHere("takes no callback")
    if not hasattr(case.pipe, "_guidance_scale"):
        raise NotHere("keeps no guidance scale")
    return case.same({"solver": case.own()}, more={"callback_on_step_end": _guided_less})


def _guided_less(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if step == 1:
        pipe._guidance_scale = 1.5
    return {}


def _interrupted(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if step == 1:
        pipe._interrupt = True
    return {}


def method_dict(method: Any) -> dict[str, Any]:
    """A method at settings at which it does something within few steps."""
    return {"name": method.name, **EXAMPLES.get(method.name, {})}


@cache
def checks() -> dict[str, Callable[[Case], str]]:
    """Every check by its name, those of the registries among them."""
    listed: dict[str, Callable[[Case], str]] = {"own solver": lambda case: case.same({"solver": case.own()})}
    listed |= {"own solver in 11 steps": lambda case: case.same({"solver": case.own()}, steps=11)}
    listed |= {f"as {name}": scheduler_equal(name) for name in SCHEDULERS}
    listed |= {f"solver {name}": solver_runs(name) for name in SOLVERS}
    for field, registry in FAMILIES.items():
        listed |= {f"{field} {method.name}": part_works(field, method) for method in registry if _quick(method)}
    listed |= {"seeds": seeds}
    listed |= {f"seeds under {m.name}": part_rows("caches", m) for m in FAMILIES["caches"] if _quick(m)}
    listed |= {f"strength {value}": strength(value) for value in STRENGTHS}
    return listed | {
        "strength with heun": strength_heun,
        "callback": callback,
        "callback on guidance": guidance_midway,
        "interrupt": interrupt,
    }


def _quick(method: Any) -> bool:
    from importlib.util import find_spec

    return method.name != "torch-compile" and (method.name != "cache-dit" or find_spec("cache_dit") is not None)
