"""A search without a model, and scores made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from hasten.compilers import TorchCompile
from hasten.core.registry import Span
from hasten.evaluate.budget import Budget, Score
from hasten.quantize import BFloat16
from hasten.recipe import Recipe
from hasten.search.judge import Verdict
from hasten.search.space import Space
from hasten.search.study import Search


def score(drift: float = 1.0, flips: float = 0.0, speed: float = 2.0, **medians: float) -> Score:
    return Score(drift, flips, speed, {"ssim": 0.9, "psnr": 30.0, "rmse": 0.1, **medians})


class Imagined:
    """A judge without a model: drift falls with steps, speed as well. Counts what it is asked."""

    default = score(flips=0.0, speed=1.0)
    margin = 0.1

    def __init__(self, stop: int | None = None, fail: int | None = None) -> None:
        self.asked: list[Any] = []
        self.stop, self.fail = stop, fail

    def fitted(self, recipe: Recipe) -> Recipe:
        return recipe

    def draw(self, recipe: Recipe) -> Recipe:
        self.asked.append(json.dumps(recipe.to_dict()))
        if len(self.asked) == self.stop:
            raise KeyboardInterrupt
        if len(self.asked) == self.fail:
            raise RuntimeError("out of luck")
        return recipe

    def score(self, recipe: Recipe) -> Score:
        steps = recipe.steps or 1
        return score(drift=10 / steps, speed=50 / steps)

    def complete(self, recipe: Recipe) -> bool:
        return (recipe.steps or 1) > 3

    def time(self, recipe: Recipe, known: Score, complete: bool) -> Verdict:
        times = 1 if recipe.compile is None else 2
        return Verdict(replace(known, speed=times * known.speed), recipe.steps or 1, complete)


def search(
    folder: Path | None = None, resume: bool = False, seed: int = 0, budget: str = "1x", shared: bool = False
) -> Search:
    solvers = {
        f"{name} order={order}": {"name": name, "order": order} for name in ("dpm++", "unipc") for order in (2, 3)
    }
    methods = {
        "grid": {"karras": {"rho": Span(1.0, 10.0)}, "logsnr": {}},
        "guidance": {"interval": {"low": Span(0.02, 1.0), "high": Span(2.0, 9.0)}},
        "cache": {"deepcache": {"interval": Span(2, 5)}},
    }
    executions = {"compiled": {"compile": TorchCompile()}, "bfloat16": {"quantize": BFloat16()}}
    return Search(Space(solvers, methods, executions), Budget.of(budget), seed, folder, resume, shared)


FOREVER = float("inf")


FOREVER = float("inf")
