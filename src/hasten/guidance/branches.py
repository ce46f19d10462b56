"""Batches of branches: whose answer is whose, and running on some rows only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from hasten.runtime.rows import mapped, picked
from hasten.runtime.run import Row, Run


def conditional(row: Row) -> Row:
    """The row of the same image in the last branch, the conditional one.

    row: of any branch.
    """
    return Row(row.part, row.place % (row.part.images or 1))


def ran(run: Run, inner: Callable[..., Any], args: Any, kwargs: Any, rows: Sequence[Row], kept: Sequence[int]) -> Any:
    """What a forward answers for some rows alone.

    run: what the network is doing.
    inner: the forward.
    args: its arguments, with all rows.
    kwargs: its named arguments, with all rows.
    rows: whose the rows are.
    kept: the positions of those that run.
    """
    with run.narrowed([rows[i] for i in kept]):
        return inner(*picked(args, len(rows), kept), **picked(kwargs, len(rows), kept))


def batched(value: Any, rows: int) -> list[Tensor]:
    """Every tensor of an answer that has one entry a row, in a fixed order.

    value: the answer, a tensor or a nest of them.
    rows: how many there are.
    """
    tensors: list[Tensor] = []
    mapped(value, lambda x: tensors.append(x) if x.ndim and len(x) == rows else None)
    return tensors


def replaced(value: Any, rows: int, by: Sequence[Tensor]) -> Any:
    """An answer in which the tensors that `batched` finds are others.

    value: the answer, a tensor or a nest of them.
    rows: how many there are.
    by: the new tensors, in the order of `batched`.
    """
    rest = iter(by)
    return mapped(value, lambda x: next(rest) if x.ndim and len(x) == rows else x)
