"""Where a gate looks before it decides: a tensor of the running call, from before the site begins."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from hasten.core.errors import UnsupportedModel
from hasten.core.registry import Registry
from hasten.runtime.anatomy import batch_of, blocks_of, is_attention
from hasten.runtime.rows import nearest
from hasten.runtime.view import wrap


class Watcher(Protocol):
    """Who wants to know what is seen: the memory of a cache, or a fit that watches full runs."""

    def decide(self, indicator: Tensor) -> None:
        """Called in the running call with what is seen there, (rows, ...)."""
        ...


class Indicator(ABC):
    """A place in a network. Frozen dataclasses, listed in `INDICATORS`."""

    name: ClassVar[str]

    @abstractmethod
    def check(self, network: nn.Module) -> None:
        """Raise UnsupportedModel if the network has no such place."""

    @abstractmethod
    def attach(self, network: nn.Module, watcher: Watcher) -> None:
        """Tell the watcher what is seen there, by its `decide`, in every call of the network.

        network: a view, which is changed.
        watcher: who is told.
        """


INDICATORS: Registry[Indicator] = Registry("indicator", Indicator)


@INDICATORS.add
@dataclass(frozen=True)
class Shown(Indicator):
    """The batch of states that the network is given."""

    name = "shown"

    def check(self, network: nn.Module) -> None:
        pass

    def attach(self, network: nn.Module, watcher: Watcher) -> None:
        batch = batch_of(network)

        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            watcher.decide(batch(args, kwargs))
            return inner(*args, **kwargs)

        wrap(network, forward)


@INDICATORS.add
@dataclass(frozen=True)
class Added(Indicator):
    """What the first blocks of a transformer add to the image tokens; they run at every step.

    blocks: how many, from 1 to one less than the transformer has.
    """

    blocks: int = 1

    name = "added"

    def check(self, network: nn.Module) -> None:
        count = len(blocks_of(network))
        if not 1 <= self.blocks < count:
            raise UnsupportedModel(
                f"blocks: {self.blocks} is not possible with the {count} of this {type(network).__name__}; "
                f"give a number from 1 to {count - 1}"
            )

    def attach(self, network: nn.Module, watcher: Watcher) -> None:
        blocks = blocks_of(network)[: self.blocks]
        tokens = _stream(blocks[0])
        entered: list[Tensor] = []
        place: list[int] = []  # of the image tokens in what comes out

        def first(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            entered[:] = [tokens(args, kwargs)]
            return inner(*args, **kwargs)

        def last(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            result = inner(*args, **kwargs)
            outs, before = result if isinstance(result, tuple) else (result,), entered.pop()
            if not place:
                place.append(nearest(outs, before))
            watcher.decide(outs[place[0]] - before)
            return result

        wrap(blocks[0], first)
        wrap(blocks[-1], last)


@INDICATORS.add
@dataclass(frozen=True)
class Modulated(Indicator):
    """What the first attention of a transformer's first block attends to: its tokens, normed and modulated by time.

    The block is run up to there to see them, and then once more as the gate decides.
    """

    name = "modulated"

    def check(self, network: nn.Module) -> None:
        blocks_of(network)

    def attach(self, network: nn.Module, watcher: Watcher) -> None:
        block = blocks_of(network)[0]
        attention = next(part for part in block.modules() if is_attention(part))
        tokens = _stream(attention)
        looking: list[bool] = []

        def stop(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if looking:
                raise _Seen(tokens(args, kwargs))
            return inner(*args, **kwargs)

        def look(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            looking.append(True)
            try:
                type(block).forward(block, *args, **kwargs)  # not `inner`, which asks for the split
            except _Seen as seen:
                watcher.decide(seen.tensor)
            finally:
                looking.clear()
            return inner(*args, **kwargs)

        wrap(attention, stop)
        wrap(block, look)


class _Seen(Exception):
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _stream(module: nn.Module) -> Callable[[tuple[Any, ...], dict[str, Any]], Tensor]:
    """A function that finds the image tokens among a block's or attention's arguments."""
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    name = "hidden_states" if "hidden_states" in names else names[0]
    place = names.index(name)
    return lambda args, kwargs: kwargs[name] if name in kwargs else args[place]
