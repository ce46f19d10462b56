"""What each ingredient of a recipe contributes to it, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hasten.measure import Estimate
from hasten.recipe import Recipe

LEAST = 1.1  # of the whole's speed-up, for its logarithm to be divided into parts
CLOSED = 0.15  # how far the parts may sum from the whole


@dataclass(frozen=True)
class Ingredient:
    """A part of a recipe.

    name: of the part.
    without: the recipe without it.
    alone: a recipe that holds nothing else; None if there is no such recipe.
    factor: whether its speed-up is a factor of the whole recipe's.
    """

    name: str
    without: Recipe
    alone: Recipe | None = None
    factor: bool = True


@dataclass(frozen=True)
class Contribution:
    """What an ingredient was measured to contribute.

    ingredient: which.
    last: the time of the recipe without it over that of the whole recipe: its speed-up as the last one added.
    macs: the same ratio of multiply-adds.
    drift: of the recipe without it, over the default's; None where that recipe diverges.
    flips: of the recipe without it; None where that recipe diverges.
    first: the default's time over that of the default with this ingredient alone; None where it was not timed.
    """

    ingredient: Ingredient
    last: Estimate
    macs: float
    drift: Estimate | None
    flips: Estimate | None
    first: Estimate | None = None

    @property
    def speed(self) -> Estimate:
        """How much faster it makes the whole: the geometric mean of being added first and last.

        Where ingredients help or hinder each other in pairs, these multiply to the whole exactly.
        """
        if self.first is None:
            return self.last
        means = {k: math.sqrt(getattr(self.first, k) * getattr(self.last, k)) for k in ("value", "low", "high")}
        return replace(self.last, **means)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
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
    """The contributions to one recipe.

    whole: the default's time over the recipe's, timed together with the contributions.
    rows: the contributions.
    refused: ingredients that the recipe cannot run without -> why.
    """

    whole: Estimate
    rows: Sequence[Contribution]
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of the ingredients."""
        return [row.ingredient.name for row in self.rows]

    @property
    def factors(self) -> list[float]:
        """The speed-ups of the ingredients that should multiply to the whole's."""
        return [row.speed.value for row in self.rows if row.ingredient.factor]

    @property
    def product(self) -> float:
        """The factors, multiplied."""
        return math.prod(self.factors)

    @property
    def closure(self) -> float | None:
        """The summed log speed-ups of the ingredients over the log speed-up of the whole: 1 if they are independent.

        None where the whole has no speed-up to divide.
        """
        if self.whole.value < LEAST or not self.rows:
            return None
        return math.log(self.product) / math.log(self.whole.value)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "whole": self.whole.to_json(),
            "rows": [row.to_json() for row in self.rows],
            "product": self.product,
            "closure": self.closure,
            "refused": dict(self.refused),
        }
