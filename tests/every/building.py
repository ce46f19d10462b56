"""Makes a pipeline of the tables, and calls it."""

from __future__ import annotations

import functools
import importlib
import inspect
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from fnmatch import fnmatchcase
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor, nn

from every.arguments import SIZE, Value, common
from every.codecs import CODECS
from every.encoders import ENCODERS
from every.extras import EXTRAS
from every.image_transformers import IMAGE_TRANSFORMERS
from every.rules import RULES
from every.schedulers import SCHEDULERS
from every.unets import UNETS
from every.video_transformers import VIDEO_TRANSFORMERS

PARTS: dict[str, Any] = UNETS | IMAGE_TRANSFORMERS | VIDEO_TRANSFORMERS | EXTRAS | CODECS | ENCODERS | SCHEDULERS
NOTHING = ("tokenizer", "text_encoder", "safety_checker", "feature_extractor", "processor", "image_processor")
STEPS = 4
NOISE = 0.1  # standard deviation of the weights that a class leaves at zero or does not fill


def names() -> list[str]:
    """Every pipeline class that diffusers exports, stand-ins for those that lack a package included."""
    listed = {name: getattr(diffusers, name) for name in dir(diffusers)}
    return sorted(name for name, cls in listed.items() if inspect.isclass(cls) and _pipeline(cls))


def _pipeline(cls: Any) -> bool:
    if hasattr(cls, "_backends"):  # stands in for what lacks a package
        return "Pipeline" in cls.__name__
    return issubclass(cls, diffusers.DiffusionPipeline)


@functools.cache
def settings(name: str) -> dict[str, Any]:
    """What the rules say of a pipeline class: `parts`, `call`, and whatever else they hold, the later ones winning."""
    merged: dict[str, Any] = {"parts": {}, "call": {}}
    for patterns, rule in RULES:
        if any(fnmatchcase(name, pattern) for pattern in patterns.split()):
            for key, value in rule.items():
                merged[key] = _merged(merged.get(key), value) if key == "parts" else _joined(merged.get(key), value)
    return merged


def _joined(old: Any, new: Any) -> Any:
    return (old or {}) | new if isinstance(new, dict) else new


def _merged(old: Any, new: Any) -> Any:
    """Tables within tables; another class drops what was said of the class before."""
    if not isinstance(old, dict) or not isinstance(new, dict) or "of" in new:
        return new
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}


def build(name: str, rows: int = 1, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Any, dict[str, Any]]:
    """A pipeline of a class, and the arguments it runs with; the same seed makes the same weights.

    rows: how many prompts (or pictures, where there are no prompts) the arguments hold.
    """
    rule, cls = settings(name), getattr(diffusers, name)
    with torch.random.fork_rng(), warnings.catch_warnings(), _unfilled_is_nan():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        for place, function in rule.get("patch", {}).items():
            module, _, attribute = place.rpartition(".")
            setattr(importlib.import_module(module), attribute, function)
        pipe = cls(**_components(cls, rule["parts"]))
        for change in rule.get("after", {}).values():
            change(pipe)
    if dtype != torch.float32:
        pipe.to(dtype)
    for one in [pipe, *vars(pipe).values()]:  # combined pipelines hold others
        if isinstance(one, diffusers.DiffusionPipeline):
            one.set_progress_bar_config(disable=True)
    return pipe, arguments(pipe, range(rows), dtype)


