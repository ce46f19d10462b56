"""A pipeline and the samples it is measured on: how runs of it are made, and what they cost."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hasten.bridge import generators
from hasten.core.errors import HastenError, positive_int
from hasten.evaluate.samples import Samples, zoo_name
from hasten.measure import count_calls, macs, peak_memory, weight_bytes
from hasten.recipe import Recipe, accelerate
from hasten.runtime.anatomy import network_of
from hasten.zoo import call_of

CALLBACKS = ("callback_on_step_end", "callback")  # the arguments by which pipelines report their steps

Ticks = Callable[[int], None]
"""Called with how many samples have just been drawn."""


class Way(Protocol):
    """A way to run a pipeline, as data: a `Recipe`, or what a kind of `Problem` can run besides."""

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        ...


@dataclass(frozen=True)
class Pictures:
    """What a run of some samples made, as float32 on the CPU.

    images: (N, C, H, W) in [0, 1].
    latents: the final ones, (N, ...).
    """

    images: Tensor
    latents: Tensor

    def __getitem__(self, rows: slice) -> Pictures:
        return Pictures(self.images[rows], self.latents[rows])

    def joined(self, more: Pictures) -> Pictures:
        """These, and then more of them."""
        return Pictures(torch.cat([self.images, more.images]), torch.cat([self.latents, more.latents]))


@dataclass(frozen=True)
class Cost:
    """What one image costs.

    calls: of the network.
    macs: multiply-adds.
    memory: bytes of the pipeline's weights and of the tensors at the worst moment.
    """

    calls: int
    macs: int
    memory: int = 0


class Runner:
    """A copy of the caller's pipeline that runs one way: by a recipe, or as shipped.

    pipe: the copy.
    call: what every call of it gets besides prompt, seeds and output.
    """

    def __init__(self, pipe: Any, call: Mapping[str, Any]) -> None:
        self.pipe, self.call = pipe, call

    @property
    def network(self) -> nn.Module:
        """The network as it runs here."""
        return network_of(self.pipe)

    def __call__(self, samples: Samples, steps: int | None = None, output: str = "pt") -> Pictures:
        """Draw all samples in one batch.

        samples: what to draw.
        steps: instead of the way's own number, at least 1.
        output: "pt", or "latent" where nobody looks at the images.
        """
        last: dict[str, Tensor] = {}
        chosen = {**self.call} if steps is None else {**self.call, "num_inference_steps": steps}
        made = self.pipe(
            prompt=list(samples.prompts), generator=generators(list(samples.seeds), len(samples)),
            output_type=output, **_reporting(self.pipe, last), **chosen,
        )  # fmt: skip
        return Pictures(made.images.float().cpu(), last["latents"].float().cpu())


class Problem:
    """A pipeline, its default settings, and samples. Runs are made on copies: the caller's pipeline is never changed.

    pipe: a diffusers text-to-image pipeline.
    samples: split ("search", "confirm") -> samples.
    batch: how many samples run at once, at least 1.
    call: what every call of the pipeline gets besides the prompt (height=..., negative_prompt=...); a
        num_inference_steps or guidance_scale in it makes another default.

    Raises HastenError for pipelines that cannot be called with a prompt, a number of steps and a callback.
    """

    def __init__(
        self, pipe: Any, samples: Mapping[str, Samples], *, batch: int = 8, call: Mapping[str, Any] | None = None
    ) -> None:
        self.pipe, self.samples = pipe, dict(samples)
        self.batch, self.call = positive_int("batch", batch), call_of(pipe) | dict(call or {})
        network_of(pipe)
        accepted = inspect.signature(type(pipe).__call__).parameters
        callback = next((name for name in CALLBACKS if name in accepted), CALLBACKS[0])
        for name in ("prompt", "num_inference_steps", "generator", "output_type", callback, *self.call):
            if name not in accepted:
                raise HastenError(f"model: {type(pipe).__name__} takes no {name}; give a text-to-image pipeline")
        defaults = {name: parameter.default for name, parameter in accepted.items()} | self.call
        self.steps: int = positive_int("num_inference_steps", defaults["num_inference_steps"])
        self.guidance: float | None = defaults.get("guidance_scale")

    @property
    def name(self) -> str:
        """What the pipeline was loaded from, else its class."""
        path = str(getattr(self.pipe, "name_or_path", None) or "").rstrip("/")
        return path.split("/")[-1] or type(self.pipe).__name__

    @property
    def source(self) -> str:
        """What `hasten.load` takes to load the pipeline again."""
        path = str(getattr(self.pipe, "name_or_path", None) or type(self.pipe).__name__)
        return zoo_name(self.pipe) or path

    @property
    def single(self) -> Samples:
        """The one sample that runs are timed on."""
        return next(iter(self.samples.values()))[:1]

    @cached_property
    def guided(self) -> bool:
        """Whether the default runs the network on a conditional and an unconditional branch in one batch."""
        with self.running(None) as run, count_calls(run.network) as seen:
            run(self.single, steps=1)
        return seen.rows == 2 * seen.calls

    @contextmanager
    def running(self, way: Way | None) -> Iterator[Any]:
        """A Runner of one way, set up once; None is the pipeline as shipped."""
        twin = copy.copy(self.pipe)
        twin.set_progress_bar_config(disable=True)
        twin.scheduler = copy.deepcopy(self.pipe.scheduler)  # runs leave traces in it
        if way is None:
            yield Runner(twin, self.call)
            return
        if not isinstance(way, Recipe):
            raise HastenError(f"recipe: {way!r} is not a Recipe")
        call = dict(self.call)
        for name, value in (("num_inference_steps", way.steps), ("guidance_scale", _scale(way))):
            if value is not None:
                call.pop(name, None)  # here the recipe wins over what makes the default
        with accelerate(twin, way) as fast:
            yield Runner(fast, call)

    def draw(self, way: Way | None, samples: Samples, ticks: Ticks = lambda count: None) -> Pictures:
        """Draw samples, `batch` at a time. A recipe that compiles draws them one at a time.

        Compiling takes long for each size of batch, and what is timed later is a single image.

        way: how; None is the default.
        samples: what.
        ticks: called after each batch.
        """
        parts: list[Pictures] = []
        with self.running(way) as run:
            alone = isinstance(way, Recipe) and way.compile is not None and way.compile.prepares
            for part in samples.batches(1 if alone else self.batch):
                parts.append(run(part))
                ticks(len(part))
        return functools.reduce(Pictures.joined, parts)

    def solve(self, recipe: Recipe, samples: Samples) -> None:
        """Run the samples by a recipe in one batch. Nothing is returned: its solver keeps what it saw of the run."""
        with self.running(recipe) as run:
            run(samples, output="latent")

    def cost(self, way: Way | None) -> Cost:
        """What one image costs, counted and not timed."""
        calls, total = self.work(way)
        return Cost(calls, total, self.memory(way))

    def work(self, way: Way | None) -> tuple[int, int]:
        """Network calls and multiply-adds of one image."""
        with self.running(way) as run, count_calls(run.network) as seen:
            total = macs(lambda: run(self.single))
        return seen.calls, total

    def memory(self, way: Way | None) -> int:
        """Bytes of the pipeline's weights and of the tensors that one image takes at its worst moment."""
        with self.running(way) as run:
            return weight_bytes(run.pipe) + peak_memory(lambda: run(self.single))


def _reporting(pipe: Any, last: dict[str, Tensor]) -> dict[str, Any]:
    """Call arguments that make a pipeline keep `last["latents"]` up to date, by its new callback or its old one."""

    def now(_pipe: Any, _step: int, _time: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        last.update(tensors)
        return {}

    def before(_step: int, _time: Any, latents: Tensor) -> None:
        last["latents"] = latents

    own = getattr(pipe, "pipe", pipe)  # of an accelerated one
    if CALLBACKS[0] in inspect.signature(type(own).__call__).parameters:
        return {CALLBACKS[0]: now}
    return {CALLBACKS[1]: before, "callback_steps": 1}


def _scale(recipe: Recipe) -> float | None:
    return recipe.guidance.scale if recipe.guidance else None
