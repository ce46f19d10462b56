"""What was measured, as plain data: trials of a search, finalists with their confirmed numbers, and the outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, TypeVar

import torch

from hasten.evaluate.breakdown import Breakdown
from hasten.evaluate.budget import AT_LEAST, Budget, Score
from hasten.evaluate.contributions import Ablation
from hasten.evaluate.problem import Cost, Pictures, Way
from hasten.evaluate.samples import Samples
from hasten.measure import Drift, Estimate
from hasten.recipe import Recipe

W = TypeVar("W", bound=Way, covariant=True)
"""A `Recipe`, or in a race against peers also one of their settings."""


@dataclass(frozen=True)
class Trial(Generic[W]):
    """One way to run as a search saw it.

    number: its place in the search, from 0.
    way: how it runs.
    score: on the search samples.
    calls: of the network for one image.
    params: what Optuna's sampler chose, by parameter.
    """

    number: int
    way: W
    score: Score
    calls: int
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Confirmed:
    """The numbers of one way to run on samples that no search saw.

    drift: median latent RMSE against the reference, over the default's.
    worst: the 95th percentile, over the default's.
    flips: share of samples nearer to another reference.
    speed: the default's time over this one's, one image at a time.
    metrics: metric -> its "median" and "p95".
    cost: of one image.
    within: whether the budget is kept at the worse end of every interval.
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
    def pessimistic(self) -> Score:
        """The score at the worse end of every interval: it keeps a budget that other samples will keep as well.

        Flips alone are as counted: the interval of a share is too wide on few samples.
        """
        medians = {
            name: statistics["median"].low if name in AT_LEAST else statistics["median"].high
            for name, statistics in self.metrics.items()
        }
        return Score(self.drift.high, self.flips.value, self.speed.low, medians, self.cost.memory)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        numbers = {name: getattr(self, name).to_json() for name in ("drift", "worst", "flips", "speed")}
        metrics = {m: {s: e.to_json() for s, e in statistics.items()} for m, statistics in self.metrics.items()}
        return {**numbers, "metrics": metrics, "cost": asdict(self.cost), "within": self.within}


@dataclass(frozen=True)
class Candidate(Generic[W]):
    """A way to run that is to be measured on samples that no search saw.

    name: what it is called in reports.
    way: how it runs.
    searched: its score on the search samples, or None if it does not come from a search.
    """

    name: str
    way: W
    searched: Score | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "name": self.name,
            "recipe": _plain(self.way.to_dict()),
            "searched": None if self.searched is None else asdict(self.searched),
            "agrees": None,
            "confirmed": None,
        }


@dataclass(frozen=True)
class Drawn(Generic[W]):
    """A candidate with its pictures of the confirm samples, and their drift."""

    candidate: Candidate[W]
    pictures: Pictures = field(repr=False)
    drift: Drift = field(repr=False)


@dataclass(frozen=True)
class Finalist(Candidate[W]):
    """A candidate that was measured.

    confirmed: its numbers.
    pictures: what it drew.
    """

    confirmed: Confirmed = field(kw_only=True)
    pictures: Pictures = field(kw_only=True, repr=False, compare=False)

    @property
    def agrees(self) -> bool | None:
        """Whether the intervals of the drift as searched and as confirmed overlap; None if the search has none."""
        if self.searched is None or self.searched.interval is None:
            return None
        low, high = self.searched.interval
        return low <= self.confirmed.drift.high and self.confirmed.drift.low <= high

    def efficiency(self, default: Cost) -> float:
        """The measured speed-up over the speed-up by multiply-adds: 1 where time falls as the arithmetic does."""
        return self.confirmed.speed.value * self.confirmed.cost.macs / default.macs

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return super().to_json() | {"agrees": self.agrees, "confirmed": self.confirmed.to_json()}


