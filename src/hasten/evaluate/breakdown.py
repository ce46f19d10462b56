"""Where the time of one image goes: network calls, text encoding, decoding, and the rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from hasten.evaluate.problem import Problem, Runner
from hasten.measure.timing import wait
from hasten.recipe import Recipe
from hasten.runtime.anatomy import network_name

REST = "the rest"
METHODS = ("encode", "decode")  # methods of a part that are timed, besides its forward


@dataclass(frozen=True)
class Times:
    """The time of one image.

    parts: part of the pipeline -> seconds; the network comes first, "the rest" last.
    calls: of the network.
    """

    parts: Mapping[str, float]
    calls: int

    @property
    def total(self) -> float:
        """Seconds of the whole image."""
        return sum(self.parts.values())

    @property
    def call(self) -> float:
        """Seconds of a network call."""
        return next(iter(self.parts.values())) / self.calls

    def to_json(self) -> dict[str, Any]:
        return {"seconds": dict(self.parts), "total": self.total, "calls": self.calls, "call": self.call}


@dataclass(frozen=True)
class Breakdown:
    """Where the time of one image goes.

    default: by the default.
    recipe: by the recipe, timed in turn with the default.
    """

    default: Times
    recipe: Times

    @property
    def parts(self) -> list[str]:
        """Every part that takes time in one of the two."""
        return [*dict.fromkeys([*list(self.default.parts)[:-1], *self.recipe.parts])]

    def to_json(self) -> dict[str, Any]:
        return {"default": self.default.to_json(), "recipe": self.recipe.to_json()}


def break_down(problem: Problem, recipe: Recipe, repeats: int = 5) -> Breakdown:
    """Time the parts of a pipeline by the default and by a recipe.

    problem: whose pipeline.
    recipe: beside the default.
    repeats: runs of each, at least 1; the one whose total is in the middle is taken.
    """
    timed: tuple[list[Times], list[Times]] = ([], [])
    with problem.running(None) as default, problem.running(recipe) as fast:
        for run in (default, fast):
            run(problem.single)
        for _ in range(repeats):
            for run, times in zip((default, fast), timed):
                times.append(_timed(run, problem))
    return Breakdown(*(sorted(times, key=lambda t: t.total)[len(times) // 2] for times in timed))


def _timed(run: Runner, problem: Problem) -> Times:
    twin = getattr(run.pipe, "pipe", run.pipe)
    watch = Stopwatch()
    with watched(twin, watch):
        wait()
        begin = time.perf_counter()
        run(problem.single)
        wait()
        total = time.perf_counter() - begin
    network = network_name(twin)
    ordered = {network: watch.seconds[network]} | watch.seconds
    return Times(ordered | {REST: total - sum(ordered.values())}, watch.calls[network])


class Stopwatch:
    """Seconds and calls of functions, by name. Time inside a nested timed function counts for the outer one alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._running = False

    def timed(self, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        """`inner`, with its time and calls added under `name`."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._running:
                return inner(*args, **kwargs)
            self._running = True
            wait()
            begin = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                wait()
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
                self.calls[name] = self.calls.get(name, 0) + 1
                self._running = False

        return call


class Watched:
    """Stands in for a part of a pipeline and behaves as it does; its calls are timed."""

    def __init__(self, part: nn.Module, name: str, watch: Stopwatch) -> None:
        self.__dict__.update(_part=part, _name=name, _watch=watch)

    @property
    def __class__(self) -> type:  # pipelines look for modules among their parts
        return type(self._part)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._watch.timed(self._name, self._part)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._part, name)
        return self._watch.timed(f"{self._name} {name}", value) if name in METHODS else value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._part, name, value)


@contextmanager
def watched(pipe: Any, watch: Stopwatch) -> Iterator[None]:
    """Time every module of a pipeline by its name. The modules are not touched; the pipeline is restored on exit.

    pipe: a diffusers pipeline.
    watch: what adds up the times.
    """
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    try:
        for name, part in parts.items():
            object.__setattr__(pipe, name, Watched(part, name.replace("_", " "), watch))
        yield
    finally:
        for name, part in parts.items():
            object.__setattr__(pipe, name, part)
