"""Fitting what a recipe leaves to be fitted: inside the pipeline, on samples of their own."""

from __future__ import annotations

from functools import cached_property

from hasten.fitting import Course
from hasten.learning import Recording
from hasten.recipe import Recipe
from hasten.tune.problem import Problem
from hasten.tune.reference import reference_recipe

COURSE = 96  # steps of the course that is aimed at
SPLIT = "fit"


class Fitter:
    """Recipe -> the same with its solver fitted, where its solver can be and is not.

    The pipeline itself makes the runs, so a fit sees guidance, caches and whatever else the recipe changes, and
    makes up for them: the course it leads along is that of the pipeline as shipped.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def __call__(self, recipe: Recipe) -> Recipe:
        """Raises HastenError if the recipe does not suit the model."""
        if recipe.solver is None or recipe.solver.learning(None) is None:
            return recipe
        learning = recipe.solver.learning(self.course)
        run = recipe.model_copy(update={"solver": learning, "compile": None})  # which changes nothing but the time
        self.problem.solve(run, self.problem.samples[SPLIT])
        return recipe.model_copy(update={"solver": learning.fitted[-1]})  # type: ignore[union-attr]

    @cached_property
    def course(self) -> Course:
        """The converged course of the samples."""
        recording = Recording()
        finest = reference_recipe(self.problem, COURSE).model_copy(update={"solver": recording})
        self.problem.solve(finest, self.problem.samples[SPLIT])
        return recording.courses[-1]
