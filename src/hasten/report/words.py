"""Recipes in words and numbers, short enough to be read."""

from __future__ import annotations

from dataclasses import fields as fields_of
from typing import Any

from torch import Tensor

from hasten.recipe import Recipe
from hasten.solvers import Solver

READABLE = 4  # numbers of a setting that are spelled out
ROW = 8  # numbers of a row that are shown on the page
OF_THE_SOLVER = ("version", "solver", "steps", "grid", "end")


def words(recipe: Recipe) -> str:
    """A recipe in a few words: solver, steps, grid and accelerations, with the settings that are not the usual ones."""
    parts = []
    if recipe.solver is not None:
        parts.append(_solver(recipe.solver))
    if recipe.steps is not None:
        parts.append(f"{recipe.steps} steps")
    data = recipe.to_dict()
    if recipe.grid is not None:
        parts.append(_grid(data["grid"]))
    rest = {field: value for field, value in data.items() if field not in OF_THE_SOLVER}
    for field, value in rest.items():
        parts += [_described(one, field) for one in (value if isinstance(value, list) else [value])]
    return ", ".join(parts) or "the default"


def _solver(solver: Solver) -> str:
    """Its class, its order if it has one, and its settings that are not the usual ones; long rows as "fitted"."""
    usual = type(solver)()
    fields = {f.name: getattr(solver, f.name) for f in fields_of(solver)}  # type: ignore[arg-type]
    told = {name: value for name, value in fields.items() if name == "order" or value != getattr(usual, name)}
    rows = {name: value for name, value in told.items() if isinstance(value, tuple | Tensor)}
    fitted = any(len(value) > READABLE for value in rows.values())
    short = [f"{name} {value}" for name, value in told.items() if not (fitted and name in rows)]
    return " ".join([type(solver).__name__, *short, *(["fitted"] if fitted else [])])


def _grid(grid: dict[str, Any]) -> str:
    if grid["name"] == "uniform":
        return f"{grid.get('spacing', 'trailing')} times"
    if grid["name"] == "explicit":
        return "times of its own"
    return f"{_described(grid, 'grid')} times"


def _described(value: dict[str, Any], field: str) -> str:
    fields = [f"{key} {_part(setting)}" for key, setting in value.items() if key not in ("name", "at")]
    return " ".join([value.get("name", field), *fields])


def _part(setting: Any) -> Any:
    """A setting that is a part with settings of its own: its name, and those in brackets."""
    if not isinstance(setting, dict) or "name" not in setting:
        return setting
    name, *own = setting["name"], *(f"{key} {_part(value)}" for key, value in setting.items() if key != "name")
    return f"{name} ({', '.join(own)})" if own else name


def shortened(data: Any) -> Any:
    """Plain data in which tensors and long rows of numbers are replaced by a few words."""
    if isinstance(data, Tensor):
        return f"{data.numel()} fitted numbers"
    if isinstance(data, dict):
        return {key: shortened(value) for key, value in data.items()}
    if not isinstance(data, list | tuple):
        return data
    if len(data) > ROW and all(isinstance(value, int | float) for value in data):
        return f"{data[0]:.4g}, {data[1]:.4g}, … {data[-1]:.4g} ({len(data)} numbers)"
    return [shortened(value) for value in data]
