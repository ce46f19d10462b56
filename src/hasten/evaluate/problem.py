"""What is to be tuned: a pipeline and the samples it is judged on; how runs of it are made and priced."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from hasten.core.errors import HastenError, positive_int
from hasten.evaluate.samples import Samples, zoo_name
from hasten.recipe import Recipe, accelerate
from hasten.runtime.anatomy import network_of

CALLBACKS = ("callback_on_step_end", "callback")  # how pipelines tell of their steps

Ticks = Callable[[int], None]
"""Told how many samples have just been drawn."""


@dataclass(frozen=True)
class Pictures:
    """What a run of some samples made: images (N, C, H, W) in [0, 1] and final latents (N, ...), float32, CPU."""

    images: Tensor
    latents: Tensor

    def __getitem__(self, rows: slice) -> Pictures:
        return Pictures(self.images[rows], self.latents[rows])

    def joined(self, more: Pictures) -> Pictures:
        """These, and then more of them."""
        return Pictures(torch.cat([self.images, more.images]), torch.cat([self.latents, more.latents]))


@dataclass(frozen=True)
class Cost:
    """Of one image: network calls, multiply-adds, and the bytes of weights and of tensors at the worst moment."""

    calls: int
    macs: int
    memory: int = 0


class Runner:
    """A twin of the caller's pipeline that runs one way: by a recipe, or as shipped."""

    def __init__(self, pipe: Any, call: Mapping[str, Any]) -> None:
        self.pipe, self.call = pipe, call

    @property
    def network(self) -> nn.Module:
        """The network as it runs here."""
        return network_of(self.pipe)

    def __call__(self, samples: Samples, steps: int | None = None, output: str = "pt") -> Pictures:
        """Draw all samples in one batch. output: "pt", or "latent" where nobody looks at the images."""
        from hasten.bridge import generators

        last: dict[str, Tensor] = {}
        chosen = {**self.call} if steps is None else {**self.call, "num_inference_steps": steps}
        made = self.pipe(
            prompt=list(samples.prompts), generator=generators(list(samples.seeds), len(samples)),
            output_type=output, **_telling(self.pipe, last), **chosen,
        )  # fmt: skip
        return Pictures(made.images.float().cpu(), last["latents"].float().cpu())


class Problem:
    """A pipeline, its default settings, and samples by split ("search", "confirm").

    Every run is made on a twin: the caller's pipeline object is never changed. batch: how many samples run at
    once. call: what every call of the pipeline gets besides the prompt (height=..., negative_prompt=...); a
    num_inference_steps or guidance_scale in it makes another default.
    Raises HastenError for pipelines that cannot be called with a prompt, a number of steps and a callback.
    """

    def __init__(
        self, pipe: Any, samples: Mapping[str, Samples], *, batch: int = 8, call: Mapping[str, Any] | None = None
    ) -> None:
        from hasten.zoo import call_of

        self.pipe, self.samples = pipe, dict(samples)
        self.batch, self.call = positive_int("batch", batch), call_of(pipe) | dict(call or {})
        network_of(pipe)
        accepted = inspect.signature(type(pipe).__call__).parameters
        told = next((name for name in CALLBACKS if name in accepted), CALLBACKS[0])
        for name in ("prompt", "num_inference_steps", "generator", "output_type", told, *self.call):
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
        """One sample: what runs are timed on."""
        return next(iter(self.samples.values()))[:1]

    @cached_property
    def guided(self) -> bool:
        """Whether the default runs the network on a conditional and an unconditional branch in one batch."""
        from hasten.measure import count_calls

        with self.running(None) as run, count_calls(run.network) as seen:
            run(self.single, steps=1)
        return seen.rows == 2 * seen.calls

    @contextmanager
    def running(self, recipe: Recipe | None) -> Iterator[Runner]:
        """A Runner by the recipe, applied once; None is the pipeline as shipped."""
        twin = copy.copy(self.pipe)
        twin.set_progress_bar_config(disable=True)
        twin.scheduler = copy.deepcopy(self.pipe.scheduler)  # what runs by it leaves traces in it
        if recipe is None:
            yield Runner(twin, self.call)
            return
        call = dict(self.call)
        for name, value in (("num_inference_steps", recipe.steps), ("guidance_scale", _scale(recipe))):
            if value is not None:
                call.pop(name, None)  # here the recipe wins over what makes the default
        with accelerate(twin, recipe) as fast:
            yield Runner(fast, call)

    def draw(self, recipe: Recipe | None, samples: Samples, ticks: Ticks = lambda count: None) -> Pictures:
        """The samples by a recipe (None: by the default), `batch` at a time; one at a time where it prepares for that.

        Compiling takes long for each size of batch, and the one that is timed is one.
        """
        parts: list[Pictures] = []
        with self.running(recipe) as run:
            alone = isinstance(recipe, Recipe) and recipe.compile is not None and recipe.compile.prepares
            for part in samples.batches(1 if alone else self.batch):
                parts.append(run(part))
                ticks(len(part))
        return functools.reduce(Pictures.joined, parts)

    def solve(self, recipe: Recipe, samples: Samples) -> None:
        """Run the samples by a recipe in one batch, for what its solver keeps of the run."""
        with self.running(recipe) as run:
            run(samples, output="latent")

    def cost(self, recipe: Recipe | None) -> Cost:
        """What one image costs, without a clock."""
        calls, macs = self.work(recipe)
        return Cost(calls, macs, self.memory(recipe))

    def work(self, recipe: Recipe | None) -> tuple[int, int]:
        """Network calls and multiply-adds of one image."""
        from hasten.measure import count_calls, macs

        with self.running(recipe) as run, count_calls(run.network) as seen:
            total = macs(lambda: run(self.single))
        return seen.calls, total

    def memory(self, recipe: Recipe | None) -> int:
        """Bytes of the pipeline's weights and of the tensors that one image takes at its worst moment."""
        from hasten.measure import peak_memory, weight_bytes

        with self.running(recipe) as run:
            return weight_bytes(run.pipe) + peak_memory(lambda: run(self.single))


def _telling(pipe: Any, last: dict[str, Tensor]) -> dict[str, Any]:
    """Arguments with which a pipeline keeps `last["latents"]` up to date, in the way of now or of old."""

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
