"""A pipeline that runs by a recipe."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from hasten.bridge import SolverScheduler
from hasten.bridge.seeds import seeded
from hasten.core.errors import HastenError, positive_int
from hasten.grids import Explicit
from hasten.recipe.recipe import Recipe
from hasten.runtime.acceleration import ordered
from hasten.runtime.host import host_of, hosted
from hasten.runtime.inside import FAILURES, named, plain


class Accelerated:
    """A pipeline that runs by a recipe until `restore`. Call it as the pipeline itself, plus `seed`.

    Also a context manager that restores on exit. Attributes are those of the pipeline.

    pipe: a diffusers pipeline.
    recipe: how it is to run.
    """

    def __init__(self, pipe: Any, recipe: Recipe) -> None:
        vars(self).update(pipe=pipe, recipe=recipe)
        takes = inspect.signature(type(pipe).__call__).parameters
        if recipe.guidance is not None and recipe.guidance.scale is not None:
            _needs("guidance", "guidance_scale", takes, pipe)
        if recipe.steps is not None:
            _needs("steps", "num_inference_steps", takes, pipe)
        schedule = None if recipe.solver is None else self._scheduler
        accelerations = ordered(recipe.accelerations)
        with ExitStack() as stack:
            host = stack.enter_context(hosted(pipe, schedule))
            for acceleration in accelerations:
                stack.enter_context(host.holding(acceleration))
            host.settle()
            vars(self)["_undo"] = stack.pop_all()

    def _scheduler(self, own: Any) -> SolverScheduler:
        """The scheduler that stands in for a pipeline's own."""
        return SolverScheduler.of(own, solver=self.recipe.solver, grid=self.recipe.grid, end=self.recipe.end)

    def __call__(self, *args: Any, seed: int | list[int] | None = None, **kwargs: Any) -> Any:
        """Run the pipeline. What is passed wins over the recipe.

        seed: of the noise; image j of every prompt uses seed + j, a list gives one seed an image. The same
            seed gives the same image in any batch.
        Raises HastenError for non-finite latents and clashing seeds.
        """
        recipe = self.recipe
        unnamed, kwargs = named(type(self.pipe), args, kwargs)
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
            kwargs |= seeded(self.pipe, seed, kwargs)
            host = host_of(self.pipe)
            for stage in host.stages if host is not None and len(kwargs["generator"]) > 1 else ():
                stage.check("seed")
        try:
            return self.pipe(*unnamed, **kwargs)
        except FAILURES as error:
            if seed is None or isinstance(error, HastenError | torch.OutOfMemoryError):
                raise
            kind, images = type(self.pipe).__name__, len(kwargs["generator"])
            raise HastenError(
                f"seed: {kind} failed, given a list of {images} generators for as many images: {error}"
            ) from error

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

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.pipe, name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Accelerated:
        if host_of(self.pipe) is None:
            raise HastenError("copy: this pipeline was restored; copy the pipeline itself and accelerate it")
        return Accelerated(copy.deepcopy(plain(self.pipe), memo), self.recipe)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise HastenError("pickle: an accelerated pipeline is not pickled; save the pipeline and its recipe (save)")


def accelerate(pipe: Any, recipe: Recipe | Mapping[str, Any] | str | Path) -> Accelerated:
    """Make a diffusers pipeline run by a recipe, until `restore`.

    pipe: a diffusers pipeline.
    recipe: a Recipe, mapping, path, or JSON text.
    Raises HastenError before anything is touched if the recipe is wrong or the model lacks what it needs.
    """
    return Accelerated(pipe, Recipe.of(recipe))


def _needs(part: str, argument: str, takes: Mapping[str, Any], pipe: Any) -> None:
    """Raise HastenError if a pipeline has no argument that a part of the recipe sets."""
    if argument not in takes and not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        raise HastenError(f"{part}: {type(pipe).__name__} takes no {argument}; leave it out")
