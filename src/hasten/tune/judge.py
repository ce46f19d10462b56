"""How recipes are scored during a search: drift over the default's, and speed from short interleaved runs."""

from __future__ import annotations

import time

import numpy as np

from hasten.measure import Drift, bootstrap, count_calls, drift, timed_ratio
from hasten.recipe import Recipe
from hasten.tune.budget import Budget, Score
from hasten.tune.fit import Fitter
from hasten.tune.problem import Pictures, Problem
from hasten.tune.reference import Yardstick

MARGIN = 0.1


class Judge:
    """Scores recipes on the search samples.

    default: its own score. caution: the fraction by which a search should stay below the budget. fitted: makes a
    recipe that can be scored from one whose solver is still to be fitted.
    """

    def __init__(self, problem: Problem, yardstick: Yardstick, budget: Budget, split: str = "search") -> None:
        self.problem, self.split = problem, split
        self.reference = yardstick.reference(split)
        self.default_drift = compared(yardstick.default(split), self.reference)
        self.default = score(self.default_drift, self.default_drift, speed=1.0)
        self.caution = caution(self.default_drift) if budget.metric == "drift" else MARGIN
        self.clock = Clock(problem)
        self.fitted = Fitter(problem)

    def __call__(self, recipe: Recipe) -> tuple[Score, int]:
        """Score, and network calls of one image. Raises HastenError if the recipe does not suit or diverges."""
        made = compared(self.problem.draw(recipe, self.problem.samples[self.split]), self.reference)
        speed, calls = self.clock(recipe)
        return score(made, self.default_drift, speed), calls


def caution(default: Drift) -> float:
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

    def __call__(self, recipe: Recipe, rounds: int = 2) -> tuple[float, int]:
        """How many times faster than the default, and how many network calls an image takes."""
        one = self.problem.single
        with self.problem.running(None) as default, self.problem.running(recipe) as run:
            with count_calls(run.network) as seen:
                run(one)
            default(one, 1)
            found = timed_ratio(lambda: default(one, self.short), lambda: run(one), repeats=rounds, warmup=0)
        return self.whole * found.value, seen.calls


def compared(made: Pictures, reference: Pictures) -> Drift:
    """Images and latents against the reference's."""
    return drift(made.images, reference.images, latents=(made.latents, reference.latents))


def score(made: Drift, default: Drift, speed: float) -> Score:
    """What a budget looks at. Without other references to land on there are no flips."""
    medians = {name: float(np.median(values)) for name, values in made.samples.items()}
    ours, theirs = medians["latent_rmse"], float(np.median(default.samples["latent_rmse"]))
    ratio = 1.0 if ours == theirs else ours / max(theirs, 1e-12)
    return Score(ratio, float(made.flipped.mean()) if len(made.flipped) else 0.0, speed, medians)
