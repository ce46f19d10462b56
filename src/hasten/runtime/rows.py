"""Tensors inside of anything, and the rows of a batch: what every wrapper of a forward works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

SHARED = ("img_ids", "txt_ids", "image_rotary_emb")  # arguments of networks and blocks that have no rows


def mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """`value` with `change` applied to every tensor in it, however deep in tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):  # also the outputs of diffusers, which are made by keyword
        return type(value)(**{key: mapped(inside, change) for key, inside in value.items()})
    if isinstance(value, tuple | list):
        return type(value)(mapped(inside, change) for inside in value)
    return value


def picked(arguments: Any, rows: int, which: Sequence[int]) -> Any:
    """Arguments of a network or block with only some rows of every tensor that has `rows` rows.

    arguments: a tuple of positional arguments, or a mapping of those by keyword.
    rows: how many rows the batch has.
    which: the rows to keep, in the order wanted.
    """
    if isinstance(arguments, Mapping):
        return {k: v if k in SHARED else _picked(k, v, rows, which) for k, v in arguments.items()}
    return mapped(arguments, lambda x: pick(x, rows, which))


def _picked(name: str, value: Any, rows: int, which: Sequence[int]) -> Any:
    """An argument of a name with only some rows; masks may have one for each head, which follow one another."""

    def some(x: Tensor) -> Tensor:
        if "mask" in name and x.ndim == 3 and len(x) > rows and len(x) % rows == 0:
            return pick(x.unflatten(0, (rows, -1)), rows, which).flatten(0, 1)
        return pick(x, rows, which)

    return mapped(value, some)


def pick(x: Tensor, rows: int, which: Sequence[int]) -> Tensor:
    """The rows `which` of x, in that order, if it has `rows` rows; a view where they follow one another."""
    if not x.ndim or len(x) != rows:
        return x
    first, count = which[0] if which else 0, len(which)
    if list(which) == list(range(first, first + count)):
        return x[first : first + count]
    return x[list(which)]


def nearest(candidates: Sequence[Any], tensor: Tensor) -> int:
    """Which of the candidates has the shape of a tensor and is nearest to it: a residual stream goes on from there."""
    fits = [i for i, x in enumerate(candidates) if isinstance(x, Tensor) and x.shape == tensor.shape]
    if len(fits) == 1:
        return fits[0]
    return min(fits, key=lambda i: float((candidates[i] - tensor).float().square().mean()))
