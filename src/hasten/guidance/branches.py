"""A guided batch and its halves: the unconditional branch comes first, the conditional one last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def conditional_half(rows: int, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What `inner` answers for the second half of its batch of `rows` rows: the conditional branch alone."""

    def half(x: Tensor) -> Tensor:
        return x[rows // 2 :] if x.ndim and len(x) == rows else x

    return inner(*mapped(args, half), **mapped(kwargs, half))


def batched(value: Any, rows: int) -> list[Tensor]:
    """Every tensor of `rows` rows in an answer, in a fixed order."""
    found: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        if x.ndim and len(x) == rows:
            found.append(x)
        return x

    mapped(value, keep)
    return found


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`value` with `change` applied to every tensor in it, however deep in tuples, lists and mappings."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):  # also the outputs of diffusers, which are made by keyword
        return type(value)(**{key: mapped(inside, change) for key, inside in value.items()})
    if isinstance(value, tuple | list):
        return type(value)(mapped(inside, change) for inside in value)
    return value


def replaced(value: Any, rows: int, by: list[Tensor]) -> Any:
    """An answer in which the tensors that `batched` finds are others."""
    rest = iter(by)
    return mapped(value, lambda x: next(rest) if x.ndim and len(x) == rows else x)
