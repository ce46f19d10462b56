"""Batches of branches: whose answer is whose, and running on some rows only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from hasten.runtime.rows import mapped, picked
from hasten.runtime.run import Row, Run


def conditional(row: Row) -> Row:
    """The row of the same image in the last branch, the conditional one."""
    return Row(row.part, row.place % (row.part.images or 1))


def ran(run: Run, inner: Callable[..., Any], args: Any, kwargs: Any, rows: Sequence[Row], kept: Sequence[int]) -> Any:
    """What `inner` answers for the rows at the positions `kept` alone, of a batch of `rows`."""
    with run.narrowed([rows[i] for i in kept]):
        return inner(*picked(args, len(rows), kept), **picked(kwargs, len(rows), kept))


def batched(value: Any, rows: int) -> list[Tensor]:
    """Every tensor of `rows` rows in an answer, in a fixed order."""
    tensors: list[Tensor] = []
    mapped(value, lambda x: tensors.append(x) if x.ndim and len(x) == rows else None)
    return tensors


def replaced(value: Any, rows: int, by: Sequence[Tensor]) -> Any:
    """An answer in which the tensors that `batched` finds are others."""
    rest = iter(by)
    return mapped(value, lambda x: next(rest) if x.ndim and len(x) == rows else x)
