"""Ways to execute the network: compilers, memory layouts, number formats and prunings, which go with any recipe."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from hasten.compilers import COMPILERS
from hasten.core.errors import HastenError
from hasten.core.registry import Registry, Span
from hasten.prune import PRUNERS
from hasten.quantize import QUANTIZERS
from hasten.recipe import Recipe
from hasten.runtime.acceleration import Acceleration

REGISTRIES: tuple[Registry[Any], ...] = (COMPILERS, QUANTIZERS, PRUNERS)  # in the order of trying them
QUANTIZE, COMPILE = QUANTIZERS.field, COMPILERS.field

Execution = Mapping[str, Acceleration]
"""Recipe field -> method."""


def executions(network: nn.Module) -> dict[str, Execution]:
    """The ways to execute a network that a search tries on its best recipes, by label.

    Every method that has a search space and accepts the network is tried alone, with each of its settings. Then every
    quantizer is tried together with every compiler that prepares, at its usual settings.

    network: of the pipeline that is searched for.
    """
    alone: dict[str, Execution] = {}
    for registry in REGISTRIES:
        alone |= {_label(registry, method): {registry.field: method} for method in _methods(registry, network)}
    pairs = {
        f"{first}, {second}": {QUANTIZE: way[QUANTIZE], COMPILE: other[COMPILE]}
        for (first, way), (second, other) in itertools.product(alone.items(), alone.items())
        if QUANTIZE in way and COMPILE in other and _prepares_as_usual(other[COMPILE])
    }
    return alone | pairs


def worth_timing(execution: Execution, ways: Mapping[str, Execution], speeds: Mapping[str, float]) -> bool:
    """Whether a way should be timed: every method alone, and the pairs of the quantizer that is fastest alone.

    execution: the way in question.
    ways: all of them, by label.
    speeds: of those that were timed before, by label.
    """
    if len(execution) == 1:
        return True
    quantizers = [label for label in speeds if list(ways[label]) == [QUANTIZE]]
    return execution[QUANTIZE] == ways[max(quantizers, key=lambda label: speeds[label])][QUANTIZE]


def prepares(execution: Execution) -> bool:
    """Whether a way takes long before the first image, as compiling does."""
    return getattr(execution.get(COMPILE), "prepares", False)


def execution_of(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe that say how the network's code is executed; None where it is as usual."""
    return {registry.field: getattr(recipe, registry.field) for registry in REGISTRIES}


def accepts(cls: Any, fields: Mapping[str, Any], network: nn.Module) -> bool:
    """Whether a network can have a method with some settings. A part of a method without `check` can always be had."""
    try:
        made = cls(**fields)
        getattr(made, "check", lambda network: None)(network)
    except (HastenError, ImportError):
        return False
    return True


def _methods(registry: Registry[Any], network: nn.Module) -> Iterator[Any]:
    """The methods of a registry that are searched and accept the network, with each of their settings."""
    for cls in registry:
        space: Mapping[str, Any] | None = cls.search_space
        if space is None:
            continue
        for values in itertools.product(*map(_choices, space.values())):
            fields = dict(zip(space, values))
            if accepts(cls, fields, network):
                yield cls(**fields)


def _choices(choice: Any) -> list[Any]:
    """What is tried for a setting; of a range its two ends."""
    return [choice.low, choice.high] if isinstance(choice, Span) else list(choice)


def _label(registry: Registry[Any], method: Acceleration) -> str:
    """The method's label (its name if it has none) and its settings that are not the usual ones."""
    words = [method.label or method.name]
    for name, value in registry.describe(method).items():
        if name != "name":
            words.append(name.replace("_", "-") if value is True else f"{name.replace('_', '-')} {value}")
    return ", ".join(words)


def _prepares_as_usual(compiler: Any) -> bool:
    return compiler.prepares and compiler == type(compiler)()