@dataclass(frozen=True)
class Baseline:
    """The default, and the reference that everything is measured against, on the confirm samples.

    numbers: of the default; its drift and speed are 1.
    pictures: of the default.
    reference: the converged pictures.
    """

    numbers: Confirmed
    pictures: Pictures = field(repr=False, compare=False)
    reference: Pictures = field(repr=False, compare=False)


@dataclass
class Outcome:
    """What was measured of some recipes, with everything a report is made of.

    front: the finalists, fastest first; at least one.
    baseline: the default and the reference.
    budget: that they were held against.
    samples: that they were confirmed on.
    trials: what the search saw; empty without a search.
    facts: model, samples, seeds, versions and the command, as plain JSON values.
    ablation: what the ingredients of the chosen finalist contribute; None if it was not measured.
    breakdown: where the time of the chosen finalist goes; None if it was not measured.
    """

    front: Sequence[Finalist[Recipe]]
    baseline: Baseline
    budget: Budget
    samples: Samples
    trials: Sequence[Trial[Recipe]] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    ablation: Ablation | None = None
    breakdown: Breakdown | None = None

    @property
    def best(self) -> Finalist[Recipe] | None:
        """The finalist to use: the fastest within the budget (most faithful, of a speed budget); None if none is."""
        return best_of(self.front, self.budget)

    @property
    def chosen(self) -> Finalist[Recipe]:
        """The best, or where no finalist keeps the budget, the one that comes nearest to it."""
        if self.best is not None:
            return self.best
        default = self.baseline.numbers.score

        def excess(finalist: Finalist[Recipe]) -> tuple[float, ...]:
            scores = (finalist.confirmed.pessimistic, finalist.confirmed.score)
            return tuple(max(self.budget.excess(score, default).values()) for score in scores)

        return min(self.front, key=excess)

    @property
    def recipe(self) -> Recipe:
        """The chosen finalist's recipe; ask `best` whether it keeps the budget."""
        return self.chosen.way

    def to_json(self) -> dict[str, Any]:
        """Everything but the pictures and trials, as plain JSON values."""
        best = self.best
        return {
            "budget": str(self.budget),
            "best": None if best is None else best.name,
            "chosen": self.chosen.name,
            "front": [finalist.to_json() for finalist in self.front],
            "default": self.baseline.numbers.to_json(),
            "ablation": None if self.ablation is None else self.ablation.to_json(),
            "breakdown": None if self.breakdown is None else self.breakdown.to_json(),
            "facts": self.facts,
        }


def best_of(finalists: Sequence[Finalist[W]], budget: Budget) -> Finalist[W] | None:
    """The fastest finalist that keeps the budget, or of a speed budget the most faithful; None if none keeps it."""
    kept = [finalist for finalist in finalists if finalist.confirmed.within]
    if budget.seeks_speed:
        return max(kept, key=lambda f: f.confirmed.speed.value, default=None)
    return min(kept, key=lambda f: f.confirmed.drift.value, default=None)


def front(trials: Sequence[Trial[W]]) -> list[Trial[W]]:
    """The trials that no other beats in both drift and speed, fastest first."""
    kept: list[Trial[W]] = []
    for trial in sorted(trials, key=lambda t: (-t.score.speed, t.score.drift)):
        if not kept or trial.score.drift < kept[-1].score.drift:
            kept.append(trial)
    return kept


def is_plain(recipe: Recipe) -> bool:
    """Whether a recipe changes the solver and its times only: the fair baseline of every acceleration."""
    return not recipe.accelerations


def plain_front(trials: Sequence[Trial[Recipe]]) -> list[Trial[Recipe]]:
    """The front of the trials whose recipes are plain."""
    return front([trial for trial in trials if is_plain(trial.way)])


def _plain(data: Any) -> Any:
    """Data as JSON values; of fitted tensors, which `Recipe.save` keeps, the shape."""
    if isinstance(data, torch.Tensor):
        return {"tensor": list(data.shape)}
    if isinstance(data, Mapping):
        return {key: _plain(value) for key, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, list | tuple) else data
