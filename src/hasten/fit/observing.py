"""Watching full runs of a pipeline: how much what is seen in its network changes from step to step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hasten.caching.gates import Gate
from hasten.caching.indicators import Added, Indicator, Modulated
from hasten.core.errors import HastenError
from hasten.runtime.acceleration import Acceleration, Phase
from hasten.runtime.anatomy import blocks_of
from hasten.runtime.run import Run
from hasten.runtime.view import wrap

Measure = Callable[[Tensor, Tensor], Tensor]
"""(now, before), rows each -> how far apart, (rows,)."""


class At(NamedTuple):
    """Where a change was seen: the step, and what tells one trajectory of tensors from another."""

    step: int
    trajectory: tuple[int, int, int]


Changes = dict[At, float]


def polynomial(
    method: Acceleration, pipe: Any, prompts: Sequence[str] | None, steps: int | None, degree: int,
    call: Mapping[str, Any],
) -> tuple[float, ...]:  # fmt: skip
    """From changes of the modulated input to changes of the output, least squares, highest power first."""
    relative = Gate().measure
    seen = watched(method, pipe, [(Modulated(), relative), (_Output(), relative)], prompts, steps, call)
    given, wanted = ([changes[at] for at in sorted(seen[0])] for changes in seen)
    if len(set(given)) <= degree:
        raise HastenError(
            f"degree: {degree} needs more than {degree} changes to be fitted to, and {len(set(given))} were seen; "
            "give more steps or prompts"
        )
    return tuple(np.polyfit(given, wanted, degree).tolist())


def mean_ratios(
    method: Acceleration, pipe: Any, prompts: Sequence[str] | None, steps: int | None, call: Mapping[str, Any]
) -> tuple[float, ...]:
    """The size of what the blocks add to the size it had the step before, for each step; 1 for the first."""
    (seen,) = watched(method, pipe, [(_Stack(), _ratio)], prompts, steps, call)
    if not seen:
        raise HastenError("steps: nothing changes in a run of one step; give at least 2")
    last = max(at.step for at in seen)
    means = [np.mean([change for at, change in seen.items() if at.step == step]) for step in range(1, last + 1)]
    return (1.0, *(float(mean) for mean in means))


def watched(
    method: Acceleration, pipe: Any, places: Sequence[tuple[Indicator, Measure]], prompts: Sequence[str] | None,
    steps: int | None, call: Mapping[str, Any],
) -> list[Changes]:  # fmt: skip
    """What changed in these places in one call of the pipeline; a finite number for each step but the first.

    method: whose needs the network must meet. Raises HastenError for numbers that are not finite.
    """
    arguments = {"output_type": "latent", "generator": torch.Generator().manual_seed(0), **call}
    arguments |= {} if prompts is None else {"prompt": list(prompts)}
    arguments |= {} if steps is None else {"num_inference_steps": steps}
    watch = _Watch(method, places)
    with watch.applied(pipe), torch.no_grad():
        pipe(**arguments)
    found = [watcher.changes for watcher in watch.watchers]
    if not all(np.isfinite(list(changes.values())).all() for changes in found):
        raise HastenError("fit: the network's values are not finite; try another dtype or other prompts")
    return found


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
            indicator.attach(network, watcher)  # type: ignore[arg-type]
            self.watchers.append(watcher)


class _Watcher:
    """What an indicator tells, in place of a memory. Later queries of a step are not looked at."""

    def __init__(self, run: Run, measure: Measure) -> None:
        self.run, self.measure = run, measure
        self.changes: Changes = {}
        self._before: dict[tuple[int, int, int], tuple[int, Tensor]] = {}

    def decide(self, seen: Tensor) -> None:
        for i, row in enumerate(self.run.rows(len(seen)) or ()):
            trajectory, step = (row.part.number, row.part.call, row.place), row.part.step
            old = self._before.get(trajectory)
            if row.part.stage == 0 and (old is None or old[0] < step):
                now = seen[i : i + 1].clone()
                if old is not None and old[0] == step - 1:
                    self.changes[At(step, trajectory)] = float(self.measure(now, old[1]))
                self._before[trajectory] = step, now


class _Output(Indicator):
    """What the network gives out; too late for a gate."""

    name = "output"

    def check(self, network: nn.Module) -> None:
        pass

    def attach(self, network: nn.Module, memory: Any) -> None:
        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            result = inner(*args, **kwargs)
            memory.decide(result[0])
            return result

        wrap(network, forward)


class _Stack(Indicator):
    """What all blocks together add to the image tokens; too late for a gate."""

    name = "stack"

    def check(self, network: nn.Module) -> None:
        blocks_of(network)

    def attach(self, network: nn.Module, memory: Any) -> None:
        Added(len(blocks_of(network))).attach(network, memory)


def _ratio(now: Tensor, before: Tensor) -> Tensor:
    """The mean over tokens of |now| / |before|."""
    sizes = [x.float().norm(dim=-1) for x in (now, before)]
    return (sizes[0] / (sizes[1] + 1e-8)).flatten(1).mean(1)
