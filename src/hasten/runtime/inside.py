"""What a pipeline's own methods do while something is applied to it.

A pipeline and its views are given a subclass of their class for the time. It sends on what changes the pipeline to
the pipeline's own parts, and lets whatever reads or copies the pipeline see those parts alone:

- changes (`CHANGES`: adapters, dtype, device, processors, compilation, another scheduler or network) are made on the
  own parts; then the views are made anew, so that afterwards the pipeline is what the change alone would have made.
- readers (`READERS`: `save_pretrained`, `components`, pickling) see the pipeline as it would be without hasten.
- a deep copy of an accelerated pipeline is a copy of the plain one, accelerated in the same way for good.

While the pipeline is running, its methods are its own business, and nothing is sent on.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hasten.core.errors import HastenError
from hasten.runtime.anatomy import NETWORKS
from hasten.runtime.view import APPLIED, INSTEAD, SAID

CHANGES = re.compile(
    r"(load|unload|fuse|unfuse|enable|disable|delete|remove|set|add|reset|register|upcast|compile)(_\w+)?"
    r"|to|half|float|double|bfloat16|cuda|cpu|train|eval|requires_grad_"
)
"""The public methods of pipelines and networks that change them, by name."""

HARMLESS = re.compile(r"\w*(vae|progress_bar|timesteps|_hook|generator|submodule|state_dict_\w*hook)\w*")
"""Those of them that change nothing which a view has."""

READERS = re.compile(r"save_\w+|push_to_hub")
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
HELD = ("scheduler", *NETWORKS)  # what is put into a pipeline by name, and is replaced by stand-ins
HOST = "_hasten_host"  # on a pipeline, while something is applied to it; on the root of a view, a weak reference
_PLAIN = "_hasten_plain_class"  # on the class that a pipeline or a view has meanwhile: the class it had
_OWN = "_hasten_own"  # on the root of a view: what it is a view of


def standing(pipe: Any, host: Any) -> None:
    """Give a pipeline the class that it has while a host stands in for its parts; with None its own again."""
    kind = type(pipe)
    if host is None:
        vars(pipe).pop(HOST, None)
        if _PLAIN in vars(kind):
            object.__setattr__(pipe, "__class__", vars(kind)[_PLAIN])
        return
    vars(pipe)[HOST] = host
    if _PLAIN not in vars(kind):
        with contextlib.suppress(TypeError):  # a class of C code cannot be changed
            object.__setattr__(pipe, "__class__", _pipeline_class(kind))


def standing_network(network: nn.Module, original: nn.Module, host: Any) -> None:
    """Give a view the class whose methods go to the original, by way of a host."""
    network.__class__ = _network_class(type(network))
    network.__dict__[HOST], network.__dict__[_OWN] = weakref.ref(host), original


@functools.cache
def _pipeline_class(kind: Any) -> type:
    """A subclass of a pipeline's class that tells the host what is called."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        host = vars(self).get(HOST)
        if host is None:
            return kind.__call__(self, *args, **kwargs)
        with host.calling(self, named(kind, args, kwargs)[1]):
            return kind.__call__(self, *args, **kwargs)

    def __setattr__(self: Any, name: str, value: Any) -> None:
        host = vars(self).get(HOST)
        if host is None or name not in HELD or name not in vars(self):
            kind.__setattr__(self, name, value)
            return
        with host.changing():
            kind.__setattr__(self, name, value)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:  # later protocols insist on the class of what is pickled
        return plain(self).__reduce_ex__(1)

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> Any:
        host = vars(self).get(HOST)
        twin = copy.deepcopy(plain(self), memo)
        return host.again(twin) if host is not None and host.pipe is self else twin

    def prepare_latents(self: Any, *args: Any, **kwargs: Any) -> Any:
        latents = kind.prepare_latents(self, *args, **kwargs)
        host = vars(self).get(HOST)
        if host is not None:
            host.prepared(self, latents)
        return latents

    def components(self: Any) -> Any:
        with _own_parts(self):
            return kind.components.fget(self)

    body: dict[str, Any] = {"__setattr__": __setattr__, "__reduce_ex__": __reduce_ex__, "__deepcopy__": __deepcopy__}
    for name, method in (("__call__", __call__), ("prepare_latents", prepare_latents)):
        if hasattr(kind, name):
            body[name] = functools.wraps(getattr(kind, name))(method)
    if isinstance(inspect.getattr_static(kind, "components", None), property):
        body["components"] = property(components)
    return _subclass(kind, body | _sent_on(kind, lambda self: vars(self).get(HOST), lambda self: self))


