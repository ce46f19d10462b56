"""What a recipe may hold for the model at hand, as parameters that a search suggests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hasten.acceleration import network_of
from hasten.caches import DeepCache
from hasten.errors import UnsupportedModel
from hasten.guidance import GuidanceInterval
from hasten.recipe import Recipe
from hasten.solvers import SOLVERS
from hasten.tune.problem import Problem

CALLS = (3, 25)  # network evaluations of a recipe
INTERVALS = (2, 5)
BRANCHES = 6  # how many branches of a cache are tried at most

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "dpm++": [
        {"order": 2}, {"order": 2, "rule": "exact"}, {"order": 3}, {"order": 3, "compat": True},
        {"order": 2, "method": "singlestep"},
    ],
    "unipc": [
        {"order": 1}, {"order": 2}, {"order": 3}, {"order": 2, "variant": "bh1"}, {"order": 3, "variant": "bh1"},
        {"order": 2, "corrector": False}, {"order": 3, "corrector": False},
    ],
    "bns": [{"order": 2}, {"order": 4}],
    "deis": [{"order": 2}, {"order": 3}, {"order": 3, "variable": "log-rho"}],
    "ipndm": [{"order": 2}, {"order": 4}],
    "euler": [],  # the same steps as ddim
    "edict": [], "bdia": [], "bdia-edm": [],  # made for inversion
}  # fmt: skip
"""Settings of a solver that are worth a try; every other solver without noise or `caution` is tried as it is."""

GRIDS: dict[str, tuple[str, float, float, float] | None] = {
    "own": None,  # where the pipeline's own scheduler would look
    "trailing": None,
    "linspace": None,
    "logsnr": None,
    "karras": ("rho", 1.0, 10.0, 0.5),
    "quadratic": ("power", 0.6, 3.0, 0.1),
    "flow-shifted": ("shift", 0.2, 6.0, 0.1),
}
"""Grids, and for some the parameter that is searched: name, lowest, highest, step."""

_KARRAS = {"grid": "karras", "rho": 6.0}
STARTS: tuple[dict[str, Any], ...] = (
    _KARRAS | {"solver": "bns order=4", "calls": 10},
    {"solver": "bns order=4", "calls": 6, "grid": "flow-shifted", "shift": 0.6},
    _KARRAS | {"solver": "bns order=4", "calls": 8},
    _KARRAS | {"solver": "bns order=4", "calls": 12, "rho": 5.0},
    _KARRAS | {"solver": "unipc order=2", "calls": 14},
    _KARRAS | {"solver": "unipc order=1", "calls": 14},
    _KARRAS | {"solver": "dpm++ order=2", "calls": 15},
    _KARRAS | {"solver": "ddim", "calls": 12},
    {"solver": "unipc order=2", "calls": 14, "grid": "own"},
    {"solver": "dpm++ order=2", "calls": 20, "grid": "trailing"},
    _KARRAS | {"solver": "unipc order=2", "calls": 14, "guide": "interval", "low": 0.08, "high": 15.0},
    _KARRAS | {"solver": "unipc order=1", "calls": 16, "cache": "deepcache", "interval": 2, "branch": 3},
)
"""Recipes that did well elsewhere, as parameters; what a model cannot have is left out."""


@dataclass(frozen=True)
class Space:
    """The parameters of a search: solvers by label, whether guidance can be skipped, branches of a cache (or 0)."""

    solvers: dict[str, dict[str, Any]]
    guided: bool
    branches: int

    @classmethod
    def of(cls, problem: Problem) -> Space:
        """What the model of a problem allows, found by asking the methods themselves."""
        network = network_of(problem.pipe)
        guided = problem.guided and _accepts(GuidanceInterval(low=0.1), network)
        branches = next((b for b in range(BRANCHES) if not _accepts(DeepCache(branch=b), network)), BRANCHES)
        return cls(dict(_solvers()), guided, branches)

    def suggest(self, trial: Any) -> Recipe:
        """The recipe an Optuna trial proposes."""
        solver = self.solvers[trial.suggest_categorical("solver", list(self.solvers))]
        calls = trial.suggest_int("calls", *CALLS, log=True)
        steps = -(-calls // SOLVERS.build(solver).evaluations)
        parts = {"grid": self._grid(trial), "guidance": self._guidance(trial), "caches": self._caches(trial)}
        return Recipe(solver=solver, steps=steps, **parts)

    def starts(self) -> list[dict[str, Any]]:
        """Parameters of recipes to begin with."""
        return [
            {"guide": "always", "cache": "none"} | start
            for start in STARTS
            if start["solver"] in self.solvers
            and (self.guided or "guide" not in start)
            and start.get("branch", -1) < self.branches
        ]

    def describe(self) -> list[str]:
        """What is searched, in words."""
        grids = ", ".join(f"{name} ({field[0]})" if field else name for name, field in GRIDS.items())
        parts = [
            f"solvers: {', '.join(self.solvers)}",
            f"{CALLS[0]} to {CALLS[1]} network evaluations",
            f"grids: {grids}",
        ]
        if self.guided:
            parts.append("guidance at all noise levels or within an interval of them")
        if self.branches:
            parts.append(
                f"no cache or DeepCache, interval {INTERVALS[0]} to {INTERVALS[1]}, branch 0 to {self.branches - 1}"
            )
        return parts

    def _grid(self, trial: Any) -> dict[str, Any] | None:
        name = trial.suggest_categorical("grid", list(GRIDS))
        field = GRIDS[name]
        if field is None:
            return None if name == "own" else {"name": name}
        label, low, high, step = field
        return {"name": name, label: round(trial.suggest_float(label, low, high, step=step), 3)}

    def _guidance(self, trial: Any) -> dict[str, Any] | None:
        if not self.guided or trial.suggest_categorical("guide", ["always", "interval"]) == "always":
            return None
        low, high = trial.suggest_float("low", 0.02, 1.5, log=True), trial.suggest_float("high", 1.5, 15.0, log=True)
        return {"name": GuidanceInterval.name, "low": float(f"{low:.2g}"), "high": float(f"{high:.2g}")}

    def _caches(self, trial: Any) -> list[dict[str, Any]]:
        if not self.branches or trial.suggest_categorical("cache", ["none", "deepcache"]) == "none":
            return []
        interval = trial.suggest_int("interval", *INTERVALS)
        branch = trial.suggest_int("branch", 0, self.branches - 1)
        return [{"name": DeepCache.name, "interval": interval, "branch": branch}]


def is_plain(recipe: Recipe) -> bool:
    """Whether a recipe changes the solver and its times only: the fair baseline of every other acceleration."""
    return not recipe.accelerations


def _solvers() -> Iterator[tuple[str, dict[str, Any]]]:
    for cls in SOLVERS:
        made = cls()
        unfit = made.needs_fit and made.learning(None) is None
        if made.stochastic or made.adaptive or unfit or made.caution:
            continue  # the reference is a solution of the ODE; pipelines cannot run the adaptive ones
        for fields in VARIANTS.get(cls.name, [{}]):
            label = " ".join([cls.name, *(f"{key}={value}" for key, value in fields.items())])
            yield label, {"name": cls.name, **fields}


def _accepts(method: Any, network: Any) -> bool:
    try:
        method.check(network)
    except UnsupportedModel:
        return False
    return True
