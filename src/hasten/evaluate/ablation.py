"""Measuring what each ingredient of a recipe contributes: the recipe without it, and the default with it alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from hasten.core.errors import HastenError
from hasten.evaluate.confirmation import SPLIT
from hasten.evaluate.contributions import Ablation, Contribution, Ingredient
from hasten.evaluate.problem import Pictures, Problem, Ticks
from hasten.evaluate.results import Baseline, Finalist
from hasten.evaluate.scores import compared
from hasten.measure import Drift, Estimate, relative, timed_ratio
from hasten.recipe import Recipe
from hasten.runtime.acceleration import Acceleration

STEPS, SOLVER, SCALE = "fewer steps", "solver", "guidance scale"
WHOLE = "the whole"
SOLVING: dict[str, Any] = {"solver": None, "grid": None, "end": "data"}  # a recipe's fields of the solver, left out


def ingredients(recipe: Recipe) -> list[Ingredient]:
    """Steps, solver, guidance scale and every acceleration that a recipe holds; none for an empty recipe.

    Without "fewer steps" the pipeline's own scheduler makes its own number of steps. Without "solver" it makes as
    many as the recipe makes network calls: that shows what solver and grid buy in drift, and is no factor of the
    speed-up unless they are all that is changed. Weights that were fitted stay as they are.
    """
    return [*_steps(recipe), *_guidance(recipe), *_accelerations(recipe)]


def _steps(recipe: Recipe) -> Iterator[Ingredient]:
    solving = {name: getattr(recipe, name) for name in SOLVING}
    if recipe.steps is not None:
        yield Ingredient(STEPS, _changed(recipe, steps=None, **SOLVING), Recipe(steps=recipe.steps, **solving))
    if recipe.solver is not None:
        calls = None if recipe.steps is None else recipe.steps * recipe.solver.evaluations
        yield Ingredient(SOLVER, _changed(recipe, steps=calls, **SOLVING), Recipe(**solving), recipe.steps is None)


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


def ablate(
    problem: Problem, base: Baseline, default: Drift, chosen: Finalist[Recipe], repeats: int = 5,
    ticks: Ticks = lambda count: None,
) -> Ablation:  # fmt: skip
    """Draw a finalist's recipe without each of its ingredients, and time that and the default with each alone.

    problem: with confirm samples.
    base: the default and the reference on these.
    default: the default's drift on these.
    chosen: the finalist.
    repeats: rounds of timing, in turn with the recipe and the default; at least 1.
    ticks: called as samples are drawn.
    """
    drawn: list[tuple[Ingredient, Pictures]] = []
    refused: dict[str, str] = {}
    for one in ingredients(chosen.way):
        try:
            drawn.append((one, _drawn(problem, base, one.without, ticks)))
        except HastenError as error:
            refused[one.name] = str(error)
    whole, last, first = _speeds(problem, chosen.way, [one for one, _ in drawn], repeats)
    rows = []
    for one, made in drawn:
        macs = problem.work(one.without)[1] / chosen.confirmed.cost.macs
        rows.append(Contribution(one, last[one.name], macs, *_drift(made, base, default), first.get(one.name)))
    return Ablation(whole, rows, refused)


def _drawn(problem: Problem, base: Baseline, recipe: Recipe, ticks: Ticks) -> Pictures:
    if recipe == Recipe():
        return base.pictures
    return problem.draw(recipe, problem.samples[SPLIT], ticks)


def _drift(made: Pictures, base: Baseline, default: Drift) -> tuple[Estimate | None, Estimate | None]:
    """Drift and flips; None where the pictures are not finite."""
    try:
        drift = compared(made, base.reference)
    except HastenError:
        return None, None
    return relative(drift, default, "latent_rmse"), drift.flips


def _speeds(
    problem: Problem, recipe: Recipe, parts: Iterable[Ingredient], repeats: int
) -> tuple[Estimate, dict[str, Estimate], dict[str, Estimate]]:
    """The speed-up of the whole; those of its ingredients as the last one added; and those of each alone.

    One that is the only factor is not timed alone: the whole tells its speed-up.
    """
    without = {one.name: one.without for one in parts}
    factors = {one.name: one.alone for one in parts if one.factor}
    last = {k: _inverse(ratio) for k, ratio in _timed(problem, recipe, {WHOLE: None} | without, repeats).items()}
    first = dict(_timed(problem, None, factors if len(factors) > 1 else {}, repeats))
    return last.pop(WHOLE), last, first


def _timed(
    problem: Problem, recipe: Recipe | None, others: Mapping[str, Recipe | None], repeats: int
) -> Mapping[str, Estimate]:
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
