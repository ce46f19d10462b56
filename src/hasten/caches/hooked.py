"""Forwards that other libraries replace, on a view of ours: in the order of a recipe, and fresh each generation."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary, finalize

from torch import Tensor, nn

from hasten.core.errors import HastenError, UnsupportedModel, raised_in
from hasten.guidance.branches import batched, replaced
from hasten.runtime.anatomy import batch_of
from hasten.runtime.rows import mapped, picked
from hasten.runtime.run import Run
from hasten.runtime.view import wrap


def adopt(network: nn.Module, apply: Callable[[nn.Module], Any], tell: Callable[[bool], None]) -> Any:
    """Let another library replace forwards of a view, and make every replacement a layer, as `wrap` does.

    What was wrapped before stays around it, and what is wrapped later is what it calls its original. Hook registries
    that the view took over from the caller's modules are left behind.

    network: the view.
    apply: called with it, replaces forwards.
    tell: called after every call of a replacement with whether it has returned something else than the original did.

    Returns what `apply` does.
    """
    before: dict[nn.Module, Any] = {}
    floors: dict[nn.Module, _Floor] = {}
    for module in network.modules():
        module.__dict__.pop("_diffusers_hook", None)
        before[module] = module.__dict__.get("forward")
        floors[module] = module.__dict__["forward"] = _Floor(module)
    result = None
    try:
        result = apply(network)
    finally:
        replaced = {module: module.__dict__.pop("forward") for module in floors}
        for module, forward in before.items():
            if forward is not None:
                module.__dict__["forward"] = forward
    for module, forward in replaced.items():
        if forward is not floors[module]:
            wrap(module, _Hooked(forward, floors[module], tell))
    return result


class _Floor:
    """What a replaced forward takes for the original: whatever is inside of it at the moment."""

    def __init__(self, module: nn.Module) -> None:
        plain = type(module).forward.__get__(module)
        functools.update_wrapper(self, plain)
        del self.__wrapped__  # type: ignore[attr-defined]  # it would keep the module
        self.__signature__ = inspect.signature(plain)
        self.inner: Callable[..., Any] | None = None
        self.answer: Any = None  # of the running call of the layer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        assert self.inner is not None, "called outside of the layer that stands on it"
        self.answer = self.inner(*args, **kwargs)
        return self.answer


class _Hooked:
    """A layer that runs a forward which somebody else has built on a `_Floor`."""

    def __init__(self, forward: Callable[..., Any], floor: _Floor, tell: Callable[[bool], None]) -> None:
        self.forward, self.floor, self.tell = forward, floor, tell

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.floor.inner = inner
        try:
            answer = self.forward(*args, **kwargs)
            self.tell(not _same(answer, self.floor.answer))
            return answer
        except (TypeError, LookupError, AttributeError, RuntimeError, ValueError, AssertionError) as error:
            if isinstance(error, HastenError) or not _is_theirs(error):
                raise
            raise UnsupportedModel(
                f"cache: the one of another library cannot run on this model ({error}); use one of hasten's own"
            ) from error
        finally:
            self.floor.inner = self.floor.answer = None


def _same(one: Any, other: Any) -> bool:
    """Whether two answers hold the very same tensors."""
    mine: list[Tensor] = []
    theirs: list[Tensor] = []
    mapped(one, mine.append)
    mapped(other, theirs.append)
    return len(mine) == len(theirs) and all(x is y for x, y in zip(mine, theirs))


def _is_theirs(error: BaseException) -> bool:
    """Whether an error came out of the code of another library's cache, not of the network."""
    parts = Path(raised_in(error)).parts
    return "cache_dit" in parts or ("diffusers", "hooks") in pairwise(parts)


@dataclass(frozen=True)
class Call:
    """One call of the network for one request.

    part: the request.
    x: its batch, (rows, ...).
    first: whether its generation has just begun.
    kwargs: named arguments of the call.
    """

    part: Run
    x: Tensor
    first: bool
    kwargs: Mapping[str, Any]


def needs_no_residuals(name: str, call: Call) -> None:
    """Raise UnsupportedModel if residuals of a ControlNet come with a call.

    The network adds them between its blocks also where a borrowed cache has skipped those, on top of what was
    remembered with them.

    name: of the cache.
    call: of the network.
    """
    for argument, value in call.kwargs.items():
        if "controlnet" in argument and isinstance(value, Tensor | list | tuple):
            raise UnsupportedModel(
                f"{name}: this cache adds residuals of a ControlNet ({argument}) twice; "
                'use one of hasten\'s own, such as "first-block"'
            )


class Store(Protocol):
    """What remembers, and can keep several generations apart."""

    def opened(self) -> str | None:
        """The pipeline's own name for the call that comes; None if it has none."""
        ...

    def inside(self, generation: str) -> AbstractContextManager[None]:
        """A context in which it remembers for the generation of this name; one never named before starts empty."""
        ...

    def keep(self, generations: Set[str]) -> None:
        """Drop what was remembered for other generations than those of these names."""
        ...


