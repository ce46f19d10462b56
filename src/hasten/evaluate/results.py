"""What a tuning found, as data: finalists with their confirmed numbers, and the folder it is written to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hasten.core.errors import HastenError
from hasten.evaluate.budget import AT_LEAST, Budget, Score
from hasten.evaluate.problem import Cost, Pictures
from hasten.evaluate.samples import Samples
from hasten.measure import Estimate
from hasten.recipe import Recipe
from hasten.search.study import Trial

if TYPE_CHECKING:
    from hasten.evaluate.ablation import Ablation
    from hasten.evaluate.breakdown import Breakdown

FRONT, REPORT, SUMMARY = "front.json", "report.html", "report.md"


@dataclass(frozen=True)
class Confirmed:
    """A recipe on samples that the search never saw.

    drift: median latent RMSE relative to the default's; worst: its 95th percentile likewise. speed: the
    default's time over the recipe's, one image at a time. metrics: metric -> "median" and "p95". cost: of one
    image. within: whether the budget is kept, for all that the intervals leave open.
    """

    drift: Estimate
    worst: Estimate
    flips: Estimate
    speed: Estimate
    metrics: Mapping[str, Mapping[str, Estimate]]
    cost: Cost
    within: bool

    @property
    def score(self) -> Score:
        """What a budget looks at."""
        medians = {name: statistics["median"].value for name, statistics in self.metrics.items()}
        return Score(self.drift.value, self.flips.value, self.speed.value, medians, self.cost.memory)

    @property
    def doubt(self) -> Score:
        """The score at the worse end of every interval, but for flips, which are compared as counted: what must keep
        the budget if it is to hold for other samples as well.
        """
        medians = {
            name: found["median"].low if name in AT_LEAST else found["median"].high
            for name, found in self.metrics.items()
        }
        return Score(self.drift.high, self.flips.value, self.speed.low, medians, self.cost.memory)

    def to_json(self) -> dict[str, Any]:
        numbers = {name: getattr(self, name).to_json() for name in ("drift", "worst", "flips", "speed")}
        metrics = {m: {s: e.to_json() for s, e in found.items()} for m, found in self.metrics.items()}
        return {**numbers, "metrics": metrics, "cost": asdict(self.cost), "within": self.within}


@dataclass(frozen=True)
class Finalist:
    """A recipe that was measured again. searched: what the search had made of it, if it came from one."""

    name: str
    recipe: Recipe
    searched: Score | None = None
    confirmed: Confirmed | None = None
    pictures: Pictures | None = field(default=None, repr=False, compare=False)

    @property
    def agrees(self) -> bool | None:
        """Whether the intervals of the drift as searched and as confirmed overlap; None where one is missing."""
        if self.searched is None or self.searched.interval is None or self.confirmed is None:
            return None
        low, high = self.searched.interval
        return low <= self.confirmed.drift.high and self.confirmed.drift.low <= high

    def efficiency(self, default: Cost) -> float:
        """Measured speed-up over the speed-up by multiply-adds: what is left of the saving."""
        assert self.confirmed is not None
        return self.confirmed.speed.value * self.confirmed.cost.macs / default.macs

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "recipe": _plain(self.recipe.to_dict()),
            "searched": None if self.searched is None else asdict(self.searched),
            "agrees": self.agrees,
            "confirmed": None if self.confirmed is None else self.confirmed.to_json(),
        }


@dataclass(frozen=True)
class Baseline:
    """The default, and the reference that everything is measured against.

    numbers: of the default on the confirm samples (drift and speed are 1). settings: its scheduler, steps and
    guidance; the reference's steps and how far they have converged.
    """

    numbers: Confirmed
    pictures: Pictures = field(repr=False, compare=False)
    reference: Pictures = field(repr=False, compare=False)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class TuneResult:
    """The outcome of `hasten.tune` or `hasten.compare`.

    front: the finalists, fastest first. best: the fastest of them that keeps the budget at the worse end of its
    confirmed intervals, or None. trials: what the search saw. facts: model, samples, seeds, versions, the command.
    ablation, breakdown: of the chosen finalist, what its ingredients contribute and where its time goes.
    """

    front: list[Finalist]
    baseline: Baseline | None
    budget: Budget
    trials: Sequence[Trial] = ()
    samples: Samples | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    ablation: Ablation | None = None
    breakdown: Breakdown | None = None

    @property
    def best(self) -> Finalist | None:
        """The recipe to use: within the budget on samples that the search never saw."""
        kept = [f for f in self.front if f.confirmed is not None and f.confirmed.within]
        if not self.budget.seeks_speed:
            return min(kept, key=lambda f: _confirmed(f).drift.value, default=None)
        return max(kept, key=lambda f: _confirmed(f).speed.value, default=None)

    @property
    def chosen(self) -> Finalist:
        """The best, or where no finalist keeps the budget, the one that comes nearest to it."""
        if self.best is not None:
            return self.best
        if self.baseline is None:
            return self.front[0]
        budget, default = self.budget, self.baseline.numbers.score
        measured = [f for f in self.front if f.confirmed is not None]

        def excess(finalist: Finalist) -> tuple[float, ...]:
            found = _confirmed(finalist)
            return tuple(max(budget.excess(score, default).values()) for score in (found.doubt, found.score))

        return min(measured, key=excess, default=self.front[0])

    @property
    def recipe(self) -> Recipe:
        """The chosen finalist's recipe; ask `best` whether it keeps the budget."""
        return self.chosen.recipe

    @cached_property
    def report(self) -> str:
        """A web page in one file, with plot, tables and pictures."""
        from hasten.report.report import render

        return render(self)

    @property
    def summary(self) -> str:
        """The numbers of the report as Markdown, for a terminal or a pull request."""
        from hasten.report.report import summarise

        return summarise(self)

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures, as plain JSON values."""
        best = self.best
        return {
            "budget": str(self.budget),
            "best": None if best is None else best.name,
            "chosen": self.chosen.name if self.front else None,
            "front": [finalist.to_json() for finalist in self.front],
            "default": None
            if self.baseline is None
            else {**self.baseline.numbers.to_json(), "settings": dict(self.baseline.settings)},
            "ablation": None if self.ablation is None else self.ablation.to_json(),
            "breakdown": None if self.breakdown is None else self.breakdown.to_json(),
            "facts": self.facts,
        }

    def save(self, folder: str | Path) -> None:
        """Write front.json and, once there is something confirmed to show, recipe.json, report.html and report.md.

        Raises HastenError if the folder cannot be written to.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FRONT).write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")
            if self.baseline is not None and self.front:
                self.recipe.save(folder)
                (folder / REPORT).write_text(self.report, encoding="utf-8")
                (folder / SUMMARY).write_text(self.summary, encoding="utf-8")
        except OSError as error:
            raise HastenError(f"out: cannot write to {folder}: {error.strerror or error}") from None


def _confirmed(finalist: Finalist) -> Confirmed:
    assert finalist.confirmed is not None
    return finalist.confirmed


def _plain(data: Any) -> Any:
    """Data as JSON values; of fitted tensors, which `Recipe.save` keeps, the shape."""
    if isinstance(data, torch.Tensor):
        return {"tensor": list(data.shape)}
    if isinstance(data, Mapping):
        return {key: _plain(value) for key, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, list | tuple) else data
