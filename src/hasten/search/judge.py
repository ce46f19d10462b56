"""How recipes are scored during a search: drift over the default's, and speed from short interleaved runs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import numpy as np

from hasten.evaluate.budget import Budget, Score
from hasten.evaluate.problem import Pictures, Problem
from hasten.evaluate.references import Yardstick
from hasten.measure import Drift, bootstrap, count_calls, drift, relative, timed_ratio
from hasten.recipe import Recipe
from hasten.search.fitter import Fitter
from hasten.search.space import RUNS

MARGIN = 0.1
HOPELESS = 2.0  # times the budget by which a recipe passes it on the first batch, and is not looked at further
INFINITE = 1e12  # the drift of anything over an exact default's, as a number that can be stored
WORTH = 1.05  # speed-up for which an acceleration pays


@dataclass(frozen=True)
class Verdict:
    """calls: of the network for one image. complete: whether all samples were drawn, not the first batch alone."""

    score: Score
    calls: int
    complete: bool = True


class Judge:
    """Scores recipes on the search samples.

    default: its own score. margin: the fraction by which a search should stay below the budget. fitted: makes a
    recipe that can be scored from one whose solver is still to be fitted.
    """

    def __init__(self, problem: Problem, yardstick: Yardstick, budget: Budget, split: str = "search") -> None:
        self.problem, self.split, self.budget = problem, split, budget
        self.reference, default, first = yardstick.reference(split), yardstick.default(split), slice(problem.batch)
        self.default_drift = compared(default, self.reference)
        self.first_drift = compared(default[first], self.reference[first])
        self.default = score(self.default_drift, self.default_drift, speed=1.0)
        self.margin = margin(self.default_drift) if budget.metric == "drift" else MARGIN
        self.clock = Clock(problem)
        self.fitted = Fitter(problem, yardstick.folder)

    def __call__(self, recipe: Recipe) -> Verdict:
        """Draw the first batch, and the others if it is not hopeless; and time one image.

        Raises HastenError if the recipe does not suit or diverges.
        """
        samples = self.problem.samples[self.split]
        made = self.problem.draw(recipe, samples[: self.problem.batch])
        left = samples[len(made.images) :]
        complete = not len(left) or not self._hopeless(made)
        if len(left) and complete:
            made = made.joined(self.problem.draw(recipe, left))
        return replace(self.again(recipe, self._score(made)), complete=complete)

    def again(self, recipe: Recipe, known: Score) -> Verdict:
        """The verdict on a recipe whose pictures were scored before, and whose time was not."""
        speed, calls = self.clock(recipe)
        memory = self.problem.memory(recipe) if self.budget.memory is not None else 0
        return Verdict(replace(known, speed=speed, memory=memory), calls)

    def pays(self, run: str) -> bool:
        """Whether a way to run the network's code (a label of `RUNS`) makes the default faster here."""
        return self.clock(Recipe(**RUNS[run]), steps=self.clock.short)[0] >= WORTH

    def _score(self, made: Pictures) -> Score:
        """Of the first batch or of all, against the default on the same; fast beyond measure, as nobody timed it."""
        count = len(made.images)
        default = self.default_drift if count == len(self.reference.images) else self.first_drift
        return score(compared(made, self.reference[:count]), default, math.inf)

    def _hopeless(self, made: Pictures) -> bool:
        excess = self.budget.excess(self._score(made), self.default)
        return any(passed > HOPELESS for passed in excess.values())


def margin(default: Drift) -> float:
    """By which fraction a search should stay below the default's drift, because it knows both from few samples.

    MARGIN for the recipe's own drift, and however far below its estimate the default's median may well lie (the
    lower end of its 80 % bootstrap interval): a little where samples are alike, much where some of them land
    elsewhere and others do not drift at all.
    """
    x = default.samples["latent_rmse"]
    low, median = bootstrap(x, "median", confidence=0.8).low, float(np.median(x))
    return 1 - (1 - MARGIN) * (max(low, 0.0) / median if median > 0 else 1.0)


class Clock:
    """The default's time over a recipe's, one image at a time.

    To be quick, a recipe is timed beside a default of a few steps, whose ratio to the whole default was
    measured once, interleaved as well.
    """

    def __init__(self, problem: Problem, rounds: int = 3) -> None:
        self.problem, self.short = problem, max(1, problem.steps // 5)
        one = problem.single
        with problem.running(None) as default:
            begin = time.perf_counter()
            default(one)
            self.seconds = time.perf_counter() - begin  # only to plan with
            self.whole = timed_ratio(lambda: default(one), lambda: default(one, self.short), repeats=rounds).value

    def __call__(self, recipe: Recipe, rounds: int = 2, steps: int | None = None) -> tuple[float, int]:
        """How many times faster than the default, and how many network calls an image takes.

        steps: that the recipe takes instead of its own, as part of the default's.
        """
        one = self.problem.single
        with self.problem.running(None) as default, self.problem.running(recipe) as run:
            with count_calls(run.network) as seen:
                run(one, steps)
            default(one, 1)
            found = timed_ratio(lambda: default(one, self.short), lambda: run(one, steps), repeats=rounds, warmup=0)
        return (self.whole if steps is None else 1.0) * found.value, seen.calls


def compared(made: Pictures, reference: Pictures) -> Drift:
    """Images and latents against the reference's."""
    return drift(made.images, reference.images, latents=(made.latents, reference.latents))


def score(made: Drift, default: Drift, speed: float) -> Score:
    """What a budget looks at. Without other references to land on there are no flips."""
    medians = {name: float(np.median(values)) for name, values in made.samples.items()}
    flips = float(made.flipped.mean()) if len(made.flipped) else 0.0
    found = relative(made, default, "latent_rmse")
    interval = (found.low, found.high) if math.isfinite(found.high) else None
    return Score(min(found.value, INFINITE), flips, speed, medians, interval=interval)
