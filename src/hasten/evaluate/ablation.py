"""What each ingredient of a recipe contributes: the recipe without it, and the default with it alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from hasten.core.errors import HastenError
from hasten.evaluate.confirmation import SPLIT
from hasten.evaluate.problem import Pictures, Problem, Ticks
from hasten.evaluate.results import Baseline, Finalist
from hasten.measure import Drift, Estimate, relative, timed_ratio
from hasten.recipe import Recipe
from hasten.runtime.acceleration import Acceleration
from hasten.search.judge import compared

STEPS, SOLVER, SCALE = "fewer steps", "solver", "guidance scale"
WHOLE = "the whole"
LEAST = 1.1  # of the whole's speed-up, for its logarithm to be divided into parts
CLOSED = 0.15  # how far the parts may sum from the whole


@dataclass(frozen=True)
class Ingredient:
    """A part of a recipe: the recipe without it, and one that holds nothing else.

    factor: whether its speed-up is a factor of the whole's; if not, it says nothing alone.
    """

    name: str
    without: Recipe
    alone: Recipe | None = None
    factor: bool = True


@dataclass(frozen=True)
class Contribution:
    """An ingredient, measured. last: the time of the recipe without it over that of the recipe. macs: likewise.

    drift and flips: without it, as in `Confirmed`; None where the recipe without it diverges. first: the default's
    time over that of the default with it alone; None where that was not timed.
    """

    ingredient: Ingredient
    last: Estimate
    macs: float
    drift: Estimate | None
    flips: Estimate | None
    first: Estimate | None = None

    @property
    def speed(self) -> Estimate:
        """How much faster it makes the whole: the geometric mean of coming first and coming last.

        Where ingredients help or hinder each other in pairs, these multiply to the whole exactly.
        """
        if self.first is None:
            return self.last
        means = {k: math.sqrt(getattr(self.first, k) * getattr(self.last, k)) for k in ("value", "low", "high")}
        return replace(self.last, **means)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.ingredient.name,
            "factor": self.ingredient.factor,
            "speed": self.speed.to_json(),
            "alone": None if self.first is None else self.first.to_json(),
            "with the others": self.last.to_json(),
            "macs": self.macs,
            "without": {
                "drift": None if self.drift is None else self.drift.to_json(),
                "flips": None if self.flips is None else self.flips.to_json(),
            },
        }


@dataclass(frozen=True)
class Ablation:
    """The contributions to one recipe. whole: the default's time over the recipe's, timed with them.

    refused: ingredients that the recipe cannot run without, and why.
    """

    whole: Estimate
    rows: Sequence[Contribution]
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [row.ingredient.name for row in self.rows]

    @property
    def factors(self) -> list[float]:
        """The speed-ups of the ingredients that are to make up the whole's."""
        return [row.speed.value for row in self.rows if row.ingredient.factor]

    @property
    def product(self) -> float:
        """The factors, multiplied."""
        return math.prod(self.factors)

    @property
    def closure(self) -> float | None:
        """The log speed-ups of the ingredients, summed, over that of the whole: 1 where they are independent.

        None where there is no speed-up to divide.
        """
        if self.whole.value < LEAST or not self.rows:
            return None
        return math.log(self.product) / math.log(self.whole.value)

    def to_json(self) -> dict[str, Any]:
        return {
            "whole": self.whole.to_json(),
            "rows": [row.to_json() for row in self.rows],
            "product": self.product,
            "closure": self.closure,
            "refused": dict(self.refused),
        }


def ingredients(recipe: Recipe) -> list[Ingredient]:
    """Steps, solver, guidance scale and every acceleration that a recipe holds; none for an empty recipe.

    Without "fewer steps" the pipeline's own scheduler makes its own number of steps. Without "solver" it makes as
    many as the recipe makes network calls: that shows what solver and grid buy in drift, and is no factor of the
    speed-up unless they are all that is changed. Weights that were fitted stay as they are.
    """
    return [*_steps(recipe), *_guidance(recipe), *_accelerations(recipe)]


def _steps(recipe: Recipe) -> Iterator[Ingredient]:
    own: dict[str, Any] = {"solver": None, "grid": None, "end": "data"}
    if recipe.steps is not None:
        yield Ingredient(STEPS, _changed(recipe, steps=None, **own), Recipe(steps=recipe.steps, **_of(recipe, own)))
    if recipe.solver is not None:
        calls = None if recipe.steps is None else recipe.steps * recipe.solver.evaluations
        yield Ingredient(SOLVER, _changed(recipe, steps=calls, **own), Recipe(**_of(recipe, own)), recipe.steps is None)


