"""Views: a pipeline's network that may be changed at will, while the caller's own modules stay untouched.

A view holds the same parameter tensors in a copied tree of modules, so other pipelines that share the network see
nothing of what is done to it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from hasten.core.errors import UnsupportedModel

APPLIED = "_hasten_applied"  # on the root of a view: what has been applied to it, outermost first
SAID = "_hasten_dtype"  # on the root of a view: the dtype that it says it has, None while it runs
INSTEAD = "_hasten_instead"  # on the root of a view: what may answer a call before the network does
_LAYERS = "_hasten_layers"  # on a module of a view: the wrappers of its forward, outermost first
_PLAIN = "_hasten_plain"  # on a module of a view: what runs innermost, where that is not the forward of its class
_COMPILED = "_hasten_compiled"  # on a module of a view: what the caller has compiled of the original
FOLLOWED = ("LayerwiseCastingHook", "PeftInputAutocastDisableHook")
"""The hooks of diffusers that a view follows: they say in which dtype weights are kept, and remember nothing."""


def view(module: nn.Module) -> nn.Module:
    """A copy of a tree of modules that shares every parameter and buffer with the original.

    Hooks that move or cast weights (offloading, layerwise casting) are followed.

    module: the tree.
    Raises UnsupportedModel if a part has its forward replaced in any other way, which a copy could not follow.
    """
    seen: dict[int, nn.Module] = {}

    def copied(part: nn.Module) -> nn.Module:
        if id(part) in seen:
            return seen[id(part)]
        twin = seen[id(part)] = object.__new__(type(part))
        twin.__dict__.update(_attributes(part))
        twin.__dict__[_COMPILED], twin.__dict__["_compiled_call_impl"] = part._compiled_call_impl, None
        twin._modules.update({key: None if child is None else copied(child) for key, child in part._modules.items()})
        if "forward" in part.__dict__:
            _follow(part, twin)
        return twin

    network = copied(module)
    seen.clear()  # the function above refers to itself, and would keep it
    network.__dict__[APPLIED] = ()
    return network


_CYCLES = ("forward", "_hf_hook", "_old_forward", INSTEAD, _LAYERS, _PLAIN, _COMPILED)


def forget(network: nn.Module) -> None:
    """Undo the reference cycles of a view that nobody needs any more, so that memory is free at once."""
    for module in network.modules():
        for key in _CYCLES:
            module.__dict__.pop(key, None)
        registry = module.__dict__.pop("_diffusers_hook", None)
        if registry is not None and vars(registry).get("_module_ref") is module:  # not that of the original
            for hook in registry.hooks.values():
                vars(hook).clear()
            vars(registry).clear()
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()


@contextmanager
def unchanged(network: nn.Module) -> Iterator[None]:
    """All modules of a view are as before on exit."""
    before = [(module, type(module), _attributes(module)) for module in network.modules()]
    try:
        yield
    finally:
        for module, kind, attributes in before:
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(attributes)


def is_view(network: nn.Module) -> bool:
    """Whether a network is a view, which may be changed."""
    return APPLIED in network.__dict__


def keeper_of(network: nn.Module) -> str | None:
    """The hook of another tool that decides where the weights of a network are kept and in which dtype, if any."""
    for module in network.modules():
        registry, moving = module.__dict__.get("_diffusers_hook"), module.__dict__.get("_hf_hook")
        held = [*(registry.hooks.values() if registry is not None else ()), *([] if moving is None else [moving])]
        for hook in held:
            if moving is hook or type(hook).__name__ in FOLLOWED:
                return type(hook).__name__
    return None


def says_dtype(network: nn.Module, dtype: torch.dtype) -> None:
    """Let the view of a pipeline's network say that it computes in `dtype`; its own forward sees what it has.

    Pipelines ask their network for the dtype of states, prompts and pictures, which stay what they were.
    """
    network.__dict__[SAID] = dtype

    def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        network.__dict__[SAID] = None
        try:
            return inner(*args, **kwargs)
        finally:
            network.__dict__[SAID] = dtype

    wrap(network, forward)


def answer_instead(network: nn.Module, answer: Callable[[tuple[Any, ...], Mapping[str, Any]], Any]) -> None:
    """Let `answer(args, kwargs)` answer calls of a pipeline's view; where it gives None the network is called.

    Unlike what is wrapped around the forward it stands before the hooks of the network, which then do not fire.
    """
    network.__dict__[INSTEAD] = (*network.__dict__.get(INSTEAD, ()), answer)


def wrap(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Run `forward(inner, *args, **kwargs)` in place of a view's forward, which is handed in as `inner`.

    Of several wrappers the first stays outermost, as with nested contexts.
    """
    layers = module.__dict__[_LAYERS] = (*module.__dict__.get(_LAYERS, ()), forward)
    plain = module.__dict__.get(_PLAIN) or type(module).forward.__get__(module)
    chain = functools.reduce(lambda inner, layer: functools.partial(layer, inner), reversed(layers), plain)
    module.__dict__["forward"] = functools.update_wrapper(chain, plain)


