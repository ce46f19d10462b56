"""The best setting of a peer on samples that its race never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hasten.bench.race import Race, Racer
from hasten.bench.remote import PeerError
from hasten.bench.setting import Setting
from hasten.core.errors import HastenError
from hasten.evaluate.confirmation import prospect, redraw
from hasten.evaluate.problem import Ticks
from hasten.evaluate.results import Baseline, Finalist
from hasten.measure import Drift

Drawn = dict[str, tuple[Finalist, Drift]]


class Final:
    """Looks for the fastest setting of a peer that keeps the budget on the unseen samples, with at most `count` looks.

    First the front of its race is bisected, then the steps between the fastest that kept the budget and the
    slowest of its family that did not. So a peer is not judged by what its few search samples flattered, nor by
    what its race had no time for; that these samples choose as well is, if anything, in its favour.
    """

    def __init__(self, racer: Racer, base: Baseline, default: Drift, count: int, ticks: Ticks) -> None:
        self.racer, self.base, self.default = racer, base, default
        self.count, self.ticks = count, ticks

    def __call__(self, name: str, race: Race) -> Drawn:
        """What was drawn, by name. Raises HastenError if the peer's process has stopped, or nothing was finite."""
        self.name, self.drawn, self.failed = name, {}, []
        front = [Finalist("", trial.recipe, trial.score) for trial in self.racer.front(race)]
        best = self._bisect(front)
        if self.racer.budget.seeks_speed:
            self._bisect(self._between(best, front[-1]))
        if not self.drawn:
            raise HastenError("no setting gives finite images on the unseen samples")
        return self.drawn

    def _bisect(self, ways: Sequence[Finalist]) -> Finalist | None:
        """The first of the ways that keeps the budget, where all after it do."""
        low, high, best = 0, len(ways), None
        while low < high and len(self.drawn) < self.count:
            middle = (low + high) // 2
            if self._keeps(ways[middle]):
                high, best = middle, ways[middle]
            else:
                low = middle + 1
                self.failed.append(_setting(ways[middle]))
        return best

    def _between(self, best: Finalist | None, last: Finalist) -> list[Finalist]:
        """Fewer steps than the best one has, down to what failed; more than the last one has if there is no best."""
        ladder, pivot = self.racer.ladder, _setting(best or last)
        steps = pivot.steps or ladder[-1]
        if best is None:
            return [_with(pivot, n) for n in ladder if n > steps]
        worst = max((s.steps or 0 for s in self.failed if _with(s, 0) == _with(pivot, 0)), default=0)
        return [_with(pivot, n) for n in ladder if worst < n < steps]

    def _keeps(self, way: Finalist) -> bool:
        named = replace(way, name=f"{self.name} {len(self.drawn) + 1}")
        try:
            self.drawn |= redraw(self.racer.scout.contest, self.base, [named], self.ticks)
        except PeerError:
            raise
        except HastenError:  # it diverges on these samples
            return False
        speed = 1.0 if way.searched is None else way.searched.speed
        found = prospect(self.drawn[named.name][1], self.default, speed)
        return self.racer.budget.within(found.doubt, self.base.numbers.score)


def _setting(way: Finalist) -> Setting:
    return way.recipe  # type: ignore[return-value]


def _with(setting: Setting, steps: int) -> Finalist:
    return Finalist("", replace(setting, steps=steps))  # type: ignore[arg-type]
