"""What a comparison with other packages found: data, and the claim in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hasten.bench.race import Race
from hasten.bench.setting import Setting
from hasten.evaluate.budget import Budget
from hasten.evaluate.results import Baseline, Candidate, Finalist, best_of
from hasten.measure import Estimate
from hasten.recipe import Recipe
from hasten.report.words import words as recipe_in_words

OURS = "hasten"
PICTURE = "bench.png"

Entry = Finalist[Recipe | Setting]
"""A recipe of hasten or a setting of a peer, measured."""


def side(entry: Candidate[Recipe | Setting]) -> str:
    """Whose it is: a peer's name, or "hasten" for a recipe."""
    return entry.way.peer if isinstance(entry.way, Setting) else OURS


def words(entry: Candidate[Recipe | Setting]) -> str:
    """A setting or a recipe in a few words."""
    return str(entry.way) if isinstance(entry.way, Setting) else recipe_in_words(entry.way)


@dataclass
class BenchOutcome:
    """Settings of peers and recipes of hasten, measured on samples that no search saw.

    front: all of them, fastest first.
    baseline: the default and the reference.
    budget: that they were held against.
    races: peer -> what was tried of it.
    missing: peer that could not take part -> why.
    facts: model, samples, versions and the command, as plain JSON values.
    """

    front: Sequence[Entry]
    baseline: Baseline
    budget: Budget
    races: Mapping[str, Race]
    missing: Mapping[str, str]
    facts: dict[str, Any] = field(default_factory=dict)

    def best(self, *sides: str) -> Entry | None:
        """The best entry of some sides (all if none is named) that keeps the budget: the fastest, or most faithful."""
        return best_of([entry for entry in self.front if not sides or side(entry) in sides], self.budget)

    @property
    def ratio(self) -> Estimate | None:
        """The speed of hasten's best recipe over that of the peers' best setting, each within the budget.

        Its interval is the widest that the two intervals allow. None where one of them has nothing.
        """
        peer, ours = self.best(*self.races), self.best(OURS)
        if peer is None or ours is None:
            return None
        a, b = ours.confirmed.speed, peer.confirmed.speed
        return Estimate(a.value / b.value, a.low / b.high, a.high / b.low, min(a.n, b.n), "ratio", "x")

    @property
    def claim(self) -> str:
        """The outcome in words; what was not confirmed is not claimed."""
        peer, ours, limit = self.best(*self.races), self.best(OURS), str(self.budget)
        parts = [f"Within the budget of {limit} ({self.budget.sentence}),"]
        if not self.races:
            parts.append("no peer could take part")
        elif peer is None:
            parts.append(f"no setting of {', '.join(self.races)} is left")
        else:
            verb = "fastest" if self.budget.seeks_speed else "most faithful"
            parts.append(f"the {verb} setting of the peers is {side(peer)}'s {words(peer)}: {_speed(peer)}")
        if any(side(entry) == OURS for entry in self.front):
            told = "no recipe of hasten is left" if ours is None else f"hasten's {ours.name} is {_speed(ours)}"
            parts[-1] += f"; {told}"
        if self.ratio is not None:
            parts[-1] += f": ratio {self.ratio.value:.2f} ({self.ratio.low:.2f} to {self.ratio.high:.2f})"
        return f"{' '.join(parts)}."

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures, as plain JSON values."""
        best = {name: self.best(name) for name in (*self.races, OURS)}
        return {
            "claim": self.claim,
            "budget": str(self.budget),
            "ratio": None if self.ratio is None else self.ratio.to_json(),
            "best": {name: None if entry is None else entry.name for name, entry in best.items()},
            "front": [{"side": side(entry), "words": words(entry), **entry.to_json()} for entry in self.front],
            "default": self.baseline.numbers.to_json(),
            "peers": {name: _raced(race) for name, race in self.races.items()},
            "missing": dict(self.missing),
            "facts": self.facts,
        }


def _speed(entry: Entry) -> str:
    return f"{entry.confirmed.speed.value:.2f}x the default's speed at {entry.confirmed.drift.value:.2f}x its drift"


def _raced(race: Race) -> dict[str, Any]:
    tried = [
        {"setting": t.way.to_dict(), "words": str(t.way), "speed": t.score.speed, "drift": t.score.drift,
         "flips": t.score.flips, "calls": t.calls}
        for t in race.trials
    ]  # fmt: skip
    return {"tried": tried, "hopeless": race.hopeless, "refused": race.refused, "ladders left": race.left}
