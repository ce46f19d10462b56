"""What works on every pipeline class of diffusers: each class through each check, the outcomes as a table.

    python tests/every_pipeline.py --out FILE.json [--pipelines PATTERN ...] [--checks PATTERN ...] [--workers 2]

An outcome is one of
    equal          as the plain pipeline, to `TOLERANCE`
    works          runs, and the pipeline is left as it was
    differs: why   not as the plain pipeline, for a reason that is listed in `DIFFERENT`
    refused: why   by HastenError, before anything ran
    not here: why  the plain pipeline has no such thing, or refuses the call itself
    fault: what    anything else
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import diffusers
import every
import torch
from every.differences import DIFFERENT, EXAMPLES, ON_DATA, OWN, SCHEDULERS
from tiny import fingerprint
from torch import Tensor

import hasten
from hasten.core.errors import HastenError
from hasten.recipe import FAMILIES

TOLERANCE = 1e-3  # of the norm of the difference, relative to the norm of the plain result
PATIENCE = 120  # seconds for a check
SOLVERS = ("dpm++", "euler", "heun", "unipc")
STRENGTHS = (0.05, 0.5, 1.0)
GOOD = ("equal", "works", "differs", "refused", "not here")


class NotHere(Exception):
    """The plain pipeline has no such thing."""


class Case:
    """One pipeline, what it is called with, and what it then makes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pipe, self.arguments = every.build(name)
        self.plain = every.call(self.pipe, self.arguments)
        before = self.fingerprint()
        every.call(self.pipe, self.arguments)
        now = self.fingerprint()  # what differs already is what the components note of their own calls
        self.prints = {key: value for key, value in now.items() if before.get(key) == value}

    def fingerprint(self) -> dict[Any, Any]:
        """Which components the pipeline holds, and every bit of them; not what it and its schedulers note of calls."""
        parts = set(self.pipe.components)
        prints: dict[Any, Any] = {("components", name): id(part) for name, part in self.pipe.components.items()}
        for (name, path), value in ((k, v) for k, v in fingerprint(self.pipe).items() if k[0] in parts):
            if path not in ("itself", "inside"):
                prints |= {(name, path, attribute): frozen for attribute, frozen in value.items()}
        return prints

    def takes(self, *arguments: str) -> bool:
        """Whether the pipeline's call has any of these arguments."""
        return any(name in every.signature(self.pipe) for name in arguments)

    def own(self) -> Any:
        """The solver that does what the pipeline's own scheduler does."""
        scheduler = self.pipe.scheduler
        solver = OWN.get(type(scheduler).__name__)
        if solver is None:
            raise NotHere(f"hasten has no solver that is {type(scheduler).__name__}")
        return solver(scheduler.config) if callable(solver) else solver

    def accelerated(self, recipe: dict[str, Any], **call: Any) -> Tensor:
        """What the pipeline makes by a recipe."""
        with hasten.accelerate(self.pipe, recipe) as fast:
            return every.call(fast, self.arguments, **call)

    def same(self, recipe: dict[str, Any], **call: Any) -> str:
        """Whether a recipe makes what the plain pipeline makes of this call."""
        try:
            with self.ending_on_data():
                expected = every.call(self.pipe, self.arguments, **call)
        except Exception as error:
            raise NotHere(f"the pipeline itself raises {_line(error)}") from None
        return equality(self.accelerated(recipe, **call), expected)

    @contextmanager
    def ending_on_data(self) -> Iterator[None]:
        """Meanwhile, the pipeline's scheduler takes its last step to the data, as recipes do."""
        shipped = self.pipe.scheduler
        changed = {key: value for key, value in ON_DATA.items() if shipped.config.get(key, value) != value}
        self.pipe.scheduler = type(shipped).from_config(shipped.config, **changed) if changed else shipped
        try:
            yield
        finally:
            self.pipe.scheduler = shipped

    def count(self, arguments: dict[str, Any], more: dict[str, Any]) -> int:
        """How many rows the plain pipeline makes of arguments; 0 if it does not take them."""
        try:
            return len(every.call(self.pipe, arguments, more=more))
        except Exception:
            return 0

    def left(self, called: bool = True) -> str | None:
        """What is wrong with the pipeline after a check; None if it is as it was. called: whether it has run."""
        now = self.fingerprint()
        where = [key for key, value in self.prints.items() if now.get(key) != value]
        if where:
            return f"fault: the pipeline is not what it was: {'.'.join(map(str, where[0]))} and {len(where) - 1} more"
        if called and not torch.equal(every.call(self.pipe, self.arguments), self.plain):
            return "fault: the plain pipeline makes something else afterwards"
        return None


