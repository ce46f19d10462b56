"""A pipeline that runs by a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from hasten.bridge import SolverScheduler, generators
from hasten.core.errors import HastenError, positive_int
from hasten.grids import Explicit
from hasten.recipe.recipe import Recipe
from hasten.runtime.acceleration import ordered
from hasten.runtime.anatomy import network_of
from hasten.runtime.tracking import scheduled


class Accelerated:
    """A pipeline that runs by a recipe until `restore`. Call it as the pipeline itself, plus `seed`.

    Also a context manager that restores on exit. Attributes are those of the pipeline.

    pipe: a diffusers pipeline.
    recipe: how it is to run.
    """

    def __init__(self, pipe: Any, recipe: Recipe) -> None:
        self.pipe, self.recipe = pipe, recipe
        accelerations = ordered(recipe.accelerations)
        network = network_of(pipe)
        for acceleration in accelerations:
            acceleration.check(network)
        scheduler = self._scheduler()
        with ExitStack() as stack:
            stack.enter_context(scheduled(pipe, scheduler))
            for acceleration in accelerations:
                stack.enter_context(acceleration.applied(pipe))
            self._undo = stack.pop_all()

    def _scheduler(self) -> Any:
        if self.recipe.solver is None:
            return self.pipe.scheduler
        return SolverScheduler.from_config(
            self.pipe.scheduler.config, solver=self.recipe.solver, grid=self.recipe.grid, end=self.recipe.end
        )

    def __call__(self, *args: Any, seed: int | list[int] | None = None, **kwargs: Any) -> Any:
        """Run the pipeline. What is passed wins over the recipe.

        seed: of the noise; image j of every prompt uses seed + j, a list gives one seed an image. The same
            seed gives the same image in any batch.
        Raises HastenError for non-finite latents and clashing seeds.
        """
        recipe = self.recipe
        if isinstance(recipe.grid, Explicit) and kwargs.get("num_inference_steps", recipe.steps) != recipe.steps:
            raise HastenError(
                f"num_inference_steps: the recipe's grid lists the times of its {recipe.steps} steps; leave it out"
            )
        if recipe.steps is not None:
            kwargs.setdefault("num_inference_steps", recipe.steps)
        positive_int("num_inference_steps", kwargs.get("num_inference_steps", 1))
        if recipe.guidance is not None and recipe.guidance.scale is not None:
            kwargs.setdefault("guidance_scale", recipe.guidance.scale)
        latents = kwargs.get("latents")
        if latents is not None and not torch.isfinite(latents).all():
            raise HastenError("latents: some values are not finite; give finite numbers")
        if seed is not None:
            if kwargs.get("generator") is not None:
                raise HastenError("seed: a generator was given as well; give one of the two")
            kwargs["generator"] = generators(seed, _prompts(args, kwargs), kwargs.get("num_images_per_prompt") or 1)
        if recipe.solver is not None:  # flow pipelines do not hand theirs on to the scheduler
            self.pipe.scheduler.generator = kwargs.get("generator")
        return self.pipe(*args, **kwargs)

    def restore(self) -> None:
        """Put the pipeline back, bit for bit, as it was. Calling it again does nothing."""
        self._undo.close()

    def __enter__(self) -> Accelerated:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()

    def __getattr__(self, name: str) -> Any:
        if name == "pipe":  # not made yet: copying or a failed start
            raise AttributeError(name)
        return getattr(self.pipe, name)


def accelerate(pipe: Any, recipe: Recipe | Mapping[str, Any] | str | Path) -> Accelerated:
    """Make a diffusers pipeline run by a recipe, until `restore`.

    pipe: a diffusers pipeline.
    recipe: a Recipe, mapping, path, or JSON text.
    Raises HastenError before anything is touched if the recipe is wrong or the model lacks what it needs.
    """
    return Accelerated(pipe, Recipe.of(recipe))


def _prompts(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """How many prompts a pipeline call has."""
    prompt = kwargs.get("prompt", args[0] if args else None)
    if prompt is None:
        prompt = kwargs.get("prompt_embeds")
    return 1 if prompt is None or isinstance(prompt, str) else len(prompt)
