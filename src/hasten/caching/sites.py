"""Where in a network a cache sits. Sites are found by what a model is made of, not by what its classes are called."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hasten.caching.memory import Memory, RowSplit
from hasten.core.errors import HastenError, UnsupportedModel, one_of
from hasten.core.registry import Registry
from hasten.runtime.anatomy import batch_of
from hasten.runtime.rows import mapped
from hasten.runtime.view import wrap


class Site(ABC):
    """A part of a network, and the tensors that stand in for it. Frozen dataclasses, listed in `SITES`.

    name: what recipes call it.
    within: names of caches that must be applied outside of it, because it would remember what they leave in place of
        tensors that nothing reads.
    search_space: what a search tries for each setting, as of an `Acceleration`.
    """

    name: ClassVar[str]
    within: ClassVar[tuple[str, ...]] = ()
    inside: ClassVar[bool] = True
    search_space: ClassVar[Mapping[str, Any] | None] = None  # as of an Acceleration

    @abstractmethod
    def check(self, network: nn.Module) -> None:
        """Raise UnsupportedModel, saying what is missing, if the network has no such part."""

    @abstractmethod
    def attach(self, network: nn.Module, memory: Memory) -> None:
        """Make a view ask the memory which rows of the part are computed, and hand it what is to be remembered.

        network: the view, which is changed.
        memory: of the cache.
        """


SITES: Registry[Site] = Registry("site", Site)


class Standing:
    """In place of a module's forward: all tensors that come out are remembered, and stand in for it later.

    memory: of the cache.
    key: under which they are remembered.
    written: give out a copy of the first, because adapters and FreeU write into what they get from this module.
    """

    def __init__(self, memory: Memory, key: Hashable, written: bool = False) -> None:
        self.memory, self.key, self.written = memory, key, written
        self._template: Any = None  # what comes out, with tensors of no size
        self._adds: list[bool] = []  # which tensors that come out have the shape of what they may be increments on
        self._twins: set[int] = set()  # which of them are the first once more
        self._later: list[Standing] = []  # for modules that run several times in a network call
        self._turn, self._calls = 0, 0

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._turn != self.memory.turn:
            self._turn, self._calls = self.memory.turn, 0
        self._calls += 1
        if self._calls == 1:
            return self.stand(None, inner, args, kwargs)
        if self._calls - 1 > len(self._later):
            self._later.append(Standing(self.memory, (self.key, "again", self._calls), self.written))
        return self._later[self._calls - 2].stand(None, inner, args, kwargs)

    def stand(self, base: Tensor | None, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What comes out, computed or recalled.

        base: remember increments on this for the tensors that have its shape; None for none.
        inner: the module's forward.
        args: its arguments.
        kwargs: its named arguments.
        """
        split = self.memory.split((self.key, 0))
        numbers = itertools.count()
        first: list[Tensor] = []

        def settled(computed: Tensor | None) -> Tensor:
            number = next(numbers)
            if number in self._twins:
                return first[0]
            tensor = self.memory.settle((self.key, number), computed, base if self._adds[number] else None)
            first.append(tensor.clone() if self.written and not first else tensor)
            return first[0] if not number else tensor

        if split.none:
            return mapped(self._template, lambda _: settled(None))
        result = self.memory.compute(split, inner, args, kwargs)
        self._learn(result, base, whole=split.all)
        return mapped(result, settled)

    def _learn(self, result: Any, base: Tensor | None, whole: bool) -> None:
        tensors: list[Tensor] = []

        def look(x: Tensor) -> Tensor:
            tensors.append(x)
            return x.new_empty(0)

        self._template = mapped(result, look)
        self._adds = [base is not None and x.shape == base.shape for x in tensors]
        if whole:  # rows that are put together are tensors of their own
            self._twins = {i for i, x in enumerate(tensors) if i and x is tensors[0]}


SPACES = ("output", "data")
WHOLE = "whole"


@SITES.add
@dataclass(frozen=True)
class Whole(Site):
    """The whole network: where it is not computed, not a layer of it runs.

    space: what is remembered: the network's "output" as it is, or the clean "data" that it stands for, from which the
        output at the current state and time is made again.
    """

    space: str = "output"

    name = "whole"
    inside = False
    search_space: ClassVar[Mapping[str, Any]] = {"space": ("data", "output")}

    def __post_init__(self) -> None:
        one_of("space", self.space, SPACES)

    def check(self, network: nn.Module) -> None:
        pass

    def attach(self, network: nn.Module, memory: Memory) -> None:
        batch = batch_of(network)
        template: list[Any] = []

        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            split = memory.split(WHOLE)
            shown = batch(args, kwargs)
            if split.none:
                output = self._settled(memory, split, shown, None)
                return mapped(template[0], lambda _: output)
            result = memory.compute(split, inner, args, kwargs)
            if not template:
                self._look_at(network, result, shown)
            output = self._settled(memory, split, shown, result[0])
            template[:] = [mapped(result, lambda x: x.new_empty(0))]
            return result if split.all else mapped(result, lambda _: output)

        wrap(network, forward)

    def _look_at(self, network: nn.Module, result: Any, shown: Tensor) -> None:
        """Raise UnsupportedModel if what a network has answered to states cannot be remembered as this site does."""
        tensors: list[Tensor] = []
        mapped(result, tensors.append)
        kind = type(network).__name__
        if len(tensors) != 1:
            raise UnsupportedModel(
                f"whole: {kind} answers with {len(tensors)} tensors, and one can be remembered; use a cache of blocks"
            )
        if self.space == "data" and tensors[0].shape[2:] != shown.shape[2:]:
            raise UnsupportedModel(
                f"whole: {kind} answers states of shape {tuple(shown.shape)} with {tuple(tensors[0].shape)}, which "
                'says nothing of clean data; remember the "output", or use a cache of blocks'
            )

    def _settled(self, memory: Memory, split: RowSplit, shown: Tensor, output: Tensor | None) -> Tensor:
        """The output of all rows."""
        if self.space == "output":
            return memory.settle(WHOLE, output)
        data = None
        if output is not None:
            data = self._by_part(memory, shown, output, to_data=True)
            data = torch.cat([data, output[:, data.shape[1] :]], 1)  # a variance that is predicted as well, if any
        data = memory.settle(WHOLE, data)
        if output is not None and split.all:
            return output
        own = min(data.shape[1], shown.shape[1])
        made = torch.cat([self._by_part(memory, shown, data[:, :own], to_data=False), data[:, own:].to(shown.dtype)], 1)
        if output is None:
            return made
        computed = torch.tensor(split.computed, device=made.device)
        return made.index_copy(0, computed, output[split.computed])

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
