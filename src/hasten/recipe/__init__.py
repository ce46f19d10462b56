"""A recipe: everything that changes how a pipeline runs, as data; and the pipeline that runs by it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pydantic
import torch

from hasten.caches import CACHES, Cache
from hasten.compilers import COMPILERS, Compiler
from hasten.core.errors import HastenError, positive_int, unknown
from hasten.core.registry import Registry
from hasten.grids import ENDS, GRIDS, Explicit, Grid, resolve
from hasten.guidance import GUIDANCES
from hasten.guidance.base import GuidanceMethod
from hasten.quantize import QUANTIZERS, Quantizer
from hasten.runtime.acceleration import Acceleration, network_of
from hasten.runtime.tracking import scheduled
from hasten.solvers import SOLVERS, Solver

VERSION = 1
_METHODS: dict[str, Registry[Any]] = {"solver": SOLVERS, "quantize": QUANTIZERS, "compile": COMPILERS}
_RECIPE, _TENSORS = "recipe.json", "tensors.safetensors"


class Guidance(pydantic.BaseModel):
    """How strongly (`scale`, as the pipeline's guidance_scale) and in which way (`method`) to guide.

    As data: a number is a scale; an object may hold "scale" and the name and fields of a method.
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

    solver: a Solver, name or object. steps: at least 1. grid: a Grid, name, object or list of times, with a
    solver only. end: "data" or "min". guidance: a number, or an object with "scale" and/or a method of
    `GUIDANCES`. caches: methods of `CACHES`, each at most once. quantize: a method of `QUANTIZERS`. compile: one of
    `COMPILERS`. prune: no methods yet.

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
    quantize: Quantizer | None = None
    prune: None = None
    compile: Compiler | None = None

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except pydantic.ValidationError as error:
            raise _one_line(error) from None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _known(cls, fields: dict[str, Any]) -> dict[str, Any]:
        for key in fields:
            if key not in cls.model_fields:
                raise unknown("recipe", key, cls.model_fields)
        if fields.get("prune") not in (None, False):
            raise unknown("prune", fields["prune"], [])
        return {key: value for key, value in fields.items() if value is not None and value is not False}

    @pydantic.field_validator("version")
    @classmethod
    def _version(cls, value: int) -> int:
        if value != VERSION:
            raise HastenError(f"version: {value} is not known; this hasten reads recipes of version {VERSION}")
        return value

    @pydantic.field_validator(*_METHODS, mode="before")
    @classmethod
    def _method(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        return _METHODS[str(info.field_name)].build(value)

    @pydantic.field_validator("steps", mode="before")
    @classmethod
    def _steps(cls, value: Any) -> int:
        return positive_int("steps", value)

    @pydantic.field_validator("grid", mode="before")
    @classmethod
    def _grid(cls, value: Any) -> Grid:
        return resolve(value)

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
        if isinstance(self.grid, Explicit):
            implied = len(self.grid.at) - 1
            if implied < 1:
                raise HastenError("grid: explicit times must be at least two")
            if self.steps not in (None, implied):
                raise HastenError(
                    f"steps: {self.steps} contradicts the {implied} steps of the explicit grid; leave it out"
                )
            object.__setattr__(self, "steps", implied)
        ordered(self.accelerations)
        return self

    @property
    def accelerations(self) -> list[Acceleration]:
        """The context managers of the recipe, in no particular order."""
        guided = [self.guidance.method] if self.guidance else []
        return [method for method in (*guided, *self.caches, self.quantize, self.compile) if method is not None]

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
        if self.quantize is not None:
            data["quantize"] = QUANTIZERS.describe(self.quantize)
        if self.compile is not None:
            data["compile"] = COMPILERS.describe(self.compile)
        return data

    def to_json(self) -> str:
        """The recipe as JSON. Raises HastenError if it holds fitted tensors: `save` keeps those beside it."""
        plain, tensors = _split(self.to_dict())
        if tensors:
            raise HastenError(f"recipe: {', '.join(tensors)} holds fitted tensors; use save(folder) instead")
        return json.dumps(plain, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """The recipe in a JSON text."""
        return cls(**_parsed(text, "recipe"))

    def save(self, folder: str | Path) -> None:
        """Write recipe.json, and tensors.safetensors beside it if anything in the recipe was fitted."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        plain, tensors = _split(self.to_dict())
        if tensors:
            save_file({key: value.contiguous() for key, value in tensors.items()}, folder / _TENSORS)
        (folder / _RECIPE).write_text(json.dumps(plain, indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a folder written by `save`, or one JSON file."""
        path = Path(path)
        file = path / _RECIPE if path.is_dir() else path
        if not file.is_file():
            raise HastenError(f"recipe: there is no file {file}; give a recipe.json or the folder that holds one")
        return cls(**_joined(_parsed(file.read_text(), str(file)), file.parent / _TENSORS))

    @classmethod
    def of(cls, recipe: Recipe | Mapping[str, Any] | str | Path) -> Recipe:
        """A recipe from a Recipe, a mapping, a path, or JSON text."""
        if isinstance(recipe, Recipe):
            return recipe
        if isinstance(recipe, Mapping):
            return cls(**recipe)
        text = str(recipe)
        return cls.from_json(text) if text.lstrip().startswith("{") else cls.load(text)


def ordered(accelerations: list[Acceleration]) -> list[Acceleration]:
    """The order in which to enter accelerations. Raises HastenError for pairs that cannot work together."""
    names = [a.name for a in accelerations]
    for i, one in enumerate(accelerations):
        if one.name in names[:i]:
            raise HastenError(f"recipe: {one.name!r} is there twice; keep one of them")
        for other in set(names) & set(one.conflicts):
            raise HastenError(f"recipe: {one.name!r} and {other!r} cannot work together; keep one of them")
    rest, result = list(accelerations), []
    while rest:
        waiting_for = {name for a in rest for name in a.before if name in names}
        ready = [a for a in rest if not (set(a.before) & {r.name for r in rest})]
        if not ready:
            raise HastenError(f"recipe: {', '.join(sorted(waiting_for))} each want to come first; keep one of them")
        result.append(ready[0])
        rest.remove(ready[0])
    return result


class Accelerated:
    """A pipeline that runs by a recipe until `restore`. Call it as the pipeline itself, plus `seed`.

    Also a context manager that restores on exit. Attributes are those of the pipeline.
    """

    def __init__(self, pipe: Any, recipe: Recipe) -> None:
        self.pipe, self.recipe = pipe, recipe
        accelerations = ordered(recipe.accelerations)
        network = network_of(pipe)
        for acceleration in accelerations:
            acceleration.check(network)
        scheduler = self._scheduler()
        with ExitStack() as stack:
            stack.enter_context(scheduled(pipe, scheduler))
            for acceleration in accelerations:
                stack.enter_context(acceleration.applied(pipe))
            self._undo = stack.pop_all()

    def _scheduler(self) -> Any:
        from hasten.bridge import SolverScheduler

        if self.recipe.solver is None:
            return self.pipe.scheduler
        return SolverScheduler.from_config(
            self.pipe.scheduler.config, solver=self.recipe.solver, grid=self.recipe.grid, end=self.recipe.end
        )

    def __call__(self, *args: Any, seed: int | list[int] | None = None, **kwargs: Any) -> Any:
        """Run the pipeline. What is passed wins over the recipe.

        seed: of the noise; image j of every prompt uses seed + j, a list gives one seed an image. The same
        seed gives the same image in any batch. Raises HastenError for non-finite latents and clashing seeds.
        """
        if (
            isinstance(self.recipe.grid, Explicit)
            and kwargs.get("num_inference_steps", self.recipe.steps) != self.recipe.steps
        ):
            raise HastenError(
                f"num_inference_steps: the recipe's grid lists the times of its {self.recipe.steps} steps; leave it out"
            )
        if self.recipe.steps is not None:
            kwargs.setdefault("num_inference_steps", self.recipe.steps)
        positive_int("num_inference_steps", kwargs.get("num_inference_steps", 1))
        if self.recipe.guidance is not None and self.recipe.guidance.scale is not None:
            kwargs.setdefault("guidance_scale", self.recipe.guidance.scale)
        latents = kwargs.get("latents")
        if latents is not None and not torch.isfinite(latents).all():
            raise HastenError("latents: some values are not finite; give finite numbers")
        if seed is not None:
            from hasten.bridge import generators

            if kwargs.get("generator") is not None:
                raise HastenError("seed: a generator was given as well; give one of the two")
            kwargs["generator"] = generators(seed, _prompts(args, kwargs), kwargs.get("num_images_per_prompt") or 1)
        if self.recipe.solver is not None:  # flow pipelines do not hand theirs on to the scheduler
            self.pipe.scheduler.generator = kwargs.get("generator")
        return self.pipe(*args, **kwargs)

    def restore(self) -> None:
        """Put the pipeline back, bit for bit, as it was. Calling it again does nothing."""
        self._undo.close()

    def __enter__(self) -> Accelerated:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()

    def __getattr__(self, name: str) -> Any:
        if name == "pipe":  # not made yet: copying or a failed start
            raise AttributeError(name)
        return getattr(self.pipe, name)


def accelerate(pipe: Any, recipe: Recipe | Mapping[str, Any] | str | Path) -> Accelerated:
    """Make a diffusers pipeline run by a recipe (Recipe, mapping, path, or JSON text), until `restore`.

    Raises HastenError before anything is touched if the recipe is wrong or the model lacks what it needs.
    """
    return Accelerated(pipe, Recipe.of(recipe))


def _prompts(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """How many prompts a pipeline call has."""
    prompt = kwargs.get("prompt", args[0] if args else None)
    if prompt is None:
        prompt = kwargs.get("prompt_embeds")
    return 1 if prompt is None or isinstance(prompt, str) else len(prompt)


def _one_line(error: pydantic.ValidationError) -> HastenError:
    first = error.errors()[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, HastenError):
        return cause
    field = ".".join(str(part) for part in first["loc"])
    return HastenError(f"{field}: {first.get('input')!r} is not possible; {first['msg'].lower()}")


def _parsed(text: str, source: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise HastenError(f"{source}: not valid JSON (line {error.lineno}: {error.msg})") from None
    if not isinstance(data, dict):
        raise HastenError(f"{source}: must be a JSON object of recipe fields; got {type(data).__name__}")
    return data


def _split(data: Any, path: str = "") -> tuple[Any, dict[str, torch.Tensor]]:
    """Plain data with each tensor replaced by {"tensor": path}, and the tensors by path."""
    if isinstance(data, torch.Tensor):
        return {"tensor": path}, {path: data}
    if not isinstance(data, dict | list):
        return data, {}
    tensors: dict[str, torch.Tensor] = {}

    def inner(key: Any, value: Any) -> Any:
        plain, found = _split(value, f"{path}.{key}" if path else str(key))
        tensors.update(found)
        return plain

    if isinstance(data, dict):
        return {key: inner(key, value) for key, value in data.items()}, tensors
    return [inner(index, value) for index, value in enumerate(data)], tensors


def _joined(data: Any, file: Path) -> Any:
    """The inverse of `_split`, reading tensors from a safetensors file."""
    if isinstance(data, list):
        return [_joined(value, file) for value in data]
    if not isinstance(data, dict):
        return data
    if set(data) != {"tensor"}:
        return {key: _joined(value, file) for key, value in data.items()}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as tensors:
            return tensors.get_tensor(data["tensor"])
    except (OSError, SafetensorError) as error:
        raise HastenError(f"recipe: cannot read fitted tensor {data['tensor']!r} from {file}: {error}") from None