def equality(one: Tensor, other: Tensor) -> str:
    """`equal`, or by how much two results differ."""
    if one.shape != other.shape:
        return f"fault: shape {tuple(one.shape)} instead of {tuple(other.shape)}"
    if not torch.isfinite(one).all():
        return "fault: not finite"
    apart = float((one.double() - other.double()).norm() / other.double().norm().clamp_min(1e-9))
    return "equal" if apart < TOLERANCE else f"fault: differs by {apart:.2g}"


def works(result: Tensor, like: Tensor) -> str:
    """`works`, unless a result has another shape than it should, or is not finite."""
    if result.shape != like.shape:
        return f"fault: shape {tuple(result.shape)} instead of {tuple(like.shape)}"
    return "works" if torch.isfinite(result).all() else "fault: not finite"


def solver_runs(solver: str) -> Callable[[Case], str]:
    """Another solver runs, and makes something else."""

    def check(case: Case) -> str:
        return works(case.accelerated({"solver": solver}), case.plain)

    return check


def scheduler_equal(scheduler: str) -> Callable[[Case], str]:
    """With this scheduler of diffusers in the pipeline, the solver that is it makes the same."""

    def check(case: Case) -> str:
        before, kind = case.pipe.scheduler, getattr(diffusers, scheduler)
        fields = SCHEDULERS[scheduler]
        if case.pipe.scheduler.__class__.__name__ not in fields["instead_of"]:
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
        if outcome != "works" or not getattr(method, "off", None) or field == "quantize":
            return outcome
        part = {"name": method.name, **method.off}
        switched_off = case.accelerated({field: [part] if field == "caches" else part})
        same = equality(switched_off, case.plain)
        return "works" if same == "equal" else f"fault: switched off it {same.removeprefix('fault: ')}"

    return check


def _warned(case: Case, recipe: dict[str, Any], said: list[Any]) -> str:
    with hasten.accelerate(case.pipe, recipe) as fast:
        result = every.call(fast, case.arguments, silent=False)
    outcome = works(result, case.plain)
    if outcome == "works" and torch.equal(result, case.plain):
        told = [str(one.message) for one in said if "nothing" in str(one.message)]
        return "works: changes nothing here, and says so" if told else "fault: changes nothing, without a word"
    return outcome


def part_rows(field: str, method: Any) -> Callable[[Case], str]:
    """Under a part of a recipe, the images of a batch are those that they are alone."""

    def check(case: Case) -> str:
        part = method_dict(method)
        return _batch(case, {field: [part] if field == "caches" else part})

    return check


def seeds(case: Case) -> str:
    """The same seed gives the same image alone and in a batch."""
    return _batch(case, {"solver": case.own()})


def _batch(case: Case, recipe: dict[str, Any]) -> str:
    many = every.many(case.pipe)
    if many is not None and case.count(case.arguments, {many: 2}) == 2 * len(case.plain):  # two images of a prompt
        ones, two = [case.arguments, case.arguments], case.arguments
        seed, more = 3, {many: 2}
    else:  # one image of each of two prompts
        ones, two = [every.arguments(case.pipe, [row]) for row in (0, 1)], every.arguments(case.pipe, [0, 1])
        seed, more = [3, 4], {}
        if case.count(two, {}) != 2 * len(case.plain):
            raise NotHere("makes one result a call")
    with hasten.accelerate(case.pipe, recipe) as fast:
        singles = [every.call(fast, one, seed=None, more={"seed": s}) for one, s in zip(ones, (3, 4))]
        both = every.call(fast, two, seed=None, more={"seed": seed} | more)
    return equality(both, torch.cat(singles))


def strength(value: float) -> Callable[[Case], str]:
    """Image-to-image from so far."""

    def check(case: Case) -> str:
        if not case.takes("strength"):
            raise NotHere("takes no strength")
        return case.same({"solver": case.own()}, steps=20, more={"strength": value})

    return check


