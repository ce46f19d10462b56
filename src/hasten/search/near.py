"""Recipes near one that is known to be good."""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random
from typing import Any

from hasten.search.space import ADDED

REACH = 0.1  # of its range, by which a number is moved at most


def near(params: Mapping[str, Any], ranges: Mapping[str, Any], random: Random) -> dict[str, Any]:
    """The parameters of a recipe with one of them changed: a number moved a little, or a choice made another way.

    params: of the recipe.
    ranges: parameter -> Optuna's distribution.
    random: decides which and how.
    """
    from optuna.distributions import CategoricalDistribution

    name = random.choice([path for path in params if not ranges[path].single()])
    old, allowed = params[name], ranges[name]
    if isinstance(allowed, CategoricalDistribution):
        return chosen(params, name, random.choice([choice for choice in allowed.choices if choice != old]))
    return {**params, name: _moved(old, allowed, random)}


def chosen(params: Mapping[str, Any], name: str, choice: Any) -> dict[str, Any]:
    """The parameters of a recipe with a choice made another way, without the settings of the old choice.

    params: of the recipe.
    name: of the parameter that is a choice.
    choice: the new one.
    """
    gone = (f"{params[name]}.", f"{name}.{params[name]}.")  # the settings of a method, and those of a part of one
    return {path: value for path, value in params.items() if not path.startswith(gone)} | {name: choice}


def simpler(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parameters of a recipe without one of its accelerations, for each that it has."""
    return [chosen(params, kind, word) for kind, word in ADDED.items() if params.get(kind, word) != word]


def _moved(old: float, allowed: Any, random: Random) -> float:
    """A number moved within its range; a whole one by 1 at least."""
    low, high = (math.log(x) if allowed.log else x for x in (allowed.low, allowed.high))
    at = (math.log(old) if allowed.log else old) + random.uniform(-REACH, REACH) * (high - low)
    new = min(max(math.exp(at) if allowed.log else at, allowed.low), allowed.high)
    if not isinstance(old, int):
        return new
    if round(new) != old:
        return round(new)
    beside = [number for number in (old - 1, old + 1) if allowed.low <= number <= allowed.high]
    return random.choice(beside)
