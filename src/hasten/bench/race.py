"""The race within a peer: the fewest steps of each ladder that keep the budget, with few runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from hasten.bench.ladders import Ladder
from hasten.bench.remote import PeerError
from hasten.bench.scout import NEAR, Hopeless, Scout
from hasten.bench.setting import Setting
from hasten.evaluate.budget import Budget
from hasten.evaluate.results import Trial, front

SLACK = 1.1  # times the fastest setting's time that another may take and still be tried
BEHIND = 2.0  # times the least drift at equal cost, above the budget, with which a ladder is not raced
NEIGHBOURS = (4, 2, 2)  # how many more steps are tried of the fastest settings
GLANCE_CALLS, GLANCE_PART = 6, 6  # ladders are ranked at so many calls, or a sixth of the default's steps

T = TypeVar("T")


@dataclass
class Race:
    """What was tried of a peer.

    trials: settings that were scored.
    hopeless: how many settings or ladders were given up early.
    refused: settings that cannot run, in words -> the error.
    left: how many ladders there was no time for.
    """

    trials: list[Trial[Setting]] = field(default_factory=list)
    hopeless: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    left: int = 0


class Racer:
    """Runs races.

    scout: looks at settings.
    budget: to be kept.
    steps: the numbers of steps of every ladder, rising.
    watch: called with each setting in words before it is looked at.
    """

    def __init__(
        self, scout: Scout, budget: Budget, steps: Sequence[int], watch: Callable[[str], None] = lambda text: None
    ) -> None:
        self.scout, self.budget, self.steps, self.watch = scout, budget, steps, watch

    def run(self, ladders: Sequence[Ladder], race: Race, until: float) -> None:
        """Add trials of ladders to a race, and of the neighbours of what won it.

        ladders: what is tried, likely ones first; the first is always tried.
        race: to which they are added.
        until: the `time.monotonic()` at which it ends.

        Raises PeerError if the peer's process has stopped.
        """
        for number, ladder in enumerate(ladders):
            if race.trials and time.monotonic() > until:
                race.left += len(ladders) - number
                break
            self._bisect(ladder, race)
        for trial, count in zip(self.within(race), NEIGHBOURS):
            best = trial.way
            for steps in [n for n in self.steps if n > (best.steps or self.steps[-1])][:count]:
                if time.monotonic() < until:
                    self._try(replace(best, steps=steps), race)

    def ranked(self, ladders: Sequence[Ladder], race: Race, until: float) -> list[Ladder]:
        """Ladders by their drift at equal cost on the first samples, without those far behind; as in `run`."""
        most = self.steps[-1]
        calls = next(n for n in self.steps if n >= min(max(GLANCE_CALLS, most // GLANCE_PART), most))
        seen: list[tuple[float, Ladder]] = []
        for number, ladder in enumerate(ladders):
            if seen and time.monotonic() > until:
                race.left += len(ladders) - number
                break
            drift = self._guarded(ladder.at(max(1, calls // ladder.calls)), race, self.scout.glance)
            if drift is not None:
                seen.append((drift, ladder))
        least = min((drift for drift, _ in seen), default=0.0)
        enough = self.budget.limit if self.budget.metric == "drift" else 0.0
        kept = [(drift, ladder) for drift, ladder in seen if drift <= max(BEHIND * least, enough)]
        race.hopeless += len(seen) - len(kept)
        return [ladder for _, ladder in sorted(kept, key=lambda pair: pair[0])]

    def within(self, race: Race) -> list[Trial[Setting]]:
        """The trials that keep the budget on the search samples, fastest first."""
        kept = [t for t in race.trials if self.budget.within(t.score, self.scout.default)]
        return sorted(kept, key=lambda t: -t.score.speed)

    def front(self, race: Race) -> list[Trial[Setting]]:
        """The trials worth measuring again, the most wanted first: from over the budget or near it to safe ones."""
        limit = NEAR * self.budget.limit if self.budget.metric == "drift" else math.inf
        ordered = front([t for t in race.trials if t.score.drift < limit] or race.trials)
        return ordered if self.budget.seeks_speed else ordered[::-1]

    def _bisect(self, ladder: Ladder, race: Race) -> None:
        """Look for the fewest steps within the budget, among those that would not be slower than the best so far."""
        low, high = 0, len(self.steps)
        best = next(iter(self.within(race)), None)
        pace = None  # the share of the default's time that a step takes
        if best is not None and ladder.method is None:
            pace = 1 / (best.score.speed * best.calls) * ladder.calls
        kept = False  # whether the latest one kept the budget
        while True:
            if best is not None and pace is not None:
                high = min(high, sum(pace * n * best.score.speed <= SLACK for n in self.steps))
            if low >= high:
                return
            at = (low + high) // 2 if best is None or pace is None or kept else high - 1
            setting = ladder.at(self.steps[at])
            trial = self._try(setting, race)
            if str(setting) in race.refused:
                return
            kept = trial is not None and self.budget.within(trial.score, self.scout.default)
            low, high = (low, at) if kept else (at + 1, high)
            if trial is not None:
                pace = 1 / (trial.score.speed * self.steps[at])
            if trial is not None and kept and (best is None or trial.score.speed > best.score.speed):
                best = trial

    def _try(self, setting: Setting, race: Race) -> Trial[Setting] | None:
        known = next((t for t in race.trials if t.way == setting), None)
        if known is not None:
            return known
        scored = self._guarded(setting, race, self.scout)
        if scored is None:
            return None
        race.trials.append(Trial(len(race.trials), setting, *scored))
        return race.trials[-1]

    def _guarded(self, setting: Setting, race: Race, look: Callable[[Setting], T]) -> T | None:
        """What a look at a setting gives; None, and a note in the race, for one that is hopeless or cannot run."""
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
