"""What a recipe may hold for the model at hand, as parameters that a search suggests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hasten.caches import CACHES
from hasten.core.registry import Registry, Span
from hasten.evaluate.problem import Problem
from hasten.evaluate.results import Trial
from hasten.fit import learns
from hasten.grids import GRIDS
from hasten.guidance import GUIDANCES
from hasten.recipe import Recipe
from hasten.runtime.anatomy import network_of
from hasten.search.executions import Execution, accepts, execution_of, executions
from hasten.search.starts import STARTS
from hasten.solvers import SOLVERS

CALLS = (3, 25)  # network evaluations of a recipe
NONE = "none"
ADDED = {"guidance": NONE, "cache": NONE}  # what may be added to a solver and its times; the words for none of it
WITHOUT = {"grid": "own"} | ADDED  # the pipeline's own times


@dataclass(frozen=True)
class Space:
    """The parameters of a search.

    solvers: label -> name and settings.
    methods: "grid", "guidance" and "cache" -> name of each method -> its settings -> what is tried for each.
    executions: label -> a way to execute the network's code that the model can have.
    """

    solvers: Mapping[str, Mapping[str, Any]]
    methods: Mapping[str, Mapping[str, Mapping[str, Any]]]
    executions: Mapping[str, Execution] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: Problem) -> Space:
        """What the model of a problem allows, found by asking the methods themselves."""
        network = network_of(problem.pipe)
        methods = {
            "grid": _methods(GRIDS, network),
            "guidance": _methods(GUIDANCES, network) if problem.guided else {},
            "cache": _methods(CACHES, network),
        }
        return cls(dict(_solvers()), methods, executions(network))

    def suggest(self, trial: Any) -> Recipe:
        """The recipe that an Optuna trial proposes; its attribute "execution" is a label of `executions`."""
        solver = self.solvers[trial.suggest_categorical("solver", list(self.solvers))]
        calls = trial.suggest_int("calls", *CALLS, log=True)
        steps = -(-calls // SOLVERS.build(solver).evaluations)
        grid, guidance, cache = (self._method(trial, kind) for kind in ("grid", "guidance", "cache"))
        run = self.executions.get(trial.user_attrs.get("execution", NONE), {})
        return Recipe(solver=solver, steps=steps, grid=grid, guidance=guidance, caches=[cache] if cache else [], **run)

    def at(self, calls: int, trial: Trial[Recipe]) -> Recipe:
        """The recipe of a trial with another number of network evaluations, its fits left to be made."""
        from optuna.trial import FixedTrial

        recipe = self.suggest(FixedTrial({**trial.params, "calls": calls}))
        return recipe.model_copy(update=execution_of(trial.way))

    def starts(self) -> list[dict[str, Any]]:
        """Parameters of the recipes to begin with: those of `STARTS` that the model can have."""
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
        return [*told, *([f"run as it is or: {'; '.join(self.executions)}"] if self.executions else [])]

    def _method(self, trial: Any, kind: str) -> dict[str, Any] | None:
        methods = self.methods[kind]
        name = trial.suggest_categorical(kind, [WITHOUT[kind], *methods]) if methods else WITHOUT[kind]
        return None if name == WITHOUT[kind] else {"name": name, **_suggested(trial, name, methods[name])}


def _suggested(trial: Any, at: str, search_space: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a method, each suggested under its path; of a part that is chosen, its settings as well."""
    settings: dict[str, Any] = {}
    for name, choice in search_space.items():
        path = f"{at}.{name}"
        if isinstance(choice, dict):
            part = trial.suggest_categorical(path, list(choice))
            settings[name] = {"name": part, **_suggested(trial, f"{path}.{part}", choice[part])}
        elif not isinstance(choice, Span):
            settings[name] = trial.suggest_categorical(path, list(choice))
        elif choice.whole:
            settings[name] = trial.suggest_int(path, choice.low, choice.high, log=choice.log)
        else:
            settings[name] = float(f"{trial.suggest_float(path, choice.low, choice.high, log=choice.log):.2g}")
    return settings


def _methods(registry: Registry[Any], network: Any) -> dict[str, dict[str, Any]]:
    """The methods, or parts, of a registry that are searched and that the network can have, with what is tried."""
    return {
        cls.name: {name: _choices(cls, name, choice, network) for name, choice in cls.search_space.items()}
        for cls in registry
        if cls.search_space is not None and accepts(cls, {}, network)
    }


def _choices(cls: Any, name: str, choice: Any, network: Any) -> Any:
    """What can be tried for a setting on this network: whole numbers as high as it takes them."""
    if isinstance(choice, Registry):
        return _methods(choice, network)
    if not isinstance(choice, Span) or not choice.whole:
        return choice
    highest = next((n for n in range(int(choice.high), int(choice.low), -1) if accepts(cls, {name: n}, network)), None)
    return Span(choice.low, choice.low if highest is None else highest, choice.log)


def _solvers() -> Iterator[tuple[str, dict[str, Any]]]:
    """By label, the solvers that follow the ODE, as the reference does, and that pipelines can run."""
    for cls in SOLVERS:
        made = cls()
        unfit = made.needs_fit and not learns(made)
        if made.stochastic or made.adaptive or unfit or made.warning:
            continue
        for fields in cls.search_space:
            label = " ".join([cls.name, *(f"{key}={value}" for key, value in fields.items())])
            yield label, {"name": cls.name, **fields}