class Generations:
    """Tells a store, for each call of a network, which generation it belongs to, and keeps them apart.

    A generation here is one run of one request, in one call of its queries (guidance in two calls makes two), of one
    batch size, shape, dtype and device: when any of these changes, another begins, with a name of its own. Every call
    outside of a run is one by itself. Requests that share a call are asked one after the other.

    run: what the network is doing.
    store: what remembers.
    """

    def __init__(self, run: Run, store: Store) -> None:
        self.run, self.store = run, store
        self._generations: WeakKeyDictionary[Run, dict[Any, tuple[Any, str]]] = WeakKeyDictionary()
        self._numbers: WeakKeyDictionary[Run, int | None] = WeakKeyDictionary()
        self._begun = 0

    def watch(self, network: nn.Module, prepare: Callable[[Call], None] = lambda call: None) -> None:
        """Tell the store on every call of a network.

        network: a view, which is changed.
        prepare: called before the network runs.
        """
        batch = batch_of(network)

        def one(part: Run, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            x = batch(args, kwargs)
            generation, first = self._of(part, x)
            with self.store.inside(generation):
                prepare(Call(part, x, first, kwargs))
                return inner(*args, **kwargs)

        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if len(self.run.parts) == 1:
                return one(self.run.parts[0], inner, args, kwargs)
            count = len(batch(args, kwargs))
            rows = self.run.rows(count)
            if rows is None:
                return one(Run(self.run.process), inner, args, kwargs)
            answers = []
            for part in self.run.parts:
                which = [i for i, row in enumerate(rows) if row.part is part]
                with self.run.holding([part]), self.run.narrowed([rows[i] for i in which]):
                    alone = one(part, inner, picked(args, count, which), picked(kwargs, count, which))
                answers.append((which, alone))
            return _joined(answers, count)

        wrap(network, forward)

    def _of(self, part: Run, x: Tensor) -> tuple[str, bool]:
        number = part.number if part.number and part.step < part.steps else None
        if number is None or number != self._numbers.get(part):
            self._generations[part], self._numbers[part] = {}, number
            self.store.keep({name for generations in self._generations.values() for _, name in generations.values()})
        generations = self._generations[part]
        key = self.store.opened() or part.call
        shape = (x.shape, x.dtype, x.device)
        first = generations.get(key, (None, ""))[0] != shape
        if first:
            self._begun += 1
            generations[key] = (shape, f"{key} {self._begun}")
        return generations[key][1], first


def _joined(answers: Sequence[tuple[Sequence[int], Any]], count: int) -> Any:
    """One answer of `count` rows from answers for the rows at some positions each."""
    pieces = [batched(answer, len(which)) for which, answer in answers]
    whole = []
    for parts in zip(*pieces, strict=True):
        room = parts[0].new_empty(count, *parts[0].shape[1:])
        for (which, _), x in zip(answers, parts, strict=True):
            room[list(which)] = x
        whole.append(room)
    which, answer = answers[0]
    return replaced(answer, len(which), whole)


def _taken_apart(hooks: Sequence[Any]) -> None:
    for hook in hooks:
        vars(hook).clear()


class Hooks(Store):
    """The stateful hooks of diffusers on a view. Those without cache contexts get a state for each generation.

    all: the hooks.
    """

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._managers: list[Any] = []
        self._plain: list[Any] = []
        self._states: dict[str, list[Any]] = {}

    def find(self, network: nn.Module) -> None:
        """Look for the hooks on a view."""
        from diffusers.hooks.hooks import StateManager

        self.all = [
            hook
            for module in network.modules()
            if "_diffusers_hook" in module.__dict__
            for hook in module.__dict__["_diffusers_hook"].hooks.values()
        ]
        held = [value for hook in self.all for value in vars(hook).values() if isinstance(value, StateManager)]
        self._managers = list({id(manager): manager for manager in held}.values())
        self._plain = [hook for hook in self.all if hasattr(hook, "state")]
        finalize(self, _taken_apart, self.all)  # they hold themselves, and with that the view

    def named(self, name: str) -> list[Any]:
        """The hooks of a class, by its name."""
        return [hook for hook in self.all if type(hook).__name__ == name]

    def opened(self) -> str | None:
        return next((m._context.name for m in self._managers if m._context is not None), None)

    @contextmanager
    def inside(self, generation: str) -> Iterator[None]:
        from diffusers.hooks.hooks import CacheContext

        told = [manager._context for manager in self._managers]
        for manager, context in zip(self._managers, told, strict=True):
            manager.set_context(dataclasses.replace(context, name=generation) if context else CacheContext(generation))
        if self._plain:
            states = self._states.setdefault(generation, [type(hook.state)() for hook in self._plain])
            for hook, state in zip(self._plain, states, strict=True):
                hook.state = state
        try:
            yield
        finally:
            for manager, context in zip(self._managers, told, strict=True):
                manager.set_context(context)

    def keep(self, generations: Set[str]) -> None:
        for states in (self._states, *(manager._state_cache for manager in self._managers)):
            for name in set(states) - generations:
                del states[name]
