"""Recipes as files: plain JSON, and fitted tensors in a safetensors file beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from hasten.core.errors import HastenError

RECIPE, TENSORS = "recipe.json", "tensors.safetensors"


def parsed(text: str, source: str) -> dict[str, Any]:
    """The object in a JSON text. Raises HastenError, naming the source, if there is none."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise HastenError(f"{source}: not valid JSON (line {error.lineno}: {error.msg})") from None
    if not isinstance(data, dict):
        raise HastenError(f"{source}: must be a JSON object of recipe fields; got {type(data).__name__}")
    return data


def split(data: Any, path: str = "") -> tuple[Any, dict[str, torch.Tensor]]:
    """Plain data with each tensor replaced by {"tensor": path}, and the tensors by path."""
    if isinstance(data, torch.Tensor):
        return {"tensor": path}, {path: data}
    if not isinstance(data, dict | list):
        return data, {}
    tensors: dict[str, torch.Tensor] = {}

    def inner(key: Any, value: Any) -> Any:
        plain, inside = split(value, f"{path}.{key}" if path else str(key))
        tensors.update(inside)
        return plain

    if isinstance(data, dict):
        return {key: inner(key, value) for key, value in data.items()}, tensors
    return [inner(index, value) for index, value in enumerate(data)], tensors


def joined(data: Any, file: Path) -> Any:
    """The inverse of `split`, reading tensors from a safetensors file."""
    if isinstance(data, list):
        return [joined(value, file) for value in data]
    if not isinstance(data, dict):
        return data
    if set(data) != {"tensor"}:
        return {key: joined(value, file) for key, value in data.items()}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as tensors:
            return tensors.get_tensor(data["tensor"])
    except (OSError, SafetensorError) as error:
        raise HastenError(f"recipe: cannot read fitted tensor {data['tensor']!r} from {file}: {error}") from None
