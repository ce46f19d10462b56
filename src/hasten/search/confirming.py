"""The last stages of `tune` and `compare`: candidates are measured on unseen samples, and the chosen one explained."""

from __future__ import annotations

from collections.abc import Sequence

from hasten.core.console import Display
from hasten.evaluate.budget import Budget
from hasten.evaluate.confirmation import LOOKS, SPLIT, Slower, baseline, judged, redraw, speed_ups, with_more_steps
from hasten.evaluate.explain import explain
from hasten.evaluate.problem import Problem
from hasten.evaluate.references import References
from hasten.evaluate.results import Candidate
from hasten.recipe import Recipe
from hasten.search.result import TuneResult

REPEATS = 10  # rounds of the final timing
PARTS_REPEATS = 5  # and of the timing of its ingredients and parts


def confirm(
    problem: Problem, references: References, candidates: Sequence[Candidate[Recipe]], budget: Budget,
    display: Display, slower: Slower | None = None,
) -> TuneResult:  # fmt: skip
    """Measure candidates on the confirm samples; what is claimed comes from here alone.

    problem: with confirm samples.
    references: of the problem.
    candidates: what is measured.
    budget: to be kept.
    display: shows the progress.
    slower: makes candidates with more steps, if some may be added.
    """
    samples = problem.samples[SPLIT]
    with display.stage("confirm on unseen samples", (2 + len(candidates)) * len(samples)) as advance:
        base, default = baseline(problem, references, advance)
        drawn = redraw(problem, base, candidates, advance)
    if slower is not None:
        with display.stage("between those that keep the budget", LOOKS * len(samples)) as advance:
            drawn |= with_more_steps(problem, base, default, drawn, budget, slower, advance)
    speeds = speed_ups(problem, [one.candidate for one in drawn.values()], REPEATS, display.shown)
    front = judged(problem, base, default, drawn, speeds, budget)
    result = TuneResult(front, base, budget, samples)
    explain(result, problem, default, PARTS_REPEATS, display)
    return result
