"""Clocks: whatever scheduler a pipeline has, while accelerated it keeps a `Run` in step with the generation."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hasten.predictions import reading_of
from hasten.processes import from_config
from hasten.runtime.run import Run


@contextmanager
def clocked(pipe: Any) -> Iterator[Run]:
    """The Run of the pipeline's scheduler; one that keeps none is replaced for the time by a copy that does."""
    own = pipe.scheduler
    with scheduled(pipe, own if isinstance(getattr(own, "run", None), Run) else clocked_copy(own)):
        run = pipe.scheduler.run
        edits = [*run.edits]
        try:
            yield run
        finally:
            run.edits[:] = edits


@contextmanager
def scheduled(pipe: Any, scheduler: Any) -> Iterator[None]:
    """Give the pipeline another scheduler; its own is put back on exit."""
    own = pipe.scheduler
    object.__setattr__(pipe, "scheduler", scheduler)
    try:
        yield
    finally:
        object.__setattr__(pipe, "scheduler", own)


@contextmanager
def announced(pipe: Any, run: Run) -> Iterator[None]:
    """Tell the run how many images a generation has as soon as the pipeline prepares their latents."""
    inner = getattr(pipe, "prepare_latents", None)
    if inner is None or getattr(inner, "_hasten_announces", False):
        yield
        return
    own = pipe.__dict__.get("prepare_latents")

    @functools.wraps(inner)
    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        prepared = inner(*args, **kwargs)
        latents = prepared[0] if isinstance(prepared, tuple) else prepared
        if isinstance(latents, Tensor):
            run.expect(len(latents))
        return prepared

    prepare_latents._hasten_announces = True  # type: ignore[attr-defined]
    pipe.__dict__["prepare_latents"] = prepare_latents
    try:
        yield
    finally:
        del pipe.__dict__["prepare_latents"]
        if own is not None:
            pipe.__dict__["prepare_latents"] = own


def clocked_copy(scheduler: Any) -> Any:
    """A copy of a diffusers scheduler that keeps a Run in `.run`: a query is over when `step` is called.

    A scheduler of order 2 (Heun and its like) answers two queries a step.
    """
    clock = copy.deepcopy(scheduler)
    process = from_config(scheduler.config)
    clock.run = run = Run(process, reading_of(process, scheduler.config))
    stages = getattr(scheduler, "order", 1)
    numbers: list[float] = []  # the network times of every query of the full schedule
    first = query = 0  # where in them this generation starts (image-to-image starts midway), and how far it is

    def begin_at(index: int) -> None:
        nonlocal first
        first = index
        run.steps = -(-(len(numbers) - first) // stages)
        run.times = tuple(map(float, process.from_network_time(np.array(numbers[first:])))) if stages == 1 else ()
        ask(0)

    def ask(index: int) -> None:
        nonlocal query
        query = index
        number = numbers[min(first + query, len(numbers) - 1)] if numbers else 0.0
        run.ask(query // stages, float(run.process.from_network_time(number)), query % stages)

    def look(timestep: Any) -> None:
        """See from the first timestep that a generation starts midway, if nobody said so."""
        if query or timestep is None or not numbers or float(timestep) == numbers[first]:
            return
        if float(timestep) in numbers:
            begin_at(numbers.index(float(timestep)))

    def set_timesteps(inner: Any, *args: Any, **kwargs: Any) -> None:
        inner(*args, **kwargs)
        numbers[:] = clock.timesteps.tolist()
        run.begin(len(numbers))
        begin_at(0)

    def set_begin_index(inner: Any, begin_index: int = 0) -> None:
        inner(begin_index)
        begin_at(begin_index)

    def scale_model_input(inner: Any, sample: Any, timestep: Any = None, *args: Any, **kwargs: Any) -> Any:
        look(timestep)
        return inner(sample, timestep, *args, **kwargs)

    def step(inner: Any, model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        look(timestep)
        run.images = len(sample)
        shown = shown_state(sample, timestep)
        result = inner(model_output, timestep, sample, *args, **kwargs)
        assert run.reading is not None
        run.answer(run.reading.shown(shown, model_output, run.time))
        ask(query + 1)
        return edited(result) if run.edits and first + query < len(numbers) else result

    def edited(result: Any) -> Any:
        """What a step returns, with the state that comes next edited in the network's own process."""
        state = result[0]
        one = shown_state(state.new_ones([1] * state.ndim), clock.timesteps[first + query])
        scale = float(run.reading.shown(one, torch.zeros_like(one), run.time).x)  # type: ignore[union-attr]
        changed = run.edited(run, state * scale) / scale
        if isinstance(result, tuple):
            return (changed, *result[1:])
        result.prev_sample = changed
        return result

    shown_state = getattr(clock, "scale_model_input", lambda sample, _: sample)
    for replacement in (set_timesteps, set_begin_index, scale_model_input, step):
        inner = getattr(clock, replacement.__name__, None)
        if inner is not None:
            # keeps the signature, which pipelines look into
            setattr(clock, replacement.__name__, functools.wraps(inner)(functools.partial(replacement, inner)))
    return clock
