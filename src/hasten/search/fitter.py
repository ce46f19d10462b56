"""Fitting what a recipe leaves to be fitted: inside the pipeline, on samples of their own."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from hasten.caches import CACHES, Cache
from hasten.evaluate.problem import Problem
from hasten.evaluate.references import reference_recipe
from hasten.fit import Trajectory, learning, learns
from hasten.fit.trajectory import Recording
from hasten.processes import from_config
from hasten.recipe import Recipe

TRAJECTORY = 96  # steps of the trajectory that is aimed at
FILE = "trajectory.safetensors"
SPLIT = "fit"
WATCHED = 4  # samples whose runs caches are fitted to


class Fitter:
    """Recipe -> the same with its caches and its solver fitted, where they can be and are not.

    The pipeline itself makes the runs, so a solver's fit sees guidance, caches and whatever else the recipe changes,
    and makes up for them: the trajectory it leads along is that of the pipeline as shipped.

    problem: that is tuned.
    folder: where the trajectory is kept for other processes and for another day; what is there already was made of this
        problem. None keeps it nowhere.
    """

    def __init__(self, problem: Problem, folder: Path | None = None) -> None:
        self.problem, self.folder = problem, folder
        self._learnt: dict[str, dict[str, Any]] = {}

    def __call__(self, recipe: Recipe) -> Recipe:
        """Raises HastenError if the recipe does not suit the model."""
        if any(cache.needs_fit for cache in recipe.caches):
            recipe = recipe.model_copy(update={"caches": tuple(map(self._taught, recipe.caches))})
        if recipe.solver is None or not learns(recipe.solver):
            return recipe
        learner = learning(recipe.solver, self.trajectory)
        assert learner is not None
        run = recipe.model_copy(update={"solver": learner, "compile": None})  # which changes nothing but the time
        self.problem.solve(run, self.problem.samples[SPLIT])
        return recipe.model_copy(update={"solver": learner.fitted[-1]})

    def _taught(self, cache: Cache) -> Cache:
        """A cache with what one fit to runs of the default tells about the model, whatever else it is set to."""
        if not cache.needs_fit:
            return cache
        if cache.name not in self._learnt:
            plain, prompts = type(cache)(), self.problem.samples[SPLIT].prompts[:WATCHED]
            with self.problem.running(None) as run:
                fitted, before = (CACHES.describe(one) for one in (plain.fit(run.pipe, prompts, **run.call), plain))
            self._learnt[cache.name] = {name: value for name, value in fitted.items() if value != before.get(name)}
        return CACHES.build(CACHES.describe(cache) | self._learnt[cache.name])

    @cached_property
    def trajectory(self) -> Trajectory:
        """The converged trajectory of the samples."""
        kept = None if self.folder is None else self.folder / FILE
        if kept is not None and kept.exists():
            return Trajectory.load(kept, from_config(self.problem.pipe.scheduler.config))
        recording = Recording()
        finest = reference_recipe(self.problem, TRAJECTORY).model_copy(update={"solver": recording})
        self.problem.solve(finest, self.problem.samples[SPLIT])
        if kept is not None:
            recording.trajectories[-1].save(kept)
        return recording.trajectories[-1]