def arguments(pipe: Any, rows: Iterable[int] = (0,), dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """What a pipeline is called with, but for steps and generator. rows: which prompts or pictures."""
    takes, rule = signature(pipe), settings(type(pipe).__name__)
    values = {key: value for key, value in common(rule.get("size", SIZE)).items() if key in takes} | rule["call"]
    values = {key: value for key, value in values.items() if value is not Value.absent}
    rows = list(rows)
    return {key: value(rows, dtype) if isinstance(value, Value) else value for key, value in values.items()}


def signature(pipe: Any) -> Any:
    """The arguments of a pipeline's call, plain or accelerated."""
    return inspect.signature(type(getattr(pipe, "pipe", pipe)).__call__).parameters


def call(
    pipe: Any, arguments: dict[str, Any], steps: int | None = STEPS, seed: Any = 0, silent: bool = True,
    more: dict[str, Any] | None = None,
) -> Tensor:  # fmt: skip
    """What a pipeline (plain or accelerated) makes of its arguments, as one tensor.

    seed: of the generator on the CPU; a list gives one an image; None hands on no generator.
    silent: whether warnings are swallowed.
    more: arguments besides, or instead.
    """
    given, takes = dict(arguments), signature(pipe)
    if steps is not None and "num_inference_steps" in takes:
        given.setdefault("num_inference_steps", steps)
    if seed is not None:
        seeds = seed if isinstance(seed, list) else [seed]
        made = [torch.Generator("cpu").manual_seed(s) for s in seeds]
        given["generator"] = made if isinstance(seed, list) else made[0]
    with ExitStack() as stack:
        for context in (torch.random.fork_rng(), torch.no_grad(), *([warnings.catch_warnings()] if silent else [])):
            stack.enter_context(context)
        if silent:
            warnings.simplefilter("ignore")
        torch.manual_seed(0)  # some pipelines draw what they encode without the generator
        return tensor(pipe(**given | (more or {})))


def tensor(result: Any) -> Tensor:
    """The first thing that a pipeline returned, whatever it is wrapped in."""
    if isinstance(result, Tensor):
        return result.detach().float()
    if isinstance(result, np.ndarray):
        return torch.from_numpy(result).float()
    if isinstance(result, list):
        return torch.stack([tensor(one) for one in result])
    if hasattr(result, "to_tuple"):
        return tensor(next(one for one in result.to_tuple() if one is not None))
    if isinstance(result, tuple):
        return tensor(result[0])
    return torch.from_numpy(np.asarray(result)).float()  # a picture


def _components(cls: Any, said: dict[str, Any]) -> dict[str, Any]:
    made = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if name == "requires_safety_checker":
            made[name] = False
        elif name in said:
            made[name] = _part(said[name], parameter.annotation)
        elif name != "self" and parameter.default is inspect.Parameter.empty:
            made[name] = None if name.strip("_0123456789").endswith(NOTHING) else _part({}, parameter.annotation)
    return made


def _part(said: Any, annotation: Any) -> Any:
    """A component: of the class in `said["of"]`, else of the first class in the annotation that a table has."""
    if callable(said):
        return _settled(said())
    if isinstance(said, list):
        return [_part(one, annotation) for one in said]
    if not isinstance(said, dict):
        return said
    able = [said["of"]] if "of" in said else _classes(annotation)
    listed = [cls for cls in able if _name(cls) in PARTS]
    unlisted = [cls for cls in able if "of" in said or _name(cls).endswith("Scheduler")]
    kind = next(iter(listed + unlisted), None)
    if kind is None:
        raise LookupError(f"no table has any of {able}")
    made = PARTS.get(_name(kind), {})
    changes = {key: value for key, value in said.items() if key != "of"}
    if callable(made):
        return _settled(made(**changes))
    if isinstance(made, tuple):
        import transformers

        cls = getattr(transformers, kind) if isinstance(kind, str) else kind
        return _settled(cls(getattr(transformers, made[0])(**made[1] | changes)))
    return _settled((getattr(diffusers, kind) if isinstance(kind, str) else kind)(**made | changes))


def _classes(annotation: Any) -> list[Any]:
    inside = getattr(annotation, "__args__", None)
    return [cls for one in inside for cls in _classes(one)] if inside else [annotation]


def _name(cls: Any) -> str:
    return cls if isinstance(cls, str) else getattr(cls, "__name__", str(cls))


def _settled(part: Any) -> Any:
    """A network, with no weight left at zero (then it would answer nothing) and none unfilled."""
    if isinstance(part, nn.Module):
        with torch.no_grad():
            for weight in [*part.parameters(), *part.buffers()]:
                empty = weight.is_floating_point() and not torch.isfinite(weight).all()
                if empty or (isinstance(weight, nn.Parameter) and weight.ndim > 1 and not weight.any()):
                    weight.normal_(0, NOISE)
        part.eval()
    return part


class _unfilled_is_nan:
    """Meanwhile, memory that nobody fills holds NaN, so that it is seen."""

    def __enter__(self) -> None:
        self.before = (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )
        torch.use_deterministic_algorithms(True, warn_only=True)

    def __exit__(self, *exception: object) -> None:
        torch.use_deterministic_algorithms(self.before[0], warn_only=self.before[1])
