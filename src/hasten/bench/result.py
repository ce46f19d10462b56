"""What a comparison with other packages found: data, the claim in words, and the files it is written to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hasten.bench.race import Race
from hasten.bench.setting import Setting
from hasten.core.errors import HastenError
from hasten.evaluate.budget import Budget
from hasten.evaluate.results import Baseline, Confirmed, Finalist
from hasten.measure import Estimate

OURS = "hasten"
DATA, TABLE, PICTURE = "bench.json", "bench.md", "bench.png"


def side(finalist: Finalist) -> str:
    """Whose it is: a peer's name, or "hasten" for a recipe."""
    way: Any = finalist.recipe
    return way.peer if isinstance(way, Setting) else OURS


def words(finalist: Finalist) -> str:
    """A setting or a recipe in a few words."""
    from hasten.report.report import words as of_recipe

    way: Any = finalist.recipe
    return str(way) if isinstance(way, Setting) else of_recipe(way)


def confirmed(finalist: Finalist) -> Confirmed:
    """Its confirmed numbers; claims are made of nothing else."""
    assert finalist.confirmed is not None
    return finalist.confirmed


@dataclass
class BenchResult:
    """Settings of peers and recipes of hasten, measured again on samples that no search saw.

    front: all of them, fastest first. races: what was tried of each peer. missing: peers that could not take
    part, and why. facts: model, samples, versions, the command.
    """

    front: list[Finalist]
    baseline: Baseline
    budget: Budget
    races: Mapping[str, Race]
    missing: Mapping[str, str]
    facts: dict[str, Any] = field(default_factory=dict)

    def best(self, *sides: str) -> Finalist | None:
        """The best of some sides (all if none is named) that keeps the budget: the fastest, or the most faithful."""
        kept = [f for f in self.front if confirmed(f).within and (not sides or side(f) in sides)]
        if self.budget.seeks_speed:
            return max(kept, key=lambda f: confirmed(f).speed.value, default=None)
        return min(kept, key=lambda f: confirmed(f).drift.value, default=None)

    @property
    def ratio(self) -> Estimate | None:
        """The speed of hasten's best recipe over that of the peers' best setting, each within the budget.

        Its interval is the widest that the two intervals allow.
        """
        peer, ours = self.best(*self.races), self.best(OURS)
        if peer is None or ours is None:
            return None
        a, b = confirmed(ours).speed, confirmed(peer).speed
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
        if any(side(f) == OURS for f in self.front):
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
            "best": {name: None if found is None else found.name for name, found in best.items()},
            "front": [{"side": side(f), "words": words(f), **f.to_json()} for f in self.front],
            "default": {**self.baseline.numbers.to_json(), "settings": dict(self.baseline.settings)},
            "peers": {name: _raced(race) for name, race in self.races.items()},
            "missing": dict(self.missing),
            "facts": self.facts,
        }

    def save(self, folder: str | Path) -> None:
        """Write bench.json, bench.md and bench.png. Raises HastenError if the folder cannot be written to."""
        from hasten.bench.page import picture, table

        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / DATA).write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")
            (folder / TABLE).write_text(table(self), encoding="utf-8")
            picture(self, folder / PICTURE)
        except OSError as error:
            raise HastenError(f"out: cannot write to {folder}: {error.strerror or error}") from None


def _speed(finalist: Finalist) -> str:
    found = confirmed(finalist)
    return f"{found.speed.value:.2f}x the default's speed at {found.drift.value:.2f}x its drift"


def _raced(race: Race) -> dict[str, Any]:
    tried = [
        {"setting": t.recipe.to_dict(), "words": str(t.recipe), "speed": t.score.speed, "drift": t.score.drift,
         "flips": t.score.flips, "calls": t.calls}
        for t in race.trials
    ]  # fmt: skip
    return {"tried": tried, "hopeless": race.hopeless, "refused": race.refused, "families left": race.left}
