"""How a race looks at a setting: drawn on the search samples, scored and timed as the search does with recipes."""

from __future__ import annotations

import numpy as np

from hasten.bench.contest import Contest
from hasten.bench.setting import Setting
from hasten.core.errors import HastenError
from hasten.evaluate.budget import Budget, Score
from hasten.evaluate.problem import Pictures
from hasten.evaluate.references import References
from hasten.evaluate.scores import Scorer, compared, score

SCREEN = 4  # samples that are drawn first
HOPELESS = 3.0  # times the budget's drift on those, with which the others are spared
NEAR = 1.25  # times the budget's drift within which a setting is timed with care
SPLIT = "search"


class Hopeless(HastenError):
    """A setting that drifts so far on the first samples that the others are not drawn."""


class Scout(Scorer):
    """Scores settings of peers. Its clock is that of hasten's process.

    contest: in which the peers take part.
    references: of the contest.
    budget: of the race.
    """

    def __init__(self, contest: Contest, references: References, budget: Budget) -> None:
        super().__init__(contest, references, budget, SPLIT)
        self.contest = contest

    def __call__(self, setting: Setting) -> tuple[Score, int]:
        """The score of a setting, and the network calls of one image.

        Raises HastenError if it cannot run, or its pictures are not finite; Hopeless if it drifts too far at once.
        """
        first = self.contest.draw(setting, self.samples[:SCREEN])
        if self.budget.metric == "drift" and self._drift(first) > HOPELESS * self.budget.limit:
            raise Hopeless("drift: much above the budget on the first samples")
        made = first
        if len(self.samples) > SCREEN:
            made = first.joined(self.contest.draw(setting, self.samples[SCREEN:]))
        drift = compared(made, self.reference)
        near = self.budget.metric != "drift" or score(drift, self.default_drift, 1.0).drift < NEAR * self.budget.limit
        speed, calls = self._timed(setting, 2 if near else 1)
        return score(drift, self.default_drift, speed), calls

    def glance(self, setting: Setting) -> float:
        """Its drift over the default's on the first samples; raises as a call does."""
        return self._drift(self.contest.draw(setting, self.samples[:SCREEN]))

    def _drift(self, first: Pictures) -> float:
        count = len(first.images)
        ours = np.median(compared(first, self.reference[:count]).samples["latent_rmse"])
        return float(ours) / max(float(np.median(self.default_drift.samples["latent_rmse"][:count])), 1e-12)

    def _timed(self, setting: Setting, rounds: int) -> tuple[float, int]:
        remote = self.contest.remote(setting)
        if remote is None:
            return self.clock(setting, rounds)
        ratios = remote.ratios(setting, self.contest.single, rounds, self.clock.short)
        return self.clock.whole * float(np.median(ratios)), setting.steps or self.contest.steps
