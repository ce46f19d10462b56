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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from hasten.catalog import Paper
from hasten.errors import HastenError, UnsupportedModel
from hasten.processes import Process, from_config
from hasten.solvers import Query

NETWORKS = ("unet", "transformer")  # what pipelines call their denoising network


@dataclass
class Run:
    """What a generation is doing right now. The scheduler writes it, accelerations read it.

    number: which generation this is; everything remembered from another number is stale. step, steps,
    stage, time: the query being answered, counted from the first executed step. call: how many times the
    network has been called for this query (guidance in two calls makes two). images: rows of the state,
    without the branches of guidance; None until known. expected: how many images a generation will have,
    where whoever starts it says so. process: of the scheduler.
    """

    process: Process
    number: int = 0
    step: int = 0
    steps: int = 0
    stage: int = 0
    time: float = 0.0
    call: int = 0
    images: int | None = None
    expected: int | None = None

    def begin(self, steps: int) -> None:
        """A new generation of `steps` steps starts."""
        self.number += 1
        self.steps, self.images, self.expected = steps, self.expected, None
        self.ask(0, self.process.t_max)

    def expect(self, images: int) -> None:
        """The generation that is about to begin, or has just begun, has this many images."""
        self.images = self.expected = images

    def ask(self, step: int, time: float, stage: int = 0) -> None:
        """The network is asked at `time` for `step`."""
        self.step, self.time, self.stage, self.call = step, float(time), stage, 0
        if step:
            self.expected = None  # what was said of this generation does not hold for the next

    def follow(self, query: Query) -> None:
        """The network is asked this query."""
        self.steps = query.steps
        self.ask(query.step, query.t, query.stage)

    def branches(self, rows: int) -> int:
        """How many branches of guidance a network batch of `rows` rows holds; 1 while that is unknown."""
        return rows // self.images if self.images and rows % self.images == 0 else 1


class Acceleration(ABC):
    """A change to how a pipeline runs. Subclasses are frozen dataclasses of settings.

    before: names of accelerations that must be applied earlier than this one if both are (outermost first).
    conflicts: names of those that cannot be in the same recipe. off: settings that change nothing at all.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]
    before: ClassVar[tuple[str, ...]] = ()
    conflicts: ClassVar[tuple[str, ...]] = ()
    off: ClassVar[Mapping[str, Any]] = {}

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
        network = network_of(pipe)
        self.check(network)
        inside = network.__dict__.get(_APPLIED, ())
        for other in inside:
            self._join(other)
        with clocked(pipe) as run, announced(pipe, run), grafted(pipe, run) as network:
            network.__dict__[_APPLIED] = (*inside, self)
            self.attach(network, run)
            yield pipe

    def _join(self, other: Acceleration) -> None:
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
    `run.call`.
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
        run.call += 1

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


@contextmanager
def announced(pipe: Any, run: Run) -> Iterator[None]:
    """Tell the run how many images a generation has as soon as the pipeline prepares their latents."""
    inner = getattr(pipe, "prepare_latents", None)
    if inner is None or getattr(inner, "_hasten_announces", False):
        yield
        return
    own = pipe.__dict__.get("prepare_latents")

    @functools.wraps(inner)
    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        prepared = inner(*args, **kwargs)
        latents = prepared[0] if isinstance(prepared, tuple) else prepared
        if isinstance(latents, Tensor):
            run.expect(len(latents))
        return prepared

    prepare_latents._hasten_announces = True  # type: ignore[attr-defined]
    pipe.__dict__["prepare_latents"] = prepare_latents
    try:
        yield
    finally:
        del pipe.__dict__["prepare_latents"]
        if own is not None:
            pipe.__dict__["prepare_latents"] = own


@contextmanager
def clocked(pipe: Any) -> Iterator[Run]:
    """The Run of the pipeline's scheduler; one that keeps none is replaced for the time by a copy that does."""
    own = pipe.scheduler
    with scheduled(pipe, own if isinstance(getattr(own, "run", None), Run) else clocked_copy(own)):
        yield pipe.scheduler.run


@contextmanager
def scheduled(pipe: Any, scheduler: Any) -> Iterator[None]:
    """Give the pipeline another scheduler; its own is put back on exit."""
    own = pipe.scheduler
    object.__setattr__(pipe, "scheduler", scheduler)
    try:
        yield
    finally:
        object.__setattr__(pipe, "scheduler", own)


def clocked_copy(scheduler: Any) -> Any:
    """A copy of a diffusers scheduler that keeps a Run in `.run`: a query is over when `step` is called.

    A scheduler of order 2 (Heun and its like) answers two queries a step.
    """
    clock = copy.deepcopy(scheduler)
    clock.run = run = Run(from_config(scheduler.config))
    stages = getattr(scheduler, "order", 1)
    numbers: list[float] = []  # the network times of every query of the full schedule
    first = query = 0  # where in them this generation starts (image-to-image starts midway), and how far it is

    def begin_at(index: int) -> None:
        nonlocal first
        first = index
        run.steps = -(-(len(numbers) - first) // stages)
        ask(0)

    def ask(index: int) -> None:
        nonlocal query
        query = index
        number = numbers[min(first + query, len(numbers) - 1)] if numbers else 0.0
        run.ask(query // stages, float(run.process.from_network_time(number)), query % stages)

    def look(timestep: Any) -> None:
        """See from the first timestep that a generation starts midway, if nobody said so."""
        if query or timestep is None or not numbers or float(timestep) == numbers[first]:
            return
        if float(timestep) in numbers:
            begin_at(numbers.index(float(timestep)))

    def set_timesteps(inner: Any, *args: Any, **kwargs: Any) -> None:
        inner(*args, **kwargs)
        numbers[:] = clock.timesteps.tolist()
        run.begin(len(numbers))
        begin_at(0)

    def set_begin_index(inner: Any, begin_index: int = 0) -> None:
        inner(begin_index)
        begin_at(begin_index)

    def scale_model_input(inner: Any, sample: Any, timestep: Any = None, *args: Any, **kwargs: Any) -> Any:
        look(timestep)
        return inner(sample, timestep, *args, **kwargs)

    def step(inner: Any, model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        look(timestep)
        run.images = len(sample)
        result = inner(model_output, timestep, sample, *args, **kwargs)
        ask(query + 1)
        return result

    for replacement in (set_timesteps, set_begin_index, scale_model_input, step):
        inner = getattr(clock, replacement.__name__, None)
        if inner is not None:
            # keeps the signature, which pipelines look into
            setattr(clock, replacement.__name__, functools.wraps(inner)(functools.partial(replacement, inner)))
    return clock
