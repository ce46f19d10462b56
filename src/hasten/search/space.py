"""What a recipe may hold for the model at hand, as parameters that a search suggests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hasten.caches import CACHES
from hasten.core.errors import HastenError
from hasten.core.registry import Registry, Span
from hasten.evaluate.problem import Problem
from hasten.fit import learns
from hasten.grids import GRIDS
from hasten.guidance import GUIDANCES
from hasten.recipe import Recipe
from hasten.runtime.anatomy import network_of
from hasten.solvers import SOLVERS

CALLS = (3, 25)  # network evaluations of a recipe
NONE = "none"
ADDED = {"guidance": NONE, "cache": NONE}  # what may be added to a solver and its times; the words for none of it
WITHOUT = {"grid": "own"} | ADDED  # the pipeline's own times

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
"""Settings of a solver that are worth a try; every other solver without noise or `warning` is tried as it is."""

_KARRAS = {"grid": "karras", "karras.rho": 6.0}
_SHIFTED = {"grid": "flow-shifted", "flow-shifted.shift": 0.6}
_BENT = {"grid": "bent", "bent.slope": 0.0, "bent.curve": 0.0, "bent.twist": 0.0, "bent.rest": 1.0}
_BNS = {"solver": "bns order=4"}
STARTS: tuple[dict[str, Any], ...] = (
    _BNS | _KARRAS | {"calls": 10},
    _BNS | _SHIFTED | {"calls": 6},
    _BNS | _KARRAS | {"calls": 8},
    _BNS | _BENT | {"calls": 9},
    _BNS | _KARRAS | {"calls": 12, "karras.rho": 5.0},
    _BNS | _SHIFTED | {"calls": 8},
    _BNS | _KARRAS | {"calls": 10, "guidance": "reuse", "reuse.interval": 2},
    _BNS | _BENT | {"calls": 12},
    {"solver": "unipc order=2", "calls": 14} | _KARRAS,
    _BNS | _SHIFTED | {"calls": 5},
    _BNS | _KARRAS | {"calls": 15, "karras.rho": 5.0},
    _BNS | _KARRAS | {"calls": 12, "cache": "deepcache", "deepcache.interval": 2, "deepcache.branch": 3},
    _BNS | _KARRAS | {"calls": 10, "guidance": "interval", "interval.low": 0.08, "interval.high": 15.0},
    _BNS | _SHIFTED | {"calls": 10, "cache": "first-block", "first-block.threshold": 0.05},
    {"solver": "dpm++ order=2", "calls": 15} | _KARRAS,
    {"solver": "unipc order=2", "calls": 14, "grid": "own"},
)  # fmt: skip
"""Recipes that did well elsewhere, as parameters; what a model cannot have is left out."""

RUNS: dict[str, dict[str, Any]] = {
    "channels-last": {"compile": {"name": "channels-last"}},
    "compiled": {"compile": {"name": "torch-compile"}},
    "compiled, channels-last": {"compile": {"name": "torch-compile", "channels_last": True}},
    "bfloat16": {"quantize": {"name": "bfloat16"}},
    "bfloat16, compiled": {"quantize": {"name": "bfloat16"}, "compile": {"name": "torch-compile"}},
}
"""Ways to run the network's code that go with any recipe; those that pay are tried on the best recipes of a search."""


