"""One pipeline with what it makes, and how what it makes by a recipe is compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from tiny import fingerprint
from torch import Tensor

import hasten
from every.building import arguments, build, call, signature
from every.differences import ON_DATA, OWN
from hasten.runtime.stages import stages_of

TOLERANCE = 2e-3  # of the norm of the difference, relative to the norm of the plain result
NOTES = ("_feat_map", "_conv_idx", "prev_features")  # what autoencoders of videos keep of their last call


class Unrounded:
    """Mixed into a scheduler: where its times are noise levels, they are not rounded to whole numbers."""

    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)  # type: ignore[misc]
        if self.config.get("use_flow_sigmas"):
            self.timesteps = self.sigmas[: len(self.timesteps)] * self.config.num_train_timesteps


class Kept:
    """Mixed into a scheduler: what it keeps for its second step is not what pipelines may write over."""

    def step(self: Any, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().step(model_output.clone(), timestep, sample.clone(), *args, **kwargs)  # type: ignore[misc]


class NotHere(Exception):
    """The plain pipeline has no such thing."""


class Case:
    """One pipeline, what it is called with, and what it then makes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pipe, self.arguments = build(name)
        self.plain = call(self.pipe, self.arguments)
        before = self.fingerprint()
        call(self.pipe, self.arguments)
        now = self.fingerprint()  # what differs already is what the components note of their own calls
        self.prints = {key: value for key, value in now.items() if before.get(key) == value}
        self._counts: dict[Any, int] = {}

    def fingerprint(self) -> dict[Any, Any]:
        """Which components the pipeline holds, and every bit of them; not what it and its schedulers note of calls."""
        parts = set(self.pipe.components)
        prints: dict[Any, Any] = {("components", name): id(part) for name, part in self.pipe.components.items()}
        for (name, path), value in ((k, v) for k, v in fingerprint(self.pipe).items() if k[0] in parts):
            if path not in ("itself", "inside"):
                noted = NOTES + (("_forward_hooks",) if name.startswith("text_encoder") else ())  # of its hidden states
                prints |= {(name, path, key): frozen for key, frozen in value.items() if not key.endswith(noted)}
        return prints

    def takes(self, *arguments: str) -> bool:
        """Whether the pipeline's call has any of these arguments."""
        return any(name in signature(self.pipe) for name in arguments)

    def own(self) -> Any:
        """The solver that does what the pipeline's own scheduler does, or those of all pipelines inside of it."""
        solvers = []
        for scheduler in (stage.pipe.scheduler for stage in stages_of(self.pipe)):
            solver = OWN.get(type(scheduler).__name__)
            if solver is None:
                raise NotHere(f"hasten has no solver that is {type(scheduler).__name__}")
            solvers.append(solver(scheduler.config) if callable(solver) else solver)
        if any(solver != solvers[0] for solver in solvers):
            raise NotHere("is made of pipelines whose schedulers are not one solver")
        return solvers[0]

    def accelerated(self, recipe: dict[str, Any], **how: Any) -> Tensor:
        """What the pipeline makes by a recipe."""
        with hasten.accelerate(self.pipe, recipe) as fast:
            return call(fast, self.arguments, **how)

    def same(self, recipe: dict[str, Any], shipped: bool = False, **how: Any) -> str:
        """Whether a recipe makes what the plain pipeline makes of this call.

        shipped: whether the pipeline's own scheduler stays, and ends where it ends.
        """
        try:
            with nullcontext() if shipped else self.comparable():
                expected = call(self.pipe, self.arguments, **how)
        except Exception as error:
            raise NotHere(f"the pipeline itself raises {one_line(error)}") from None
        return equality(self.accelerated(recipe, **how), expected)

    @contextmanager
    def comparable(self) -> Iterator[None]:
        """Meanwhile, the pipeline's scheduler takes its last step to the data, as recipes do, and rounds no times."""
        shipped = getattr(self.pipe, "scheduler", None)
        if shipped is None:
            raise NotHere("has no scheduler of that name")
        changed = {key: value for key, value in ON_DATA.items() if shipped.config.get(key, value) != value}
        if changed or shipped.config.get("use_flow_sigmas"):
            kind = type(shipped)
            self.pipe.scheduler = type(kind.__name__, (Unrounded, kind), {}).from_config(shipped.config, **changed)
        try:
            yield
        finally:
            self.pipe.scheduler = shipped

    def count(self, rows: Iterable[int], more: dict[str, Any]) -> int:
        """How many results the plain pipeline makes of the prompts or pictures of these numbers; 0 if it refuses."""
        key = (*rows, *more.items())
        if key not in self._counts:
            try:
                pipe = build(self.name)[0]  # another: a failed call leaves traces
                self._counts[key] = len(call(pipe, arguments(pipe, rows), more=more))
            except Exception:
                self._counts[key] = 0
        return self._counts[key]

    def left(self) -> str | None:
        """What is wrong with the pipeline's components after a check; None if they are as they were."""
        now = self.fingerprint()
        where = [key for key, value in self.prints.items() if now.get(key) != value]
        if where:
            return f"fault: the pipeline is not what it was: {'.'.join(map(str, where[0]))} and {len(where) - 1} more"
        return None

    def makes_the_same(self) -> bool:
        """Whether the plain pipeline still makes what it made."""
        return torch.equal(call(self.pipe, self.arguments), self.plain)


def equality(one: Tensor, other: Tensor) -> str:
    """`equal`, or by how much two results differ."""
    if one.shape != other.shape:
        return f"fault: shape {tuple(one.shape)} instead of {tuple(other.shape)}"
    if not torch.isfinite(other).all():
        raise NotHere("the pipeline itself makes numbers that are not finite")
    if not torch.isfinite(one).all():
        return "fault: not finite"
    apart = float((one.double() - other.double()).norm() / other.double().norm().clamp_min(1e-9))
    return "equal" if apart < TOLERANCE else f"fault: differs by {apart:.2g}"


def works(result: Tensor, like: Tensor) -> str:
    """`works`, unless a result has another shape than it should, or is not finite."""
    if result.shape != like.shape:
        return f"fault: shape {tuple(result.shape)} instead of {tuple(like.shape)}"
    return "works" if torch.isfinite(result).all() else "fault: not finite"


def one_line(error: Exception, kind: bool = True) -> str:
    """What an exception says, in one line; with its class if `kind`."""
    text = " ".join(str(error).split())
    return (f"{type(error).__name__}: " if kind else "") + (text if len(text) < 200 else text[:199] + "…")
