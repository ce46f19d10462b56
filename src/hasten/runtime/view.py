"""Views: a pipeline's network that may be changed at will, while the caller's own modules stay untouched.

A view holds the same parameter tensors in a copied tree of modules, so other pipelines that share the network see
nothing of what is done to it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hasten.core.errors import UnsupportedModel
from hasten.runtime.anatomy import network_name
from hasten.runtime.run import Run

APPLIED = "_hasten_applied"  # on the root of a view: what has been applied to it, outermost first
_SAID = "_hasten_dtype"  # on the root of a view: the dtype that it says it has, None while it runs
_LAYERS = "_hasten_layers"  # on a module of a view: the wrappers of its forward, outermost first


@contextmanager
def grafted(pipe: Any, run: Run) -> Iterator[nn.Module]:
    """Give the pipeline a view of its network; all as before on exit.

    Nested use shares one view, and takes back its own changes on exit. The calls of the view are counted in
    `call` of the run's parts.
    """
    name = network_name(pipe)
    own = getattr(pipe, name)
    if is_view(own):
        with _unchanged(own):
            yield own
        return

    def count(*_: Any) -> None:
        run.called()

    graft = view(own)
    graft.register_forward_hook(count)
    object.__setattr__(pipe, name, graft)  # a pipeline's own __setattr__ would rewrite its config
    try:
        yield graft
    finally:
        object.__setattr__(pipe, name, own)
        for module in graft.modules():  # undoes the reference cycles, so that memory is free at once
            module.__dict__.pop("forward", None)
            module.__dict__.pop(_LAYERS, None)


@contextmanager
def _unchanged(network: nn.Module) -> Iterator[None]:
    """All modules of a view are as before on exit."""
    before = [(module, type(module), _attributes(module)) for module in network.modules()]
    try:
        yield
    finally:
        for module, kind, attributes in before:
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(attributes)


def view(module: nn.Module) -> nn.Module:
    """A copy of a tree of modules that shares every parameter and buffer with the original.

    Raises UnsupportedModel if a part has its forward replaced (offload or cache hooks, torch.compile), which
    a copy could not follow.
    """
    seen: dict[int, nn.Module] = {}

    def copied(part: nn.Module) -> nn.Module:
        if id(part) in seen:
            return seen[id(part)]
        if "forward" in part.__dict__:
            raise UnsupportedModel(
                f"model: the forward of {type(part).__name__} is replaced by another tool (an offload or cache "
                "hook, torch.compile); undo that first, accelerate, then apply it again"
            )
        twin = seen[id(part)] = object.__new__(type(part))
        twin.__dict__.update(_attributes(part))
        twin.__dict__["_compiled_call_impl"] = None  # compiled for the original
        twin._modules.update({key: None if child is None else copied(child) for key, child in part._modules.items()})
        return twin

    network = copied(module)
    network.__dict__[APPLIED] = ()
    return network


def says_dtype(network: nn.Module, dtype: torch.dtype) -> None:
    """Let a view tell pipelines that it computes in `dtype`; its own forward goes on to see what it has.

    Pipelines ask their network for the dtype of states, prompts and pictures, which stay what they were.
    """
    kind = type(network)
    own = getattr(kind, "dtype", None)
    if not isinstance(own, property):  # no model of diffusers: nobody asks
        return
    network.__class__ = _saying(kind)
    network.__dict__[_SAID] = dtype

    def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        network.__dict__[_SAID] = None
        try:
            return inner(*args, **kwargs)
        finally:
            network.__dict__[_SAID] = dtype

    wrap(network, forward)


@functools.cache
def _saying(kind: type[nn.Module]) -> type[nn.Module]:
    """The same class, with a dtype that can be said."""

    def dtype(self: nn.Module) -> Any:
        return self.__dict__.get(_SAID) or kind.dtype.__get__(self)  # type: ignore[attr-defined]

    return type(kind.__name__, (kind,), {"dtype": property(dtype), "__module__": kind.__module__})


def is_view(network: nn.Module) -> bool:
    """Whether a network is a view, which may be changed."""
    return APPLIED in network.__dict__


def wrap(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Run `forward(inner, *args, **kwargs)` in place of a view's forward, which is handed in as `inner`.

    Of several wrappers the first stays outermost, as with nested contexts.
    """
    layers = module.__dict__[_LAYERS] = (*module.__dict__.get(_LAYERS, ()), forward)
    plain = type(module).forward.__get__(module)
    chain = functools.reduce(lambda inner, layer: functools.partial(layer, inner), reversed(layers), plain)
    module.__dict__["forward"] = functools.update_wrapper(chain, plain)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module holds, with its registers (parameters, children, hooks) as copies of their own."""
    return {k: copy.copy(v) if k.startswith("_") and isinstance(v, dict) else v for k, v in module.__dict__.items()}
