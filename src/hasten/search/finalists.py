"""Which trials of a search are measured again on unseen samples."""

from __future__ import annotations

from collections.abc import Sequence

from hasten.evaluate.budget import Budget, Score
from hasten.evaluate.results import Trial
from hasten.evaluate.scores import MARGIN
from hasten.recipe import Recipe
from hasten.search.judge import WORTH


def finalists(
    trials: Sequence[Trial[Recipe]], budget: Budget, default: Score, margin: float = MARGIN, count: int = 5
) -> list[Trial[Recipe]]:
    """The trials worth measuring again, fastest first: from one that may keep the budget to one that is sure to.

    The best one within the budget with little margin comes first; then the best ones with the search's `margin`, one
    with twice that, and the one with the most margin. Where none is within the budget, those that come nearest to it.
    Each acceleration of a recipe has to earn its place: the recipe counts as a little slower for it.

    trials: of the search.
    budget: to be kept.
    default: the default's score on the search samples.
    margin: the fraction by which the search stays below the budget, from 0 to 1.
    count: how many, at least 1.
    """

    def within(margin: float) -> list[Trial[Recipe]]:
        kept = [t for t in trials if t not in chosen and budget.within(t.score, default, margin)]
        return sorted(kept, key=lambda t: -earned(t) if budget.seeks_speed else t.score.drift)

    def earned(trial: Trial[Recipe]) -> float:
        return trial.score.speed / WORTH ** len(trial.way.accelerations)

    def safety(trial: Trial[Recipe]) -> tuple[float, float]:
        limits = budget.excess(trial.score, default)
        return max(0.0, *limits.values()), next(iter(limits.values()))  # what passes no limit, by the main one

    chosen: list[Trial[Recipe]] = []
    for tight, until in ((MARGIN, 1), (margin, count - 2), (1 - (1 - margin) / 2, count - 1)):
        chosen += within(tight)[: max(0, until - len(chosen))]
    nearest = sorted((t for t in trials if t not in chosen), key=safety)
    return sorted([*chosen, *nearest[: max(0, count - len(chosen))]], key=lambda t: -t.score.speed)
