"""The race within a peer: the fewest steps of each family that keep the budget, with few runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from hasten.bench.contest import Contest
from hasten.bench.ladders import Ladder
from hasten.bench.remote import PeerError
from hasten.bench.setting import Setting
from hasten.core.errors import HastenError
from hasten.evaluate.budget import Budget, Score
from hasten.evaluate.problem import Pictures
from hasten.evaluate.references import Yardstick
from hasten.search.judge import MARGIN, Clock, compared, margin, score
from hasten.search.study import Trial, front

SCREEN = 4  # samples that are drawn first
HOPELESS = 3.0  # times the budget's drift on those, with which the others are spared
SLACK = 1.1  # times the fastest setting's time that another may take and still be tried
NEAR = 1.25  # times the budget's drift within which a setting is timed with care
BEHIND = 2.0  # times the least drift at equal cost, above the budget, with which a family is not raced
NEIGHBOURS = (4, 2, 2)  # how many more steps are tried of the fastest settings
SPLIT = "search"

T = TypeVar("T")


class Hopeless(HastenError):
    """A setting that drifts so far on the first samples that the others are not drawn."""


class Scout:
    """Scores settings on the search samples as the search scores recipes.

    default: its own score. margin: the fraction by which to stay below the budget. clock: of hasten's process.
    """

    def __init__(self, contest: Contest, yardstick: Yardstick, budget: Budget) -> None:
        self.contest, self.budget = contest, budget
        self.samples = contest.samples[SPLIT]
        self.reference, default = yardstick.reference(SPLIT), yardstick.default(SPLIT)
        self.default_drift = compared(default, self.reference)
        self.default = score(self.default_drift, self.default_drift, speed=1.0)
        self.margin = margin(self.default_drift) if budget.metric == "drift" else MARGIN
        self.clock = Clock(contest)

    def __call__(self, setting: Setting) -> tuple[Score, int]:
        """Score, and network calls of one image. Raises HastenError if it cannot run or diverges."""
        first = self.contest.draw(setting, self.samples[:SCREEN])  # type: ignore[arg-type]
        if self.budget.metric == "drift" and self._drift(first) > HOPELESS * self.budget.limit:
            raise Hopeless("drift: much above the budget on the first samples")
        made = first
        if len(self.samples) > SCREEN:
            made = first.joined(self.contest.draw(setting, self.samples[SCREEN:]))  # type: ignore[arg-type]
        found = compared(made, self.reference)
        near = self.budget.metric != "drift" or score(found, self.default_drift, 1.0).drift < NEAR * self.budget.limit
        speed, calls = self._timed(setting, 2 if near else 1)
        return score(found, self.default_drift, speed), calls

    def glance(self, setting: Setting) -> float:
        """Its drift over the default's on the first samples. Raises HastenError if it cannot run or diverges."""
        return self._drift(self.contest.draw(setting, self.samples[:SCREEN]))  # type: ignore[arg-type]

    def _drift(self, first: Pictures) -> float:
        count = len(first.images)
        ours = np.median(compared(first, self.reference[:count]).samples["latent_rmse"])
        return float(ours) / max(float(np.median(self.default_drift.samples["latent_rmse"][:count])), 1e-12)

    def _timed(self, setting: Setting, rounds: int) -> tuple[float, int]:
        remote = self.contest.remote(setting)
        if remote is None:
            return self.clock(setting, rounds)  # type: ignore[arg-type]
        ratios = remote.ratios(setting, self.contest.single, rounds, self.clock.short)
        return self.clock.whole * float(np.median(ratios)), setting.steps or self.contest.steps


@dataclass
class Race:
    """What was tried of a peer: trials, how many settings were hopeless, and what could not run, with the error."""

    trials: list[Trial] = field(default_factory=list)
    hopeless: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    left: int = 0  # families that there was no time for


