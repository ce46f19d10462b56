"""What is measured of the chosen recipe besides its numbers: its ingredients, and where its time goes."""

from __future__ import annotations

from hasten.core.console import Display
from hasten.evaluate.ablation import ablate, ingredients
from hasten.evaluate.breakdown import break_down
from hasten.evaluate.problem import Problem
from hasten.evaluate.results import TuneResult
from hasten.measure import Drift


def explain(result: TuneResult, problem: Problem, default: Drift, repeats: int, display: Display) -> None:
    """Add ablation and breakdown to a result. Ctrl-C leaves out what is not finished: the result stands without."""
    assert result.baseline is not None and result.samples is not None
    chosen = result.chosen
    parts = len(ingredients(chosen.recipe))
    with display.stage("what each ingredient contributes", max(1, parts * len(result.samples))) as advance:
        try:
            result.breakdown = break_down(problem, chosen.recipe, repeats)
            if parts:
                result.ablation = ablate(problem, result.baseline, default, chosen, repeats, advance)
        except KeyboardInterrupt:
            pass
