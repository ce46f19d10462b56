"""What an acceleration is: a context manager that changes a pipeline and leaves it, bit for bit, as it was.

Nothing is ever patched on the caller's own objects. While accelerated, the pipeline holds a *view* of its
network: the same parameter tensors in a copied tree of modules, so other pipelines that share the network
are untouched; and a scheduler that keeps a `Run`, the record of what the generation is doing right now.
"""

from __future__ import annotations

import copy
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn

from hasten.core.errors import HastenError, UnsupportedModel
from hasten.core.registry import Paper
from hasten.runtime.run import Run
from hasten.runtime.tracking import announced, clocked

NETWORKS = ("unet", "transformer")  # what pipelines call their denoising network


class Acceleration(ABC):
    """A change to how a pipeline runs. Subclasses are frozen dataclasses of settings.

    before: names of accelerations that must be applied earlier than this one if both are (outermost first).
    conflicts: names of those that cannot be in the same recipe. off: settings that change nothing at all.
    tried: what a search tries for each setting (a Span, a list, or a family of parts); None leaves the method alone.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]
    before: ClassVar[tuple[str, ...]] = ()
    conflicts: ClassVar[tuple[str, ...]] = ()
    off: ClassVar[Mapping[str, Any]] = {}
    search_space: ClassVar[Mapping[str, Any] | None] = None

    @abstractmethod
    def check(self, network: nn.Module) -> None:
        """Raise UnsupportedModel, saying what is missing, if this network cannot be accelerated so."""

    @abstractmethod
    def attach(self, network: nn.Module, run: Run) -> None:
        """Change `network`, a view nobody else holds, so that it is accelerated during `run`."""

    @contextmanager
    def applied(self, pipe: Any) -> Iterator[Any]:
        """The pipeline, accelerated; as it was on exit, also after an exception.

        Raises UnsupportedModel, or HastenError if it cannot join what is applied already, before anything
        is changed.
        """
        self._admit(network_of(pipe))
        with clocked(pipe) as run, announced(pipe, run), grafted(pipe, run) as network:
            self.join(network, run)
            yield pipe

    def join(self, network: nn.Module, run: Run) -> None:
        """Change a view of a network for good, inside of what has been applied to it.

        Raises UnsupportedModel, or HastenError if it cannot join that, before anything is changed.
        """
        self._admit(network)
        self.attach(network, run)
        network.__dict__[_APPLIED] = (*network.__dict__[_APPLIED], self)

    def _admit(self, network: nn.Module) -> None:
        self.check(network)
        for other in network.__dict__.get(_APPLIED, ()):
            self._agree(other)

    def _agree(self, other: Acceleration) -> None:
        """Raise HastenError if this cannot be applied inside `other`."""
        if other.name == self.name:
            raise HastenError(f"{self.name}: is applied to this pipeline already; leave that context first")
        if other.name in self.conflicts or self.name in other.conflicts:
            raise HastenError(f"{self.name}: cannot work together with {other.name!r}; keep one of them")
        if self.name in other.before:
            raise HastenError(f"{self.name}: must be applied before {other.name!r}; swap the two")


_APPLIED, _LAYERS = "_hasten_applied", "_hasten_layers"  # kept on views only


def network_name(pipe: Any) -> str:
    """The attribute under which a pipeline keeps its denoising network."""
    for name in NETWORKS:
        if isinstance(getattr(pipe, name, None), nn.Module):
            return name
    raise UnsupportedModel(
        f"model: {type(pipe).__name__} has no {' or '.join(NETWORKS)}; give a diffusers pipeline with one"
    )


def network_of(pipe: Any) -> nn.Module:
    """The denoising network of a pipeline."""
    return getattr(pipe, network_name(pipe))


@contextmanager
def grafted(pipe: Any, run: Run) -> Iterator[nn.Module]:
    """Give the pipeline a view of its network, which may be changed at will; all as before on exit.

    Nested use shares one view, and takes back its own changes on exit. The calls of the view are counted in
    `call` of the run's parts.
    """
    name = network_name(pipe)
    own = getattr(pipe, name)
    if _is_view(own):
        before = [(module, _attributes(module)) for module in own.modules()]
        try:
            yield own
        finally:
            for module, attributes in before:
                module.__dict__.clear()
                module.__dict__.update(attributes)
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
    network.__dict__[_APPLIED] = ()
    return network


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module holds, with its registers (parameters, children, hooks) as copies of their own."""
    return {k: copy.copy(v) if k.startswith("_") and isinstance(v, dict) else v for k, v in module.__dict__.items()}


def _is_view(network: nn.Module) -> bool:
    return _APPLIED in network.__dict__


def wrap(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Run `forward(inner, *args, **kwargs)` in place of a view's forward, which is handed in as `inner`.

    Of several wrappings the first stays outermost, as with nested contexts.
    """
    layers = module.__dict__[_LAYERS] = (*module.__dict__.get(_LAYERS, ()), forward)
    plain = type(module).forward.__get__(module)
    chain = functools.reduce(lambda inner, layer: functools.partial(layer, inner), reversed(layers), plain)
    module.__dict__["forward"] = functools.update_wrapper(chain, plain)


def batch_of(network: nn.Module) -> Callable[[tuple[Any, ...], Mapping[str, Any]], Tensor]:
    """A function that finds the batch of states among the arguments of a network call: its first argument."""
    name = list(inspect.signature(type(network).forward).parameters)[1]
    return lambda args, kwargs: args[0] if args else kwargs[name]


def mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """`value` with `change` applied to every tensor in it, however deep in tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):  # also the outputs of diffusers, which are made by keyword
        return type(value)(**{key: mapped(inside, change) for key, inside in value.items()})
    if isinstance(value, tuple | list):
        return type(value)(mapped(inside, change) for inside in value)
    return value


_SHARED = ("img_ids", "txt_ids", "image_rotary_emb")  # arguments of networks and blocks that have no rows


def picked(arguments: Any, rows: int, which: Sequence[int]) -> Any:
    """Arguments of a network or block with only the rows `which` of every tensor that has `rows` rows."""
    if isinstance(arguments, Mapping):
        return {k: v if k in _SHARED else mapped(v, lambda x: pick(x, rows, which)) for k, v in arguments.items()}
    return mapped(arguments, lambda x: pick(x, rows, which))


def pick(x: Tensor, rows: int, which: Sequence[int]) -> Tensor:
    """The rows `which` of x, in that order, if it has `rows` rows; a view where they follow one another."""
    if not x.ndim or len(x) != rows:
        return x
    first, count = which[0] if which else 0, len(which)
    if list(which) == list(range(first, first + count)):
        return x[first : first + count]
    return x[list(which)]
