"""Scores: drift over the default's, flips, and speed from short runs in turn with the default."""

from __future__ import annotations

import math
import time

import numpy as np

from hasten.evaluate.budget import Budget, Score
from hasten.evaluate.problem import Pictures, Problem, Way
from hasten.evaluate.references import References
from hasten.measure import Drift, bootstrap, count_calls, drift, relative, timed_ratio

MARGIN = 0.1  # fraction by which a drift of few samples is to stay below a budget
LOW_CONFIDENCE = 0.8  # of the interval that says how far below its estimate the default's median drift may lie
INFINITE = 1e12  # the drift of anything over an exact default's, as a number that can be stored
SHORT = 5  # the clock's short default takes one step for so many of the whole default


class Scorer:
    """What ways to run a problem are scored against, on the samples of one split.

    problem: a pipeline and its samples.
    references: of the problem.
    budget: what scores are made for.
    split: whose samples are drawn.

    It holds the reference's pictures; the default's drift and score; the clock; and `margin`, the fraction by which a
    choice made on these samples should stay below the budget.
    """

    def __init__(self, problem: Problem, references: References, budget: Budget, split: str) -> None:
        self.budget, self.samples = budget, problem.samples[split]
        self.reference, self.default_pictures = references.reference(split), references.default(split)
        self.default_drift = compared(self.default_pictures, self.reference)
        self.default = score(self.default_drift, self.default_drift, speed=1.0)
        self.margin = margin(self.default_drift) if budget.metric == "drift" else MARGIN
        self.clock = Clock(problem)


class Clock:
    """The default's time over that of another way to run, one image at a time.

    To be quick, a way is timed in turn with a default of a few steps. The ratio of the whole default's time to that of
    the short one was measured once, in turn as well.

    problem: whose pipeline is timed.
    rounds: of that first measurement, at least 1.

    `short` is the steps of the short default, `seconds` the time of the first whole one (to plan with), and `whole` the
    ratio.
    """

    def __init__(self, problem: Problem, rounds: int = 3) -> None:
        self.problem, self.short = problem, max(1, problem.steps // SHORT)
        one = problem.single
        with problem.running(None) as default:
            begin = time.perf_counter()
            default(one)
            self.seconds = time.perf_counter() - begin
            self.whole = timed_ratio(lambda: default(one), lambda: default(one, self.short), repeats=rounds).value

    def __call__(self, way: Way, rounds: int = 2, steps: int | None = None) -> tuple[float, int]:
        """How many times faster than the default a way is, and how many network calls an image takes.

        way: what is timed.
        rounds: how often, at least 1.
        steps: that it takes instead of its own; the speed is then over a default of `short` steps.
        """
        one = self.problem.single
        with self.problem.running(None) as default, self.problem.running(way) as run:
            with count_calls(run.network) as seen:
                run(one, steps)
            default(one, 1)
            ratio = timed_ratio(lambda: default(one, self.short), lambda: run(one, steps), repeats=rounds, warmup=0)
        return (self.whole if steps is None else 1.0) * ratio.value, seen.calls


def compared(made: Pictures, reference: Pictures) -> Drift:
    """The drift of some pictures: images and latents against the reference's, sample by sample."""
    return drift(made.images, reference.images, latents=(made.latents, reference.latents))


def score(made: Drift, default: Drift, speed: float) -> Score:
    """What a budget looks at.

    made: the drift of what is scored.
    default: the default's on the same samples.
    speed: the default's time over that of what is scored; infinite if it is not timed.
    """
    medians = {name: float(np.median(values)) for name, values in made.samples.items()}
    flips = float(made.flipped.mean()) if len(made.flipped) else 0.0  # a single sample has nothing to flip to
    ratio = relative(made, default, "latent_rmse")
    interval = (ratio.low, ratio.high) if math.isfinite(ratio.high) else None
    return Score(min(ratio.value, INFINITE), flips, speed, medians, interval=interval)


def margin(default: Drift) -> float:
    """The fraction by which a search should stay below the default's drift, since it knows both from few samples.

    It is MARGIN, and more where the default's median drift may well be lower than estimated (the lower end of its 80 %
    bootstrap interval): a little more where its samples drift alike, much more where some land elsewhere and others
    do not drift at all.

    default: the default's drift on the search samples.
    """
    x = default.samples["latent_rmse"]
    low, median = bootstrap(x, "median", confidence=LOW_CONFIDENCE).low, float(np.median(x))
    return 1 - (1 - MARGIN) * (max(low, 0.0) / median if median > 0 else 1.0)
