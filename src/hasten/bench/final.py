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
from hasten.evaluate.results import Baseline, Candidate, Drawn
from hasten.measure import Drift


class Final:
    """Looks for the fastest setting of a peer that keeps the budget on the unseen samples, with few looks.

    First the front of its race is bisected, then the steps between the fastest setting that kept the budget and the
    slowest of its ladder that did not. So a peer is not judged by settings that its few search samples flattered, nor
    by what its race had no time for. That the unseen samples choose as well is, if anything, in its favour.

    racer: that ran the races.
    base: the default and the reference on the unseen samples.
    default: the default's drift on these.
    count: how many settings of a peer are drawn, at most.
    ticks: called as samples are drawn.
    """

    def __init__(self, racer: Racer, base: Baseline, default: Drift, count: int, ticks: Ticks) -> None:
        self.racer, self.base, self.default = racer, base, default
        self.count, self.ticks = count, ticks

    def __call__(self, name: str, race: Race) -> dict[str, Drawn[Setting]]:
        """The settings of a peer that were drawn, by name.

        name: of the peer.
        race: of the peer.

        Raises HastenError if the peer's process has stopped, or no picture was finite.
        """
        looks = _Looks(self, name)
        front = [Candidate("", trial.way, trial.score) for trial in self.racer.front(race)]
        best = looks.bisect(front)
        if self.racer.budget.seeks_speed:
            looks.bisect(self._between(best, front[-1], looks.failed))
        if not looks.drawn:
            raise HastenError("no setting gives finite images on the unseen samples")
        return looks.drawn

    def _between(
        self, best: Candidate[Setting] | None, last: Candidate[Setting], failed: Sequence[Setting]
    ) -> list[Candidate[Setting]]:
        """Fewer steps than the best one has, down to what failed; more than the last one has if there is no best."""
        ladder, pivot = self.racer.steps, (best or last).way
        steps = pivot.steps or ladder[-1]
        if best is None:
            return [_with(pivot, n) for n in ladder if n > steps]
        worst = max((s.steps or 0 for s in failed if replace(s, steps=0) == replace(pivot, steps=0)), default=0)
        return [_with(pivot, n) for n in ladder if worst < n < steps]


class _Looks:
    """The looks at one peer's settings: what was drawn, by name, and which did not keep the budget."""

    def __init__(self, final: Final, peer: str) -> None:
        self.final, self.peer = final, peer
        self.drawn: dict[str, Drawn[Setting]] = {}
        self.failed: list[Setting] = []

    def bisect(self, candidates: Sequence[Candidate[Setting]]) -> Candidate[Setting] | None:
        """The first of the candidates that keeps the budget, where all after it do."""
        low, high, best = 0, len(candidates), None
        while low < high and len(self.drawn) < self.final.count:
            middle = (low + high) // 2
            if self._keeps(candidates[middle]):
                high, best = middle, candidates[middle]
            else:
                low = middle + 1
                self.failed.append(candidates[middle].way)
        return best

    def _keeps(self, candidate: Candidate[Setting]) -> bool:
        """Draw it; whether it keeps the budget at the worse end of its intervals."""
        racer, base = self.final.racer, self.final.base
        named = replace(candidate, name=f"{self.peer} {len(self.drawn) + 1}")
        try:
            self.drawn |= redraw(racer.scout.contest, base, [named], self.final.ticks)
        except PeerError:
            raise
        except HastenError:  # its pictures are not finite
            return False
        speed = 1.0 if candidate.searched is None else candidate.searched.speed
        numbers = prospect(self.drawn[named.name].drift, self.final.default, speed)
        return racer.budget.within(numbers.pessimistic, base.numbers.score)


def _with(setting: Setting, steps: int) -> Candidate[Setting]:
    return Candidate("", replace(setting, steps=steps))
