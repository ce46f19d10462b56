"""What is measured of the chosen recipe besides its numbers: its ingredients, and where its time goes."""

from __future__ import annotations

from hasten.core.console import Display
from hasten.evaluate.ablation import ablate, ingredients
from hasten.evaluate.breakdown import break_down
from hasten.evaluate.problem import Problem
from hasten.evaluate.results import Outcome
from hasten.measure import Drift


def explain(result: Outcome, problem: Problem, default: Drift, repeats: int, display: Display) -> None:
    """Add ablation and breakdown to a result. After Ctrl-C the result stands without what is not finished.

    result: what they are added to.
    problem: that was measured.
    default: the default's drift on the confirm samples.
    repeats: rounds of timing, at least 1.
    display: shows the progress.
    """
    chosen = result.chosen
    parts = len(ingredients(chosen.way))
    with display.stage("what each ingredient contributes", max(1, parts * len(result.samples))) as advance:
        try:
            result.breakdown = break_down(problem, chosen.way, repeats)
            if parts:
                result.ablation = ablate(problem, result.baseline, default, chosen, repeats, advance)
        except KeyboardInterrupt:
            pass
