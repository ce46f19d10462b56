"""The race within a peer: the fewest steps of each family that keep the budget, with few runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from hasten.errors import HastenError
from hasten.tune.budget import Budget, Score
from hasten.tune.judge import MARGIN, Clock, caution, compared, score
from hasten.tune.peers.contest import Contest
from hasten.tune.peers.families import Family
from hasten.tune.peers.remote import PeerError
from hasten.tune.peers.setting import Setting
from hasten.tune.problem import Pictures
from hasten.tune.reference import Yardstick
from hasten.tune.search import Trial

SCREEN = 4  # samples that are drawn first
HOPELESS = 3.0  # times the budget's drift on those, with which the others are spared
SLACK = 1.05  # times the fastest setting's time that another may take and still be tried
SPLIT = "search"


class Hopeless(HastenError):
    """A setting that drifts so far on the first samples that the others are not drawn."""


class Scout:
    """Scores settings on the search samples as the search scores recipes.

    default: its own score. caution: the fraction by which to stay below the budget. clock: of hasten's process.
    """

    def __init__(self, contest: Contest, yardstick: Yardstick, budget: Budget) -> None:
        self.contest, self.budget = contest, budget
        self.samples = contest.samples[SPLIT]
        self.reference, default = yardstick.reference(SPLIT), yardstick.default(SPLIT)
        self.default_drift = compared(default, self.reference)
        self.default = score(self.default_drift, self.default_drift, speed=1.0)
        self.caution = caution(self.default_drift) if budget.metric == "drift" else MARGIN
        self.clock = Clock(contest)

    def __call__(self, setting: Setting) -> tuple[Score, int]:
        """Score, and network calls of one image. Raises HastenError if it cannot run or diverges."""
        first = self.contest.draw(setting, self.samples[:SCREEN])  # type: ignore[arg-type]
        self._screen(first)
        made = [first]
        if len(self.samples) > SCREEN:
            made.append(self.contest.draw(setting, self.samples[SCREEN:]))  # type: ignore[arg-type]
        speed, calls = self._timed(setting)
        return score(compared(joined(made), self.reference), self.default_drift, speed), calls

    def _screen(self, first: Pictures) -> None:
        if self.budget.metric != "drift":
            return
        ours = np.median(compared(first, self.reference[: len(first.images)]).samples["latent_rmse"])
        theirs = np.median(self.default_drift.samples["latent_rmse"][: len(first.images)])
        if ours > HOPELESS * self.budget.limit * max(float(theirs), 1e-12):
            raise Hopeless("drift: much above the budget on the first samples")

    def _timed(self, setting: Setting) -> tuple[float, int]:
        remote = self.contest.remote(setting)
        if remote is None:
            return self.clock(setting)  # type: ignore[arg-type]
        ratios = remote.ratios(setting, self.contest.single, 2, self.clock.short)
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

    def run(self, families: Sequence[Family], race: Race, until: float) -> None:
        """Add trials of the families to a race, and of the neighbours of what won it.

        Raises PeerError if the peer's process has stopped.
        """
        for number, family in enumerate(families):
            if race.trials and time.monotonic() > until:
                race.left += len(families) - number
                break
            self._bisect(family, race)
        by_key = {_key(f): f for f in families}
        for trial in self.within(race)[:3]:
            family = by_key.get(_key(_setting(trial)))
            steps = _setting(trial).steps
            more = [n for n in self.ladder if steps is not None and n > steps][:2]
            for one in more if family else ():
                self._try(family.at(one), race)

    def within(self, race: Race) -> list[Trial]:
        """The trials that keep the budget on the search samples, fastest first."""
        found = [t for t in race.trials if self.budget.within(t.score, self.scout.default)]
        return sorted(found, key=lambda t: -t.score.speed)

    def _bisect(self, family: Family, race: Race) -> None:
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
        try:
            found, calls = self.scout(setting)
        except Hopeless:
            race.hopeless += 1
            return None
        except Exception as error:  # one setting that cannot run must not end the race
            remote = self.scout.contest.remote(setting)
            if isinstance(error, PeerError) and remote is not None and not remote.alive:
                raise
            race.refused[str(setting)] = " ".join(f"{error}".split()) or type(error).__name__
            return None
        race.trials.append(Trial(len(race.trials), setting, found, calls))  # type: ignore[arg-type]
        self.watch(str(setting))
        return race.trials[-1]


def joined(parts: Sequence[Pictures]) -> Pictures:
    """Pictures of some samples after those of others."""
    import torch

    return Pictures(torch.cat([p.images for p in parts]), torch.cat([p.latents for p in parts]))


def _setting(trial: Trial) -> Setting:
    return trial.recipe  # type: ignore[return-value]


def _key(way: Family | Setting) -> str:
    return Setting(way.peer, way.scheduler, None, way.method).to_json()