def keep_compiled(network: nn.Module, original: nn.Module) -> list[str]:
    """Let a view run what the caller has compiled of the original, in all parts that nothing has changed the inside of.

    network: a view, once everything has been attached to it.
    original: what it is a view of.
    Returns the names of the compiled parts that cannot be used.
    """
    lost = []
    own = dict(original.named_modules())
    for name, module in network.named_modules():
        compiled = module.__dict__.get(_COMPILED)
        if compiled is None or name not in own:
            continue
        if not _same_inside(module, own[name]):
            lost.append(name or type(module).__name__)
        elif _LAYERS in module.__dict__:
            layers = module.__dict__.pop(_LAYERS)
            module.__dict__[_PLAIN] = compiled
            for layer in layers:
                wrap(module, layer)
        else:
            module.__dict__["_compiled_call_impl"] = compiled
    return lost


def _same_inside(module: nn.Module, original: nn.Module) -> bool:
    """Whether a module of a view would run just what the original runs, but for what is wrapped around it."""
    for part, own in zip(module.modules(), original.modules(), strict=True):
        if part is not module and (_LAYERS in part.__dict__ or len(part._forward_hooks) != len(own._forward_hooks)):
            return False
        mine = (*part._parameters.values(), *part._buffers.values())
        if any(a is not b for a, b in zip(mine, (*own._parameters.values(), *own._buffers.values()), strict=True)):
            return False
    return True


def _follow(part: nn.Module, twin: nn.Module) -> None:
    """Replace the forward of the twin as another tool has replaced that of the part, if it is known how."""
    registry, moving = part.__dict__.get("_diffusers_hook"), part.__dict__.get("_hf_hook")
    for key in ("_diffusers_hook", "_hf_hook", "_old_forward", "forward"):
        twin.__dict__.pop(key, None)
    if moving is not None:  # of accelerate: moves weights to where they are needed
        from accelerate.hooks import ModelHook, add_hook_to_module

        add_hook_to_module(twin, ModelHook())
        twin.__dict__["_hf_hook"] = moving
    elif registry is not None and all(type(hook).__name__ in FOLLOWED for hook in registry.hooks.values()):
        from diffusers.hooks import HookRegistry

        mirrored = HookRegistry.check_if_exists_or_initialize(twin)
        for name, hook in registry.hooks.items():
            mirrored.register_hook(copy.copy(hook), name)
    else:
        raise UnsupportedModel(
            f"model: the forward of {type(part).__name__} is replaced by another tool (a cache hook, "
            "torch.compile, a patch); undo that first, or let the recipe do what it does"
        )
    twin.__dict__[_PLAIN] = twin.__dict__["forward"]


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module holds, with its registers (parameters, children, hooks) as copies of their own."""
    return {k: copy.copy(v) if k.startswith("_") and isinstance(v, dict) else v for k, v in module.__dict__.items()}
