"""What an acceleration is: a context manager that changes a pipeline and leaves it, bit for bit, as it was.

Nothing is ever patched on the caller's own objects. While accelerated, the pipeline holds a *view* of its
network: the same parameter tensors in a copied tree of modules, so other pipelines that share the network
are untouched; and a scheduler that keeps a `Run`, the record of what the generation is doing right now.
"""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from hasten.catalog import Paper
from hasten.errors import UnsupportedModel
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
        self.steps, self.images = steps, self.expected
        self.ask(0, self.process.t_max)

    def ask(self, step: int, time: float, stage: int = 0) -> None:
        """The network is asked at `time` for `step`."""
        self.step, self.time, self.stage, self.call = step, float(time), stage, 0

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
    conflicts: names of those that cannot be in the same recipe.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]
    before: ClassVar[tuple[str, ...]] = ()
    conflicts: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def check(self, network: nn.Module) -> None:
        """Raise UnsupportedModel, saying what is missing, if this network cannot be accelerated so."""

    @abstractmethod
    def attach(self, network: nn.Module, run: Run) -> None:
        """Change `network`, a view nobody else holds, so that it is accelerated during `run`."""

    @contextmanager
    def applied(self, pipe: Any) -> Iterator[Any]:
        """The pipeline, accelerated; as it was on exit, also after an exception.

        Raises UnsupportedModel before anything is changed.
        """
        self.check(network_of(pipe))
        with clocked(pipe) as run, grafted(pipe) as network:
            self.attach(network, run)
            yield pipe


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
def grafted(pipe: Any) -> Iterator[nn.Module]:
    """Give the pipeline a view of its network whose forwards may be wrapped; all as before on exit.

    Nested use shares one view, and takes back its own wrappings on exit.
    """
    name = network_name(pipe)
    own = getattr(pipe, name)
    if _is_view(own):
        before = {module: module.__dict__.get("forward") for module in own.modules()}
        try:
            yield own
        finally:
            for module, forward in before.items():
                module.__dict__.pop("forward", None)
                if forward is not None:
                    module.forward = forward
        return
    setattr(pipe, name, view(own))
    try:
        yield getattr(pipe, name)
    finally:
        setattr(pipe, name, own)


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
        twin.__dict__.update(
            {k: copy.copy(v) if k.startswith("_") and isinstance(v, dict) else v for k, v in part.__dict__.items()}
        )
        twin.__dict__["_compiled_call_impl"] = None  # compiled for the original
        twin._modules.update({key: None if child is None else copied(child) for key, child in part._modules.items()})
        return twin

    network = copied(module)
    network.__dict__["_hasten_view"] = True
    return network


def _is_view(network: nn.Module) -> bool:
    return "_hasten_view" in network.__dict__


def wrap(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Run `forward(inner, *args, **kwargs)` in place of the module's forward, which is handed in as `inner`."""
    module.forward = functools.partial(forward, module.forward)


@contextmanager
def clocked(pipe: Any) -> Iterator[Run]:
    """The Run of the pipeline's scheduler; one that keeps none is replaced for the time by a copy that does."""
    own = pipe.scheduler
    if isinstance(getattr(own, "run", None), Run):
        yield own.run
        return
    pipe.scheduler = scheduler = clocked_copy(own)
    try:
        yield scheduler.run
    finally:
        pipe.scheduler = own


def clocked_copy(scheduler: Any) -> Any:
    """A copy of a diffusers scheduler that keeps a Run in `.run`: a query is over when `step` is called."""
    clock = copy.deepcopy(scheduler)
    clock.run = run = Run(from_config(scheduler.config))
    first = 0  # where in the timesteps this generation starts (image-to-image starts midway)

    def begin_at(index: int) -> None:
        nonlocal first
        first = index
        run.steps = len(clock.timesteps) - first
        run.ask(0, time(clock.timesteps[first]))

    def time(timestep: Any) -> float:
        return float(run.process.from_network_time(float(timestep)))

    def set_timesteps(inner: Any, *args: Any, **kwargs: Any) -> None:
        inner(*args, **kwargs)
        run.begin(len(clock.timesteps))
        begin_at(0)

    def set_begin_index(inner: Any, begin_index: int = 0) -> None:
        inner(begin_index)
        begin_at(begin_index)

    def scale_model_input(inner: Any, sample: Any, timestep: Any = None, *args: Any, **kwargs: Any) -> Any:
        if run.step == 0 and timestep is not None and not torch.any(clock.timesteps[first] == timestep):
            begin_at(int((clock.timesteps == timestep).nonzero()[0]))
        return inner(sample, timestep, *args, **kwargs)

    def step(inner: Any, model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        run.images = len(sample)
        result = inner(model_output, timestep, sample, *args, **kwargs)
        following = min(first + run.step + 1, len(clock.timesteps) - 1)
        run.ask(run.step + 1, time(clock.timesteps[following]))
        return result

    for replacement in (set_timesteps, set_begin_index, scale_model_input, step):
        inner = getattr(clock, replacement.__name__, None)
        if inner is not None:
            # keeps the signature, which pipelines look into
            setattr(clock, replacement.__name__, functools.wraps(inner)(functools.partial(replacement, inner)))
    return clock
