"""Forwards that other libraries replace, on a view of ours: in the order of a recipe, and fresh each generation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from hasten.acceleration import Run, batch_of, wrap


def adopt(network: nn.Module, apply: Callable[[nn.Module], Any]) -> Any:
    """Let `apply(network)` replace forwards of the view, and make every replacement a layer, as `wrap` does.

    What was wrapped before stays around it, and what is wrapped later is what it calls its original. Hook
    registries that the view took over from the caller's modules are left behind. Returns what `apply` does.
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
            wrap(module, _Hooked(forward, floors[module]))
    return result


class _Floor:
    """What a replaced forward takes for the original: whatever is inside of it at the moment."""

    def __init__(self, module: nn.Module) -> None:
        functools.update_wrapper(self, type(module).forward.__get__(module))
        self.inner: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


class _Hooked:
    """A layer that runs a forward which somebody else has built on a `_Floor`."""

    def __init__(self, forward: Callable[..., Any], floor: _Floor) -> None:
        self.forward, self.floor = forward, floor

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.floor.inner = inner
        return self.forward(*args, **kwargs)


@dataclass(frozen=True)
class Call:
    """One call of the network. x: its batch, (rows, ...). first: whether its course has just begun."""

    x: Tensor
    first: bool
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Store(Protocol):
    """What remembers, and can do so for one course at a time."""

    def opened(self) -> str | None:
        """What the pipeline calls the call that comes, if it has told."""
        ...

    def inside(self, course: str) -> AbstractContextManager[None]:
        """Remember for this course; one that was never named before starts empty."""
        ...

    def forget(self) -> None:
        """Drop what was remembered for all of them."""
        ...


class Courses:
    """Tells for each call of a network whose it is, so that a cache remembers nothing of anybody else.

    A course is one generation, one call of its queries (guidance in two calls makes two), one batch size,
    shape, dtype and device: when any of these changes, another course begins. Outside of a generation every
    call is a course of its own.
    """

    def __init__(self, run: Run, store: Store) -> None:
        self.run, self.store = run, store
        self._number: int | None = None
        self._courses: dict[Any, tuple[Any, str]] = {}
        self._begun = 0

    def watch(self, network: nn.Module, prepare: Callable[[Call], None] = lambda call: None) -> None:
        """Do so on every call of the view `network`; `prepare` is called before it runs."""
        batch = batch_of(network)

        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            x = batch(args, kwargs)
            course, first = self._of(x)
            with self.store.inside(course):
                prepare(Call(x, first, args, kwargs))
                return inner(*args, **kwargs)

        wrap(network, forward)

    def _of(self, x: Tensor) -> tuple[str, bool]:
        run = self.run
        number = run.number if run.number and run.step < run.steps else None
        if number is None or number != self._number:
            self.store.forget()
            self._courses, self._number = {}, number
        key = self.store.opened() or run.call
        shape = (x.shape, x.dtype, x.device)
        first = self._courses.get(key, (None, ""))[0] != shape
        if first:
            self._begun += 1
            self._courses[key] = (shape, f"{key} {self._begun}")
        return self._courses[key][1], first


class Hooks(Store):
    """The stateful hooks of diffusers on a view. Those that know no cache contexts get a state for each course."""

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

    def named(self, name: str) -> list[Any]:
        """The hooks of a class, by its name."""
        return [hook for hook in self.all if type(hook).__name__ == name]

    def opened(self) -> str | None:
        return next((m._context.name for m in self._managers if m._context is not None), None)

    @contextmanager
    def inside(self, course: str) -> Iterator[None]:
        from diffusers.hooks.hooks import CacheContext

        told = [manager._context for manager in self._managers]
        for manager, context in zip(self._managers, told, strict=True):
            manager.set_context(dataclasses.replace(context, name=course) if context else CacheContext(course))
        if self._plain:
            states = self._states.setdefault(course, [type(hook.state)() for hook in self._plain])
            for hook, state in zip(self._plain, states, strict=True):
                hook.state = state
        try:
            yield
        finally:
            for manager, context in zip(self._managers, told, strict=True):
                manager.set_context(context)

    def forget(self) -> None:
        for manager in self._managers:
            context = manager._context
            manager.reset()
            manager.set_context(context)
        self._states = {}
