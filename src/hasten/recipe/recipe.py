"""What a recipe is: fields, what they may hold, and their way to JSON and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from hasten.caches import CACHES
from hasten.caching.cache import Cache
from hasten.compilers import COMPILERS, Compiler
from hasten.core.errors import HastenError, positive_int, unknown
from hasten.core.files import save_tensors, write_json
from hasten.core.registry import Registry
from hasten.grids import ENDS, GRIDS, Explicit, Grid, resolve
from hasten.guidance import GUIDANCES
from hasten.guidance.base import GuidanceMethod
from hasten.prune import PRUNERS, Pruner
from hasten.quantize import QUANTIZERS, Quantizer
from hasten.recipe.files import RECIPE, TENSORS, joined, parsed, split
from hasten.recipe.versions import VERSION, current
from hasten.runtime.acceleration import Acceleration, ordered
from hasten.solvers import SOLVERS, Solver

FAMILIES: dict[str, Registry[Any]] = {
    "guidance": GUIDANCES, "caches": CACHES, "prune": PRUNERS, "quantize": QUANTIZERS, "compile": COMPILERS,
}  # fmt: skip
"""The registries of accelerations by the field of a recipe that holds one of theirs, in the order of phases."""

_ONE = {"solver": SOLVERS} | {name: FAMILIES[name] for name in ("prune", "quantize", "compile")}


class Guidance(pydantic.BaseModel):
    """How strongly and in which way to guide. As data: a number is a scale; an object may hold both.

    scale: as the pipeline's guidance_scale, at least 0.
    method: one of `GUIDANCES`.
    """

    model_config = pydantic.ConfigDict(frozen=True, arbitrary_types_allowed=True, extra="forbid")
    scale: float | None = None
    method: GuidanceMethod | None = None

    @pydantic.field_validator("scale")
    @classmethod
    def _scale(cls, value: float | None) -> float | None:
        if value is not None and not (0 <= value < float("inf")):
            raise HastenError(f"guidance.scale: {value} is not possible; give a number of at least 0")
        return value


class Recipe(pydantic.BaseModel):
    """How to run a pipeline. Fields left out are as the pipeline's authors ship it.

    solver: a Solver, name or object.
    steps: at least 1.
    grid: a Grid, name, object or list of decreasing times; with a solver only.
    end: "data" (the last step returns the data prediction) or "min" (stop at the smallest time).
    guidance: a number (the scale), or an object with "scale" and/or the name and fields of a method of `GUIDANCES`.
    caches: methods of `CACHES`, each at most once.
    prune: a method of `PRUNERS`.
    quantize: a method of `QUANTIZERS`.
    compile: a method of `COMPILERS`.

    Raises HastenError (one line: field, value, what would be right) for anything unknown or contradictory.
    """

    model_config = pydantic.ConfigDict(frozen=True, arbitrary_types_allowed=True, extra="allow")
    version: int = VERSION
    solver: Solver | None = None
    steps: int | None = None
    grid: Grid | None = None
    end: str = "data"
    guidance: Guidance | None = None
    caches: tuple[Cache, ...] = ()
    prune: Pruner | None = None
    quantize: Quantizer | None = None
    compile: Compiler | None = None

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except pydantic.ValidationError as error:
            raise _one_line(error) from None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _prepared(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields of the current version that say something, with the steps that explicit times imply."""
        fields = current(fields)
        for key in fields:
            if key not in cls.model_fields:
                raise unknown("recipe", key, cls.model_fields)
        fields = {key: value for key, value in fields.items() if value is not None and value is not False}
        if "grid" in fields:
            fields["grid"] = resolve(fields["grid"])
            if isinstance(fields["grid"], Explicit):
                fields["steps"] = _implied(fields["grid"], fields.get("steps"))
        return fields

    @pydantic.field_validator(*_ONE, mode="before")
    @classmethod
    def _method(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        return _ONE[str(info.field_name)].build(value)

    @pydantic.field_validator("steps", mode="before")
    @classmethod
    def _steps(cls, value: Any) -> int:
        return positive_int("steps", value)

    @pydantic.field_validator("end")
    @classmethod
    def _end(cls, value: str) -> str:
        if value not in ENDS:
            raise unknown("end", value, ENDS)
        return value

    @pydantic.field_validator("guidance", mode="before")
    @classmethod
    def _guidance(cls, value: Any) -> Guidance:
        if isinstance(value, Guidance):
            return value
        if type(value) in (int, float):
            return Guidance(scale=float(value))
        if isinstance(value, Mapping) and "name" not in value:
            for key in value:
                if key != "scale":
                    raise unknown("guidance", key, ["scale", "name"])
            return Guidance(scale=value.get("scale"))
        if isinstance(value, Mapping):
            method = {key: field for key, field in value.items() if key != "scale"}
            return Guidance(scale=value.get("scale"), method=GUIDANCES.build(method))
        return Guidance(method=GUIDANCES.build(value))

    @pydantic.field_validator("caches", mode="before")
    @classmethod
    def _caches(cls, value: Any) -> tuple[Cache, ...]:
        specs = value if isinstance(value, list | tuple) else [value]
        return tuple(CACHES.build(spec) for spec in specs)

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> Recipe:
        if self.solver is None and (self.grid is not None or self.end != "data"):
            raise HastenError("grid: the pipeline's own scheduler places its own times; name a solver as well")
        ordered(self.accelerations)
        return self

    @property
    def accelerations(self) -> list[Acceleration]:
        """The context managers of the recipe, in the order of phases."""
        guided = self.guidance.method if self.guidance else None
        methods = (guided, *self.caches, self.prune, self.quantize, self.compile)
        return [method for method in methods if method is not None]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the fields that are left at their defaults. Fitted tensors stay tensors."""
        data: dict[str, Any] = {"version": self.version}
        if self.solver is not None:
            data["solver"] = SOLVERS.describe(self.solver)
        if self.steps is not None:
            data["steps"] = self.steps
        if self.grid is not None:
            data["grid"] = GRIDS.describe(self.grid)
        if self.end != "data":
            data["end"] = self.end
        if self.guidance is not None:
            scale = {} if self.guidance.scale is None else {"scale": self.guidance.scale}
            data["guidance"] = scale | (GUIDANCES.describe(self.guidance.method) if self.guidance.method else {})
        if self.caches:
            data["caches"] = [CACHES.describe(cache) for cache in self.caches]
        rest = {name: getattr(self, name) for name in ("prune", "quantize", "compile")}
        return data | {name: FAMILIES[name].describe(method) for name, method in rest.items() if method is not None}

    def to_json(self) -> str:
        """The recipe as JSON. Raises HastenError if it holds fitted tensors: `save` keeps those beside it."""
        plain, tensors = split(self.to_dict())
        if tensors:
            raise HastenError(f"recipe: {', '.join(tensors)} holds fitted tensors; use save(folder) instead")
        return json.dumps(plain, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """The recipe in a JSON text."""
        return cls(**parsed(text, "recipe"))

    def save(self, folder: str | Path) -> None:
        """Write recipe.json, and tensors.safetensors beside it if anything in the recipe was fitted."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        plain, tensors = split(self.to_dict())
        if tensors:
            save_tensors(folder / TENSORS, tensors)
        write_json(folder / RECIPE, plain)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a folder written by `save`, or one JSON file."""
        path = Path(path)
        file = path / RECIPE if path.is_dir() else path
        if not file.is_file():
            raise HastenError(f"recipe: there is no file {file}; give a recipe.json or the folder that holds one")
        return cls(**joined(parsed(file.read_text(), str(file)), file.parent / TENSORS))

    @classmethod
    def of(cls, recipe: Recipe | Mapping[str, Any] | str | Path) -> Recipe:
        """A recipe from a Recipe, a mapping, a path, or JSON text."""
        if isinstance(recipe, Recipe):
            return recipe
        if isinstance(recipe, Mapping):
            return cls(**recipe)
        text = str(recipe)
        return cls.from_json(text) if text.lstrip().startswith("{") else cls.load(text)


def _implied(grid: Explicit, steps: Any) -> int:
    """How many steps explicit times make. Raises HastenError if `steps` says otherwise."""
    implied = len(grid.at) - 1
    if implied < 1:
        raise HastenError("grid: explicit times must be at least two")
    if steps not in (None, implied):
        raise HastenError(f"steps: {steps} contradicts the {implied} steps of the explicit grid; leave it out")
    return implied


def _one_line(error: pydantic.ValidationError) -> HastenError:
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, HastenError):
        return cause
    field = ".".join(str(part) for part in first["loc"])
    return HastenError(f"{field}: {first.get('input')!r} is not possible; {first['msg'].lower()}")
