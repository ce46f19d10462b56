"""How a search looks at a recipe: its pictures of the search samples, their score, and its time."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

from hasten.core.errors import NothingChanged
from hasten.evaluate.budget import Budget, Score
from hasten.evaluate.problem import Pictures, Problem
from hasten.evaluate.references import References
from hasten.evaluate.scores import Scorer, compared, score
from hasten.recipe import Recipe
from hasten.search.executions import Execution
from hasten.search.fitter import Fitter

HOPELESS = 2.0  # times the budget by which a recipe passes it on the first batch, and is not looked at further
WORTH = 1.05  # speed-up from which an acceleration pays


@dataclass(frozen=True)
class Verdict:
    """What a search knows of a recipe.

    score: on the search samples.
    calls: of the network for one image.
    complete: whether all samples were drawn, not only the first batch.
    """

    score: Score
    calls: int
    complete: bool = True


class Judge(Scorer):
    """Draws, scores and times recipes; `fitted` makes one that can be drawn from one that is still to be fitted.

    problem: a pipeline and its samples.
    references: of the problem.
    budget: of the search.
    split: whose samples are drawn.
    """

    def __init__(self, problem: Problem, references: References, budget: Budget, split: str = "search") -> None:
        super().__init__(problem, references, budget, split)
        first = slice(problem.batch)
        self.problem = problem
        self.first_drift = compared(self.default_pictures[first], self.reference[first])
        self.fitted = Fitter(problem, references.folder)

    def draw(self, recipe: Recipe) -> Pictures:
        """The first batch of samples, and the others if that one is not hopeless.

        Raises HastenError if the recipe does not suit the model, or its pictures are not finite; and NothingChanged
        if a part of it does nothing.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("error", NothingChanged)  # a part that does nothing belongs into no recipe
            made = self.problem.draw(recipe, self.samples[: self.problem.batch])
        left = self.samples[len(made.images) :]
        if not len(left) or self._hopeless(made):
            return made
        return made.joined(self.problem.draw(recipe, left))

    def score(self, made: Pictures) -> Score:
        """The score of the first batch or of all samples, against the default on the same. Its speed is infinite."""
        count = len(made.images)
        default = self.default_drift if count == len(self.samples) else self.first_drift
        return score(compared(made, self.reference[:count]), default, math.inf)

    def complete(self, made: Pictures) -> bool:
        """Whether all samples were drawn."""
        return len(made.images) == len(self.samples)

    def time(self, recipe: Recipe, known: Score, complete: bool = True) -> Verdict:
        """The verdict on a recipe whose score is known but for speed and memory.

        recipe: that is timed.
        known: its score.
        complete: whether that is of all samples.
        """
        speed, calls = self.clock(recipe)
        memory = self.problem.memory(recipe) if self.budget.memory is not None else 0
        return Verdict(replace(known, speed=speed, memory=memory), calls, complete)

    def speed(self, execution: Execution) -> float:
        """How many times faster a way to execute the network's code makes the default."""
        return self.clock(Recipe(**execution), steps=self.clock.short)[0]

    def _hopeless(self, made: Pictures) -> bool:
        excess = self.budget.excess(self.score(made), self.default)
        return any(passed > HOPELESS for passed in excess.values())