class Racer:
    """Runs races. until: when `time.monotonic()` ends them; the first family of a peer is always tried."""

    def __init__(
        self, scout: Scout, budget: Budget, ladder: Sequence[int], watch: Callable[[str], None] = lambda text: None
    ) -> None:
        self.scout, self.budget, self.ladder, self.watch = scout, budget, ladder, watch

    def run(self, families: Sequence[Ladder], race: Race, until: float) -> None:
        """Add trials of the families to a race, and of the neighbours of what won it.

        Raises PeerError if the peer's process has stopped.
        """
        for number, family in enumerate(families):
            if race.trials and time.monotonic() > until:
                race.left += len(families) - number
                break
            self._bisect(family, race)
        for trial, count in zip(self.within(race), NEIGHBOURS):
            best = _setting(trial)
            for steps in [n for n in self.ladder if n > (best.steps or self.ladder[-1])][:count]:
                if time.monotonic() < until:
                    self._try(replace(best, steps=steps), race)

    def ranked(self, families: Sequence[Ladder], race: Race, until: float) -> list[Ladder]:
        """The families by their drift at equal cost, on the first samples; those far behind are left out."""
        calls = next(n for n in self.ladder if n >= min(max(6, self.ladder[-1] // 6), self.ladder[-1]))
        seen: list[tuple[float, Ladder]] = []
        for number, family in enumerate(families):
            if seen and time.monotonic() > until:
                race.left += len(families) - number
                break
            setting = family.at(max(1, calls // family.calls))
            found = self._guarded(setting, race, self.scout.glance)
            if found is not None:
                seen.append((found, family))
        least = min((drift for drift, _ in seen), default=0.0)
        enough = self.budget.limit if self.budget.metric == "drift" else 0.0
        kept = [(drift, family) for drift, family in seen if drift <= max(BEHIND * least, enough)]
        race.hopeless += len(seen) - len(kept)
        return [family for _, family in sorted(kept, key=lambda pair: pair[0])]

    def within(self, race: Race) -> list[Trial]:
        """The trials that keep the budget on the search samples, fastest first."""
        found = [t for t in race.trials if self.budget.within(t.score, self.scout.default)]
        return sorted(found, key=lambda t: -t.score.speed)

    def front(self, race: Race) -> list[Trial]:
        """The trials worth measuring again, the most wanted first: from over the budget or near it to safe ones."""
        limit = NEAR * self.budget.limit if self.budget.metric == "drift" else math.inf
        found = front([t for t in race.trials if t.score.drift < limit] or race.trials)
        return found if self.budget.seeks_speed else found[::-1]

    def _bisect(self, family: Ladder, race: Race) -> None:
        """Look for the fewest steps within the budget, among those that would not be slower than the best so far."""
        low, high = 0, len(self.ladder)
        best = next(iter(self.within(race)), None)
        pace = None  # the share of the default's time that a step takes
        if best is not None and family.method is None:
            pace = 1 / (best.score.speed * best.calls) * family.calls
        kept = False  # whether the latest one kept the budget
        while True:
            if best is not None and pace is not None:
                high = min(high, sum(pace * n * best.score.speed <= SLACK for n in self.ladder))
            if low >= high:
                return
            at = (low + high) // 2 if best is None or pace is None or kept else high - 1
            setting = family.at(self.ladder[at])
            trial = self._try(setting, race)
            if str(setting) in race.refused:
                return
            kept = trial is not None and self.budget.within(trial.score, self.scout.default)
            low, high = (low, at) if kept else (at + 1, high)
            if trial is not None:
                pace = 1 / (trial.score.speed * self.ladder[at])
            if trial is not None and kept and (best is None or trial.score.speed > best.score.speed):
                best = trial

    def _try(self, setting: Setting, race: Race) -> Trial | None:
        known = [t for t in race.trials if _setting(t) == setting]
        if known:
            return known[0]
        found = self._guarded(setting, race, self.scout)
        if found is None:
            return None
        race.trials.append(Trial(len(race.trials), setting, *found))  # type: ignore[arg-type]
        return race.trials[-1]

    def _guarded(self, setting: Setting, race: Race, look: Callable[[Setting], T]) -> T | None:
        """What a look at a setting finds; None, and a note in the race, for one that is hopeless or cannot run."""
        self.watch(str(setting))
        try:
            return look(setting)
        except Hopeless:
            race.hopeless += 1
        except Exception as error:  # one setting that cannot run must not end the race
            remote = self.scout.contest.remote(setting)
            if isinstance(error, PeerError) and remote is not None and not remote.alive:
                raise
            race.refused[str(setting)] = " ".join(str(error).split()) or type(error).__name__
        return None


def _setting(trial: Trial) -> Setting:
    return trial.recipe  # type: ignore[return-value]