@dataclass(frozen=True)
class Space:
    """The parameters of a search.

    solvers: by label. methods: of "grid", "guidance" and "cache", by name, the settings to try. runs: labels of `RUNS`
    that the model can have.
    """

    solvers: dict[str, dict[str, Any]]
    methods: dict[str, dict[str, dict[str, Any]]]
    runs: tuple[str, ...] = ()

    @classmethod
    def of(cls, problem: Problem) -> Space:
        """What the model of a problem allows, found by asking the methods themselves."""
        network = network_of(problem.pipe)
        methods = {
            "grid": _methods(GRIDS, network),
            "guidance": _methods(GUIDANCES, network) if problem.guided else {},
            "cache": _methods(CACHES, network),
        }
        return cls(dict(_solvers()), methods, tuple(run for run in RUNS if _runs(run, network)))

    def suggest(self, trial: Any) -> Recipe:
        """The recipe an Optuna trial proposes."""
        solver = self.solvers[trial.suggest_categorical("solver", list(self.solvers))]
        calls = trial.suggest_int("calls", *CALLS, log=True)
        steps = -(-calls // SOLVERS.build(solver).evaluations)
        grid, guidance, cache = (self._method(trial, kind) for kind in ("grid", "guidance", "cache"))
        run = RUNS.get(trial.user_attrs.get("run", NONE), {})
        return Recipe(solver=solver, steps=steps, grid=grid, guidance=guidance, caches=[cache] if cache else [], **run)

    def starts(self) -> list[dict[str, Any]]:
        """Parameters of recipes to begin with."""
        known = {kind: (WITHOUT[kind], *methods) for kind, methods in self.methods.items()}
        return [
            start
            for start in (WITHOUT | start for start in STARTS)
            if start["solver"] in self.solvers and all(start[kind] in names for kind, names in known.items())
        ]

    def describe(self) -> list[str]:
        """What is searched, in words."""
        told = [f"solvers: {', '.join(self.solvers)}", f"{CALLS[0]} to {CALLS[1]} network evaluations"]
        told += [f"{kind}: {WITHOUT[kind]}, {', '.join(methods)}" for kind, methods in self.methods.items() if methods]
        return [*told, *([f"run as it is or: {'; '.join(self.runs)}"] if self.runs else [])]

    def _method(self, trial: Any, kind: str) -> dict[str, Any] | None:
        methods = self.methods[kind]
        name = trial.suggest_categorical(kind, [WITHOUT[kind], *methods]) if methods else WITHOUT[kind]
        return None if name == WITHOUT[kind] else {"name": name, **_suggested(trial, name, methods[name])}


def is_plain(recipe: Recipe) -> bool:
    """Whether a recipe changes the solver and its times only: the fair baseline of every other acceleration."""
    return not recipe.accelerations


def _suggested(trial: Any, at: str, tried: dict[str, Any]) -> dict[str, Any]:
    """Settings of a method, each suggested under its path; of a part that is chosen, its settings as well."""
    found: dict[str, Any] = {}
    for field, choice in tried.items():
        path = f"{at}.{field}"
        if isinstance(choice, dict):
            name = trial.suggest_categorical(path, list(choice))
            found[field] = {"name": name, **_suggested(trial, f"{path}.{name}", choice[name])}
        elif not isinstance(choice, Span):
            found[field] = trial.suggest_categorical(path, list(choice))
        elif choice.whole:
            found[field] = trial.suggest_int(path, choice.low, choice.high, log=choice.log)
        else:
            found[field] = float(f"{trial.suggest_float(path, choice.low, choice.high, log=choice.log):.2g}")
    return found


def _methods(family: Registry[Any], network: Any) -> dict[str, dict[str, Any]]:
    """The methods, or parts, of a family that a search tries and the network can have, with what is tried."""
    found = {}
    for cls in family:
        if cls.search_space is not None and _accepts(cls, {}, network):
            found[cls.name] = {
                field: _choices(cls, field, choice, network) for field, choice in cls.search_space.items()
            }
    return found


def _choices(cls: Any, field: str, choice: Any, network: Any) -> Any:
    """What can be tried for a setting on this network: whole numbers as high as it takes them."""
    if isinstance(choice, Registry):
        return _methods(choice, network)
    if not isinstance(choice, Span) or not choice.whole:
        return choice
    highest = next(
        (n for n in range(int(choice.high), int(choice.low), -1) if _accepts(cls, {field: n}, network)), None
    )
    return Span(choice.low, choice.low if highest is None else highest, choice.log)


def _accepts(cls: Any, fields: dict[str, Any], network: Any) -> bool:
    """Whether a network can have a method with some settings. Parts of a method that do not say can be had."""
    try:
        made = cls(**fields)
        getattr(made, "check", lambda network: None)(network)
    except (HastenError, ImportError):
        return False
    return True


def _runs(label: str, network: Any) -> bool:
    """Whether a network can be run so."""
    try:
        for acceleration in Recipe(**RUNS[label]).accelerations:
            acceleration.check(network)
    except HastenError:
        return False
    return True


def _solvers() -> Iterator[tuple[str, dict[str, Any]]]:
    for cls in SOLVERS:
        made = cls()
        unfit = made.needs_fit and not learns(made)
        if made.stochastic or made.adaptive or unfit or made.warning:
            continue  # the reference is a solution of the ODE; pipelines cannot run the adaptive ones
        for fields in VARIANTS.get(cls.name, [{}]):
            label = " ".join([cls.name, *(f"{key}={value}" for key, value in fields.items())])
            yield label, {"name": cls.name, **fields}
