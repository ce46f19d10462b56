"""The decoders of several steps in one call: while the encoder's output is held, they differ in their times alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from hasten.caching.forecasters import Forecaster
from hasten.caching.gates import Gate
from hasten.caching.history import Node
from hasten.caching.memory import Memory
from hasten.caching.sites import Site
from hasten.caching.unet import UNetEncoder
from hasten.core.errors import HastenError
from hasten.runtime.anatomy import batch_of
from hasten.runtime.rows import mapped, picked
from hasten.runtime.run import Run
from hasten.runtime.view import wrap

OUTPUTS = "outputs"  # of the steps up to the next key step, (rows, steps, ...)


@dataclass(frozen=True)
class Ahead(Site):
    """A U-Net that answers on key steps for all steps up to the next: one way down, and several ways up.

    On the steps in between no layer runs.

    gate: on which steps the way down runs; it must be a rule on the step.
    most: how many steps' ways up share a call, which has as many times the rows; at least 1.

    Source: Li et al. 2023 (Faster Diffusion), section 3.3.
    """

    gate: Gate
    most: int

    name: ClassVar[str] = "unet-ahead"

    def check(self, network: nn.Module) -> None:
        UNetEncoder().check(network)

    def attach(self, network: Any, memory: Memory) -> None:
        batch, copies = batch_of(network), _Copies()
        names = list(inspect.signature(type(network).forward).parameters)[1:]
        template: list[Any] = []

        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if memory.split(OUTPUTS).none:
                return mapped(template[0], lambda _: memory.settle(OUTPUTS, None))
            given, rows = dict(zip(names, args)) | kwargs, len(batch(args, kwargs))
            numbers = self._numbers(memory.owners[0].part, given["timestep"])
            results = []
            with copies.shared():
                for times in numbers.split(self.most):
                    copies.each = len(times)
                    several = picked(given, rows, [row for row in range(rows) for _ in times])
                    results.append(inner(**several | {"timestep": times.repeat(rows)}))
            template[:] = [mapped(results[0], lambda x: x.new_empty(0))]
            made = torch.cat([result[0].unflatten(0, (rows, -1)) for result in results], 1)
            memory.revise(OUTPUTS, made, range(rows))
            return mapped(template[0], lambda _: made[:, 0])

        wrap(network, forward)
        for part in (network.conv_in, *network.down_blocks, network.mid_block):
            copies.watch(part)

    def _numbers(self, run: Run, timestep: Any) -> Tensor:
        """The network times of this step, as the network was given it, and of those up to the next key step."""
        end = run.step + 1
        while end < run.steps and not self.gate.opens(replace(run, step=end)):
            end += 1
        now = torch.as_tensor(timestep).reshape(-1)[:1]
        if end == run.step + 1:
            return now
        if not run.times:
            raise HastenError(
                "parallel: needs a scheduler that asks the network once a step, at times known beforehand; "
                "choose a multistep solver, or parallel=1"
            )
        later = run.process.network_time(np.array(run.times[run.step + 1 : end]))
        return torch.cat([now, torch.as_tensor(later).to(now)])


class _Copies:
    """Lets parts of a network run once for rows that are there several times, one after the other. each: how often."""

    def __init__(self) -> None:
        self.each = 1
        self._kept: dict[nn.Module, Any] = {}

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Meanwhile, what comes out of the parts is kept for later calls with the same rows."""
        try:
            yield
        finally:
            self._kept.clear()

    def watch(self, part: nn.Module) -> None:
        batch = batch_of(part)

        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            each, rows = self.each, len(batch(args, kwargs))
            if part not in self._kept:
                first = range(0, rows, each)
                self._kept[part] = inner(*picked(args, rows, first), **picked(kwargs, rows, first))
            return mapped(self._kept[part], lambda x: x.repeat_interleave(each, 0))

        wrap(part, forward)


@dataclass(frozen=True)
class Foreseen(Forecaster):
    """What was computed for this step at the latest key step."""

    name: ClassVar[str] = "foreseen"

    def forecast(self, run: Run, nodes: Sequence[Node], images: Sequence[int]) -> Tensor:
        return nodes[-1].tensor[:, run.step - nodes[-1].step]

    def alike(self, run: Run, nodes: Sequence[Node]) -> Hashable:
        return run, nodes[-1].step
