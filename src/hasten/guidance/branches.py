"""Batches of branches: whose answer is whose, and running on some rows only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hasten.core.errors import UnsupportedModel
from hasten.runtime.anatomy import batch_of
from hasten.runtime.rows import mapped, picked
from hasten.runtime.run import Row, Run
from hasten.runtime.view import answer_instead, wrap


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


def learn_order(run: Run, answer: Any, rows: int) -> None:
    """Let the run learn from a whole answer which of two branches is the conditional one, if that is not known."""
    if run.conditional_last is None:
        run.guided(*batched(answer, rows)[0].chunk(2))


def needs_order(name: str, run: Run) -> None:
    """Raise UnsupportedModel if it is not known which of two branches is the conditional one."""
    if run.conditional_last is None:
        raise UnsupportedModel(
            f"{name}: nobody has said whether this pipeline puts the conditional branch of guidance first or last; "
            "use a pipeline class of diffusers, or set scheduler.run.conditional_last"
        )


class Alone:
    """The conditional answer of the running query, for pipelines in which each branch is a call of its own.

    network: a view; the conditional answers are kept.
    run: of it.
    """

    def __init__(self, network: nn.Module, run: Run) -> None:
        self.run, self.network, self.batch = run, network, batch_of(network)
        self._of: Any = None
        self._answer: Any = None
        wrap(network, self._keep)

    def answer(self) -> Any:
        """The conditional answer to the query that the run is at; None if there is none yet."""
        return self._answer if self._of == (self.run.number, self.run.step, self.run.stage) else None

    def instead(self, answer: Callable[[Any, Tensor], Any]) -> None:
        """Let `answer(conditional, states)` answer for the other branch; where it gives None that is called."""

        def unconditional(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            states, conditional = self.batch(args, kwargs), self.answer()
            if conditional is None or self.run.alone(len(states)) != 1:
                return None
            given = answer(conditional, states)
            if given is not None:
                self.run.asked(len(states))
                self.run.called()
            return given

        answer_instead(self.network, unconditional)

    def _keep(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        branch = self.run.alone(len(self.batch(args, kwargs)))
        answer = inner(*args, **kwargs)
        if branch == 0:
            self._of, self._answer = (self.run.number, self.run.step, self.run.stage), answer
        return answer
