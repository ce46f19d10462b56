"""Keeping a `Run` in step with a generation, whatever scheduler the pipeline has."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.predictions import reading_of
from hasten.processes import described, from_config
from hasten.runtime.run import Run


def tracked_copy(scheduler: Any) -> Any:
    """A copy of a diffusers scheduler that keeps a Run in `.run`: a query is over when `step` is called.

    A scheduler of order 2 (Heun and its like) answers two queries a step.
    """
    copied = copy.deepcopy(scheduler)
    tracker = _Tracker(copied)
    copied.run = tracker.run
    for change in (tracker.set_timesteps, tracker.set_begin_index, tracker.scale_model_input, tracker.step):
        inner = getattr(copied, change.__name__, None)
        if inner is not None:
            # keeps the signature, which pipelines look into
            setattr(copied, change.__name__, functools.wraps(inner)(functools.partial(change, inner)))
    return copied


class _Tracker:
    """What stands in for the methods of a scheduler: each calls the original, `inner`, and tells the run.

    numbers: the network times of every query of the full schedule. first: where in them this generation starts
    (image-to-image starts midway). query: how far it is from there. index: the scheduler's own count after its last
    step.
    """

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        config = described(scheduler)
        process = from_config(config)
        self.reading = reading_of(process, config)
        self.run = Run(process, self.reading)
        self.stages: int = getattr(scheduler, "order", 1)
        self.shown = getattr(scheduler, "scale_model_input", lambda sample, _: sample)  # state -> what is shown of it
        self.numbers: list[float] = []
        self.first = self.query = 0
        self.index: int | None = None

    def set_timesteps(self, inner: Any, *args: Any, **kwargs: Any) -> None:
        inner(*args, **kwargs)
        self.numbers = self.scheduler.timesteps.tolist()
        self.run.begin(len(self.numbers))
        self._begin_at(0)

    def set_begin_index(self, inner: Any, begin_index: int = 0) -> None:
        inner(begin_index)
        self._begin_at(begin_index)

    def scale_model_input(self, inner: Any, sample: Any, timestep: Any = None, *args: Any, **kwargs: Any) -> Any:
        self._look(timestep)
        return inner(sample, timestep, *args, **kwargs)

    def step(self, inner: Any, model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        self._look(timestep)
        self._follow()
        self.run.count(len(sample))
        shown = self.shown(sample, timestep)
        result = inner(model_output, timestep, sample, *args, **kwargs)
        self.run.answer(self.reading.shown(shown, model_output, self.run.time))
        self._ask(self.query + 1)
        self.index = getattr(self.scheduler, "_step_index", None)
        over = self.first + self.query >= len(self.numbers)
        return self._edited(result) if self.run.edits and not over else result

    def _follow(self) -> None:
        """See whether the pipeline has set the scheduler back: some ask it for clean data first, then for a step."""
        now = getattr(self.scheduler, "_step_index", None)
        if now is not None and self.index is not None and 0 < self.index - now <= self.query:
            del self.run.past[now - self.index :]
            self._ask(self.query + now - self.index)

    def _begin_at(self, index: int) -> None:
        self.index = None
        run, left = self.run, self.numbers[index:]
        self.first = index
        run.steps = -(-len(left) // self.stages)
        run.times = tuple(map(float, run.process.from_network_time(np.array(left)))) if self.stages == 1 else ()
        self._ask(0)

    def _ask(self, index: int) -> None:
        self.query = index
        last = len(self.numbers) - 1
        number = self.numbers[min(self.first + index, last)] if self.numbers else 0.0
        self.run.ask(index // self.stages, float(self.run.process.from_network_time(number)), index % self.stages)

    def _look(self, timestep: Any) -> None:
        """See from the first timestep that a generation starts midway, if nobody said so."""
        if isinstance(timestep, Tensor) and timestep.numel() > 1:  # some pipelines give one an image
            if bool((timestep != timestep.flatten()[0]).any()):
                raise HastenError(
                    f"timestep: {timestep.numel()} different ones at once are not supported; every row of a state has "
                    "the same time here"
                )
            timestep = timestep.flatten()[0]
        if self.query or timestep is None or not self.numbers or float(timestep) == self.numbers[self.first]:
            return
        if float(timestep) in self.numbers:
            self._begin_at(self.numbers.index(float(timestep)))

    def _edited(self, result: Any) -> Any:
        """What a step returns, with the state that comes next edited in the network's own process."""
        state = result[0]
        one = self.shown(state.new_ones([1] * state.ndim), self.scheduler.timesteps[self.first + self.query])
        scale = float(self.reading.shown(one, torch.zeros_like(one), self.run.time).x)
        changed = self.run.edited(self.run, state * scale) / scale
        if isinstance(result, tuple):
            return (changed, *result[1:])
        result.prev_sample = changed
        return result