def _guidance(recipe: Recipe) -> Iterator[Ingredient]:
    guidance = recipe.guidance
    if guidance is not None and guidance.scale is not None:
        without = guidance.model_copy(update={"scale": None}) if guidance.method else None
        yield Ingredient(SCALE, _changed(recipe, guidance=without), Recipe(guidance=guidance.scale))
    if guidance is not None and guidance.method is not None:
        without = None if guidance.scale is None else guidance.model_copy(update={"method": None})
        alone = Recipe(guidance=guidance.model_copy(update={"scale": None}))
        yield Ingredient(guidance.method.name, _changed(recipe, guidance=without), alone)


def _accelerations(recipe: Recipe) -> Iterator[Ingredient]:
    """Those of every field that holds one or some."""
    for name in type(recipe).model_fields:
        value = getattr(recipe, name)
        if isinstance(value, Acceleration):
            yield Ingredient(value.name, _changed(recipe, **{name: None}), Recipe(**{name: value}))
        elif isinstance(value, tuple):
            for i, one in enumerate(value):
                without = _changed(recipe, **{name: value[:i] + value[i + 1 :]})
                yield Ingredient(one.name, without, Recipe(**{name: (one,)}))


def _changed(recipe: Recipe, **fields: Any) -> Recipe:
    return recipe.model_copy(update=fields)


def _of(recipe: Recipe, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(recipe, name) for name in names}


def ablate(
    problem: Problem, base: Baseline, default: Drift, chosen: Finalist, repeats: int = 5,
    ticks: Ticks = lambda count: None,
) -> Ablation:  # fmt: skip
    """Measure a confirmed finalist without each of its ingredients, and time the default with each of them alone.

    All are timed in turn with it and the default.
    """
    assert chosen.confirmed is not None
    drawn: list[tuple[Ingredient, Pictures]] = []
    refused: dict[str, str] = {}
    for one in ingredients(chosen.recipe):
        try:
            drawn.append((one, _drawn(problem, base, one.without, ticks)))
        except HastenError as error:
            refused[one.name] = str(error)
    speeds = _timed(problem, chosen.recipe, {WHOLE: None} | {one.name: one.without for one, _ in drawn}, repeats)
    last = {name: _inverse(ratio) for name, ratio in speeds.items()}
    several = sum(one.factor for one, _ in drawn) > 1
    first = _timed(problem, None, {one.name: one.alone for one, _ in drawn if one.factor and several}, repeats)
    rows = []
    for one, made in drawn:
        macs = problem.work(one.without)[1] / chosen.confirmed.cost.macs
        rows.append(Contribution(one, last[one.name], macs, *_drift(made, base, default), first.get(one.name)))
    return Ablation(last[WHOLE], rows, refused)


def _drawn(problem: Problem, base: Baseline, recipe: Recipe, ticks: Ticks) -> Pictures:
    if recipe == Recipe():
        return base.pictures
    return problem.draw(recipe, problem.samples[SPLIT], ticks)


def _drift(made: Pictures, base: Baseline, default: Drift) -> tuple[Estimate | None, Estimate | None]:
    try:
        found = compared(made, base.reference)
    except HastenError:  # not finite
        return None, None
    return relative(found, default, "latent_rmse"), found.flips


def _timed(
    problem: Problem, recipe: Recipe | None, others: Mapping[str, Recipe | None], repeats: int
) -> dict[str, Estimate]:
    """The time of a recipe over that of each of the others that can run; None is the default."""
    one = problem.single
    with ExitStack() as stack:
        run, calls = stack.enter_context(problem.running(recipe)), {}
        for name, other in others.items():
            try:
                calls[name] = functools.partial(stack.enter_context(problem.running(other)), one)
            except HastenError:  # it cannot do without the rest
                continue
        return timed_ratio(lambda: run(one), calls, repeats=repeats) if calls else {}


def _inverse(ratio: Estimate) -> Estimate:
    low, high = (math.inf if bound <= 0 else 1 / bound for bound in (ratio.high, ratio.low))
    return replace(ratio, value=1 / ratio.value, low=low, high=high)
