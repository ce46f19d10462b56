"""Watching full runs of a pipeline: how much what is seen in its network changes from step to step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hasten.caching.indicators import Indicator
from hasten.core.errors import HastenError
from hasten.runtime.acceleration import Acceleration, Phase
from hasten.runtime.run import Run
from hasten.runtime.samples import Samples

Measure = Callable[[Tensor, Tensor], Tensor]
"""(now, before), rows each -> how far apart, (rows,)."""


class At(NamedTuple):
    """Where a change was seen.

    step: of the run.
    history: what tells the tensors of one image and place in the network from those of others.
    """

    step: int
    history: tuple[int, int, int]


Changes = dict[At, float]


def asked_for(samples: Samples | Sequence[str] | None, steps: int | None = None) -> dict[str, Any]:
    """The arguments with which a pipeline draws some samples.

    samples: with their seeds; or prompts alone, one image each; or None for what the pipeline is called with anyway.
    steps: of the run; None for the pipeline's default.
    """
    arguments: dict[str, Any] = {} if steps is None else {"num_inference_steps": steps}
    if isinstance(samples, Samples):
        generators = [torch.Generator().manual_seed(seed) for seed in samples.seeds]
        return arguments | {"prompt": list(samples.prompts), "generator": generators}
    return arguments if samples is None else arguments | {"prompt": list(samples)}


def watched(
    method: Acceleration, pipe: Any, places: Sequence[tuple[Indicator, Measure]], arguments: Mapping[str, Any]
) -> list[Changes]:
    """What changed in some places in one call of a pipeline: a finite number for each step but the first.

    method: whose needs the network must meet.
    pipe: a diffusers pipeline; left as it was.
    places: what is looked at, and how far apart two looks are.
    arguments: of the call, see `asked_for`; by default it gives out latents, from seed 0.

    Raises HastenError for numbers that are not finite, UnsupportedModel for a network that does not meet the needs.
    """
    watch = _Watch(method, places)
    with watch.applied(pipe), torch.no_grad():
        pipe(**{"output_type": "latent", "generator": torch.Generator().manual_seed(0), **arguments})
    seen = [watcher.changes for watcher in watch.watchers]
    if not all(np.isfinite(list(changes.values())).all() for changes in seen):
        raise HastenError("fit: the network's values are not finite; try another dtype or other prompts")
    return seen


class _Watch(Acceleration):
    """Changes nothing, and notes what is seen."""

    name = "watch"
    phase = Phase.CACHE

    def __init__(self, method: Acceleration, places: Sequence[tuple[Indicator, Measure]]) -> None:
        self.method, self.places = method, places
        self.watchers: list[_Watcher] = []

    def check(self, network: nn.Module) -> None:
        self.method.check(network)

    def attach(self, network: nn.Module, run: Run) -> None:
        for indicator, measure in self.places:
            watcher = _Watcher(run, measure)
            indicator.attach(network, watcher)
            self.watchers.append(watcher)


class _Watcher:
    """What changed from step to step, where an indicator looks. Later queries of a step are not looked at."""

    def __init__(self, run: Run, measure: Measure) -> None:
        self.run, self.measure = run, measure
        self.changes: Changes = {}
        self._before: dict[tuple[int, int, int], tuple[int, Tensor]] = {}

    def decide(self, indicator: Tensor) -> None:
        for i, row in enumerate(self.run.rows(len(indicator)) or ()):
            history, step = (row.part.number, row.part.call, row.place), row.part.step
            old = self._before.get(history)
            if row.part.stage == 0 and (old is None or old[0] < step):
                now = indicator[i : i + 1].clone()
                if old is not None and old[0] == step - 1:
                    self.changes[At(step, history)] = float(self.measure(now, old[1]))
                self._before[history] = step, now