@functools.cache
def _network_class(kind: Any) -> type:
    """A subclass of a network's class whose changes and readers go to what it is a view of."""

    def host(self: Any) -> Any:
        held = vars(self).get(HOST)
        return None if held is None else held()

    def dtype(self: Any) -> Any:
        return self.__dict__.get(SAID) or kind.dtype.__get__(self)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        return vars(self)[_OWN].__reduce_ex__(1)

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(vars(self)[_OWN], memo)

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        for instead in vars(self).get(INSTEAD, ()):
            answer = instead(args, kwargs)
            if answer is not None:
                return answer
        try:
            return kind.__call__(self, *args, **kwargs)
        except FAILURES as error:
            names = ", ".join(part.name for part in vars(self).get(APPLIED, ()))
            if not names or isinstance(error, HastenError | torch.OutOfMemoryError):
                raise
            raise HastenError(
                f"model: {type(vars(self)[_OWN]).__name__} failed while this was applied to it: {names}; if it does "
                f"not without, leave that out ({type(error).__name__}: {error})"
            ) from error

    @contextlib.contextmanager
    def cache_context(self: Any, name: str, **kwargs: Any) -> Any:
        holder = host(self)
        with (
            kind.cache_context(self, name, **kwargs),
            holder.context(self, name) if holder else contextlib.nullcontext(),
        ):
            yield

    body: dict[str, Any] = {"__call__": __call__, "__reduce_ex__": __reduce_ex__, "__deepcopy__": __deepcopy__}
    if isinstance(getattr(kind, "dtype", None), property):
        body["dtype"] = property(dtype)
    if hasattr(kind, "cache_context"):
        body["cache_context"] = cache_context
    return _subclass(kind, body | _sent_on(kind, host, lambda self: vars(self)[_OWN]))


def _sent_on(kind: Any, host: Callable[[Any], Any], own: Callable[[Any], Any]) -> dict[str, Any]:
    """Stand-ins for all methods of a class that change or read its instances.

    host: of an instance, or None. own: what an instance's method is called on in its stead.
    """

    def method(name: str, swap: str) -> Any:
        plain = getattr(kind, name)

        @functools.wraps(plain)
        def sent(self: Any, *args: Any, **kwargs: Any) -> Any:
            holder = host(self)
            if holder is None or holder.busy:
                return plain(self, *args, **kwargs)
            target = own(self)
            with getattr(holder, swap)():
                result = getattr(kind, name)(target, *args, **kwargs)
            return self if result is target else result

        return sent

    sent: dict[str, Any] = {}
    for name in dir(kind):
        static = inspect.getattr_static(kind, name, None)
        if name.startswith("_") or not inspect.isfunction(static) or HARMLESS.fullmatch(name):
            continue
        if CHANGES.fullmatch(name) or READERS.fullmatch(name):
            sent[name] = method(name, "changing" if CHANGES.fullmatch(name) else "own_parts")
    return sent


def _subclass(kind: Any, body: dict[str, Any]) -> type:
    named = {key: getattr(kind, key) for key in ("__module__", "__qualname__", "__doc__")}
    return type(kind)(kind.__name__, (kind,), body | named | {_PLAIN: kind})


def plain(pipe: Any) -> Any:
    """The pipeline as it is without what stands in for its parts: another object that holds the same things."""
    twin = object.__new__(vars(type(pipe)).get(_PLAIN, type(pipe)))
    with _own_parts(pipe):
        vars(twin).update({key: value for key, value in vars(pipe).items() if key != HOST})
    return twin


def _own_parts(pipe: Any) -> Any:
    host = vars(pipe).get(HOST)
    return contextlib.nullcontext() if host is None else host.own_parts()


def named(kind: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Sequence[Any], dict[str, Any]]:
    """The arguments of a pipeline call, as far as they have names, by name; the others as they are.

    kind: the class of the pipeline.
    args: by position.
    kwargs: by name.
    Raises HastenError for one that is given twice.
    """
    parameters = list(inspect.signature(kind.__call__).parameters.values())[1:]
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    for name in names[: len(args)]:
        if name in kwargs:
            raise HastenError(f"{name}: was given twice, by position and by name; give it once")
    return args[len(names) :], {**dict(zip(names, args)), **kwargs}
