"""Where in a network a cache sits. Sites are found by what a model is made of, not by what its classes are called."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hasten.acceleration import batch_of, mapped, wrap
from hasten.caches.memory import Fate, Memory
from hasten.catalog import Family
from hasten.errors import HastenError, one_of


class Site(ABC):
    """A part of a network, and the tensors that stand in for it. Frozen dataclasses, listed in `SITES`."""

    name: ClassVar[str]

    @abstractmethod
    def check(self, network: nn.Module) -> None:
        """Raise UnsupportedModel, saying what is missing, if the network has no such part."""

    @abstractmethod
    def attach(self, network: nn.Module, memory: Memory) -> None:
        """Make the view `network` ask the memory what becomes of the part, and give it what to remember."""


SITES: Family[Site] = Family("site", Site)


class Standing:
    """In place of a module's forward: all tensors that come out are remembered, and stand in for it later."""

    def __init__(self, memory: Memory, key: Hashable) -> None:
        self.memory, self.key = memory, key
        self._template: Any = None  # what comes out, with tensors of no size

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        fate = self.memory.fate((self.key, 0))
        number = itertools.count()
        if fate.none:
            return mapped(self._template, lambda _: self.memory.settle((self.key, next(number)), None))
        result = self.memory.compute(fate, inner, args, kwargs)
        self._template = mapped(result, lambda x: x.new_empty(0))
        return mapped(result, lambda x: self.memory.settle((self.key, next(number)), x))


SPACES = ("output", "data")
WHOLE = "whole"


@SITES.add
@dataclass(frozen=True)
class Whole(Site):
    """The whole network: where it is not computed, not a layer of it runs.

    space: what is remembered and forecast; the network's "output" as it is, or the clean "data" that it stands
    for, from which the output at the current state and time is made again.
    """

    space: str = "output"

    name = "whole"

    def __post_init__(self) -> None:
        one_of("space", self.space, SPACES)

    def check(self, network: nn.Module) -> None:
        pass

    def attach(self, network: nn.Module, memory: Memory) -> None:
        batch = batch_of(network)
        template: list[Any] = []

        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            fate = memory.fate(WHOLE)
            shown = batch(args, kwargs)
            if fate.none:
                output = self._settled(memory, fate, shown, None)
                return mapped(template[0], lambda _: output)
            result = memory.compute(fate, inner, args, kwargs)
            output = self._settled(memory, fate, shown, result[0])
            template[:] = [mapped(result, lambda x: x.new_empty(0))]
            return result if fate.all else mapped(result, lambda _: output)

        wrap(network, forward)

    def _settled(self, memory: Memory, fate: Fate, shown: Tensor, output: Tensor | None) -> Tensor:
        """The output of all rows."""
        if self.space == "output":
            return memory.settle(WHOLE, output)
        data = None
        if output is not None:
            data = self._by_part(memory, shown, output, to_data=True)
            data = torch.cat([data, output[:, data.shape[1] :]], 1)  # a variance that is predicted as well, if any
        data = memory.settle(WHOLE, data)
        if output is not None and fate.all:
            return output
        own = min(data.shape[1], shown.shape[1])
        made = torch.cat([self._by_part(memory, shown, data[:, :own], to_data=False), data[:, own:].to(shown.dtype)], 1)
        if output is None:
            return made
        computed = torch.tensor(fate.computed, device=made.device)
        return made.index_copy(0, computed, output[fate.computed])

    @staticmethod
    def _by_part(memory: Memory, shown: Tensor, tensor: Tensor, to_data: bool) -> Tensor:
        """Each row's output as data, or its data as output, at the time of its own request."""
        pieces = []
        for part, rows in memory.stretches():
            if part.reading is None:
                raise HastenError(
                    'space: "data" needs to know what the network predicts; give the denoiser a kind, or use "output"'
                )
            x, value = shown[rows], tensor[rows]
            made = part.reading.shown(x, value, part.time).data if to_data else part.reading.output(value, x, part.time)
            pieces.append(made)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
