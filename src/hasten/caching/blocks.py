"""Sites in stacks of blocks, which transformers are."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from hasten.caching.memory import Memory
from hasten.caching.sites import SITES, Site
from hasten.core.errors import UnsupportedModel
from hasten.core.registry import Span
from hasten.runtime.anatomy import blocks_of
from hasten.runtime.rows import mapped, nearest
from hasten.runtime.view import wrap


@SITES.add
@dataclass(frozen=True)
class Blocks(Site):
    """The blocks first .. last - 1 of a transformer, as one piece.

    Where blocks have two streams (picture and text), both are remembered.

    first: index of the first block; negative numbers count from the end.
    last: index after the last block; negative numbers count from the end, None is the end.
    residual: remember what the blocks add to their input, and add that to the input of now; else remember their output.
    """

    first: int = 0
    last: int | None = None
    residual: bool = True

    name = "blocks"
    search_space: ClassVar[Mapping[str, Any]] = {"first": Span(1, 3)}

    def inside(self, network: nn.Module) -> list[nn.Module]:
        """The blocks of this network.

        Raises UnsupportedModel if there are none.
        """
        blocks = blocks_of(network)
        chosen = blocks[self.first : self.last]
        if not chosen:
            raise UnsupportedModel(
                f"blocks: this {type(network).__name__} has {len(blocks)}, none from {self.first} to {self.last}; "
                f"give a first below {len(blocks)}"
            )
        return chosen

    def check(self, network: nn.Module) -> None:
        self.inside(network)

    def attach(self, network: nn.Module, memory: Memory) -> None:
        chosen = self.inside(network)
        stretch = _Stretch(memory, (self.name, self.first, self.last), self.residual)
        for i, block in enumerate(chosen):
            wrap(block, _Block(stretch, block, is_first=i == 0, is_last=i + 1 == len(chosen)))


class _Stretch:
    """Blocks that share a split, and what entered the first of them in the running call."""

    def __init__(self, memory: Memory, key: Any, residual: bool) -> None:
        self.memory, self.key, self.residual = memory, key, residual
        self.entered: dict[str, Tensor] = {}


class _Block:
    """In place of a block's forward: where nothing is computed it hands on what it gets, the last what is recalled."""

    def __init__(self, stretch: _Stretch, block: nn.Module, is_first: bool, is_last: bool) -> None:
        self.stretch, self.is_first, self.is_last = stretch, is_first, is_last
        self._names = list(inspect.signature(type(block).forward).parameters)[1:]
        self._template: Any = None  # what comes out, with tensors of no size
        self._streams: list[str] = []  # which argument each tensor that comes out goes on from

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        stretch, memory = self.stretch, self.stretch.memory
        given = {k: v for k, v in (*zip(self._names, args), *kwargs.items()) if isinstance(v, Tensor)}
        if self.is_first:
            stretch.entered = given
        split = memory.split((stretch.key, 0))
        result = None
        if not split.none:
            result = memory.compute(split, inner, args, kwargs)
            if self._template is None:
                self._learn(given, result)
        if not self.is_last:
            number = iter(self._streams)
            return mapped(self._template, lambda _: given[next(number)]) if result is None else result
        entered, stretch.entered = stretch.entered, {}
        numbers = itertools.count()

        def settled(computed: Tensor | None) -> Tensor:
            number = next(numbers)
            base = entered.get(self._streams[number])
            if base is None or (computed is not None and base.shape != computed.shape):
                raise UnsupportedModel(
                    f"blocks: what leaves blocks {stretch.key[1]} to {stretch.key[2] or 'the end'} does not go on from "
                    "what entered them (streams are joined, or skips taken); use a site of units or the whole"
                )
            base = base if stretch.residual else None
            return memory.settle((stretch.key, number), computed, base)

        if result is None:
            return mapped(self._template, lambda _: settled(None))
        return mapped(result, settled)

    def _learn(self, given: Mapping[str, Tensor], result: Any) -> None:
        """See which argument each tensor of the result goes on from: of those of its shape, the nearest."""
        streams: list[str] = []

        def look(out: Tensor) -> Tensor:
            alike = [name for name, x in given.items() if x.shape == out.shape and name not in streams]
            if not alike:
                raise UnsupportedModel("model: a block gives out a tensor that none of its inputs could go on to be")
            if any(out is given[name] for name in alike):
                raise UnsupportedModel("model: a block writes into its input, so what it adds cannot be remembered")
            streams.append(alike[nearest([given[name] for name in alike], out)])
            return out.new_empty(0)

        self._template, self._streams = mapped(result, look), streams