def strength_heun(case: Case) -> str:
    """Image-to-image with a solver that asks the network twice a step."""
    if not case.takes("strength"):
        raise NotHere("takes no strength")
    for value in STRENGTHS:
        done = works(case.accelerated({"solver": "heun"}, steps=20, more={"strength": value}), case.plain)
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
    listed |= {f"as {name}": scheduler_equal(name) for name in SCHEDULERS}
    listed |= {f"solver {name}": solver_runs(name) for name in SOLVERS}
    for field, registry in FAMILIES.items():
        listed |= {f"{field} {method.name}": part_works(field, method) for method in registry if _quick(method)}
    listed |= {"seeds": seeds}
    listed |= {f"seeds under {m.name}": part_rows("caches", m) for m in FAMILIES["caches"] if _quick(m)}
    listed |= {f"strength {value}": strength(value) for value in STRENGTHS}
    return listed | {"strength with heun": strength_heun, "callback": callback, "interrupt": interrupt}


def _quick(method: Any) -> bool:
    from importlib.util import find_spec

    return method.name != "torch-compile" and (method.name != "cache-dit" or find_spec("cache_dit") is not None)


def outcome(case: Case, name: str) -> str:
    """What comes of a check, said in one line."""
    before = signal.signal(signal.SIGALRM, _late)
    signal.alarm(PATIENCE)
    try:
        done = checks()[name](case)
    except NotHere as why:
        done = f"not here: {why}"
    except HastenError as why:
        done = f"refused: {_line(why, kind=False)}"
    except Exception as error:
        done = f"fault: {_line(error)} ({_place(error)})"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    if done.startswith("fault: differs"):
        done = next((f"differs: {why}" for (pipes, things), why in DIFFERENT.items()
                     if fnmatchcase(case.name, pipes) and fnmatchcase(name, things)), done)  # fmt: skip
    return case.left(called=not done.startswith(("refused", "not here"))) or done


def _late(*_: Any) -> None:
    raise TimeoutError(f"takes more than {PATIENCE} s")


def _line(error: Exception, kind: bool = True) -> str:
    text = " ".join(str(error).split())
    return (f"{type(error).__name__}: " if kind else "") + (text if len(text) < 200 else text[:199] + "…")


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/hasten/" in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {Path(frames[-1].filename).name}:{frames[-1].lineno}"


def outcomes(name: str, wanted: Iterable[str] | None = None) -> dict[str, str]:
    """The outcomes of all (or some) checks of one pipeline class."""
    torch.set_num_threads(1)
    try:
        case = Case(name)
    except Exception as error:
        return {"plain": f"fault: {_line(error)} ({_place(error)})"}
    table = {"plain": "works"}
    for check in wanted or checks():
        table[check] = outcome(case, check)
        if "not what it was" in table[check] or "afterwards" in table[check]:
            case = Case(name)
    return table


def built() -> list[str]:
    """The pipeline classes that have a builder."""
    return [name for name in every.names() if name not in every.LEFT_OUT]


def matrix(names: list[str], wanted: list[str], workers: int) -> Iterator[tuple[str, dict[str, str]]]:
    """The outcomes of every pipeline class, as they come."""
    if workers == 1:
        yield from ((name, outcomes(name, wanted)) for name in names)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from zip(names, pool.map(outcomes, names, [wanted] * len(names)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pipelines", nargs="*", default=["*"])
    parser.add_argument("--checks", nargs="*", default=["*"])
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    names = [name for name in built() if any(fnmatchcase(name, pattern) for pattern in asked.pipelines)]
    wanted = [name for name in checks() if any(fnmatchcase(name, pattern) for pattern in asked.checks)]
    table: dict[str, dict[str, str]] = {}
    for name, row in matrix(names, wanted, asked.workers):
        table[name] = row
        faults = {check: said for check, said in row.items() if said.startswith("fault")}
        print(f"{time.strftime('%H:%M:%S')} {name}: {len(faults)} faults of {len(row)}", flush=True)
        for check, said in faults.items():
            print(f"    {check}: {said}", flush=True)
        if asked.out:
            asked.out.write_text(json.dumps({"pipelines": table, "left out": every.LEFT_OUT}, indent=1) + "\n")
    sys.exit(min(99, sum(said.startswith("fault") for row in table.values() for said in row.values())))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    main()
