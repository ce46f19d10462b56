"""Recipes near one that is known to be good."""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random
from typing import Any

REACH = 0.1  # of its range, that a number is moved by at most


def near(params: Mapping[str, Any], ranges: Mapping[str, Any], random: Random) -> dict[str, Any]:
    """The parameters of a recipe with one of them changed: a number moved a little, a choice made another way.

    ranges: by parameter, Optuna's distributions. Where another choice was made, what hung on the old one is left out.
    """
    from optuna.distributions import CategoricalDistribution

    name = random.choice([path for path in params if not ranges[path].single()])
    old, tried = params[name], ranges[name]
    if isinstance(tried, CategoricalDistribution):
        others = [choice for choice in tried.choices if choice != old]
        gone = (f"{old}.", f"{name}.{old}.")  # where the settings of a method are, and those of a part of one
        kept = {path: value for path, value in params.items() if not path.startswith(gone)}
        return {**kept, name: random.choice(others)}
    return {**params, name: _moved(old, tried, random)}


def _moved(old: float, tried: Any, random: Random) -> float:
    """A number of a range some way off; a whole one by 1 at least."""
    low, high = (math.log(x) if tried.log else x for x in (tried.low, tried.high))
    at = (math.log(old) if tried.log else old) + random.uniform(-REACH, REACH) * (high - low)
    new = min(max(math.exp(at) if tried.log else at, tried.low), tried.high)
    if not isinstance(old, int):
        return new
    if round(new) != old:
        return round(new)
    beside = [number for number in (old - 1, old + 1) if tried.low <= number <= tried.high]
    return random.choice(beside)
