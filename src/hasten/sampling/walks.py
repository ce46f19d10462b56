"""Many walks at once: what waits is gathered into network batches, and what fails fails alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hasten.core.errors import HastenError, unknown
from hasten.denoisers import DenoiserLike
from hasten.predictions import Prediction
from hasten.processes import Process
from hasten.sampling.loop import Asked, start
from hasten.solvers import Query
from hasten.solvers.base import Walk

RUN_FIELDS = ("noise", "solver", "steps", "grid", "end", "seed", "brownian")
"""What a run may say: the parameters of `sample` but for denoiser and callback."""


@dataclass(frozen=True)
class Batch:
    """Walks whose queries may share one network call, because their states have one shape, dtype and device.

    asked: the walks, in the order of their rows.
    """

    asked: tuple[Asked, ...]

    @property
    def x(self) -> Tensor:
        """The states of all queries, (rows of all, ...)."""
        return torch.cat([one.query.x for one in self.asked])

    @property
    def t(self) -> NDArray[np.float64]:
        """The time of each row, (rows of all,)."""
        return np.repeat([one.query.t for one in self.asked], [one.rows for one in self.asked])


class Walks:
    """Walks that one denoiser answers, each at its own step; they may come and go between calls.

    A walk that fails ends alone: its exception is kept in `errors`, and the others go on.

    process: of the denoiser.
    check_finite: whether a walk fails as soon as its state or its result has a value that is not finite.
    """

    def __init__(self, process: Process, check_finite: bool = False) -> None:
        self.process, self.check_finite = process, check_finite
        self.results: dict[int, Tensor] = {}
        """What finished walks came to, by index, in the dtype of their noise."""
        self.errors: dict[int, Exception] = {}
        """Why failed walks failed, by index."""
        self._waiting: dict[int, Asked] = {}
        self._dtypes: dict[int, torch.dtype] = {}
        self._added = 0

    @property
    def waiting(self) -> int:
        """How many walks wait for an answer."""
        return len(self._waiting)

    def add(self, run: Mapping[str, Any]) -> int:
        """Begin a walk and return its index.

        run: parameters of `sample` by name, but for denoiser and callback; "noise" is required.
        Raises HastenError for an unknown name or an impossible setting; then nothing is added.
        """
        check_run(run)
        walk = start(self.process, **run)
        index, self._added = self._added, self._added + 1
        self._dtypes[index] = run["noise"].dtype
        self._advance(index, walk, None)
        return index

    def batches(self) -> list[Batch]:
        """All walks that wait, in groups that may share a call; within a group in the order in which they came."""
        groups: dict[Any, list[Asked]] = {}
        for asked in self._waiting.values():
            x = asked.query.x
            groups.setdefault((x.shape[1:], x.dtype, x.device), []).append(asked)
        return [Batch(tuple(group)) for group in groups.values()]

    def answer(self, batch: Batch, prediction: Prediction) -> None:
        """Send every walk of a batch its rows, which takes it to its next query, its result or its error.

        batch: one of `batches`. Walks in it that were dropped or answered meanwhile are passed over.
        prediction: the denoiser's, with the rows of the whole batch.
        """
        begin = 0
        for asked in batch.asked:
            rows = slice(begin, begin + asked.rows)
            begin = rows.stop
            if self._waiting.get(asked.index) is asked:
                self._advance(asked.index, asked.walk, prediction.rows(rows.start, rows.stop))

    def drop(self, index: int) -> None:
        """Forget a walk, wherever it is, with its result or its error; unknown ones are no error."""
        asked = self._waiting.pop(index, None)
        if asked is not None:
            asked.walk.close()
        for kept in (self.results, self.errors, self._dtypes):
            kept.pop(index, None)

    def _advance(self, index: int, walk: Walk, prediction: Prediction | None) -> None:
        """Take a walk to its next query, its result or its error. prediction: None for one that has not begun."""
        try:
            reached = _resumed(walk, prediction)
            if self.check_finite:
                _check(reached)
        except Exception as error:
            walk.close()
            self._waiting.pop(index, None)
            self.errors[index] = error
            return
        if isinstance(reached, Query):
            self._waiting[index] = Asked(walk, index, reached)
        else:
            self._waiting.pop(index, None)
            self.results[index] = reached.to(self._dtypes[index])


def sample_many(
    denoiser: DenoiserLike,
    runs: Sequence[Mapping[str, Any]],
    callback: Callable[[int, int], None] | None = None,
) -> list[Tensor]:
    """Run many walks at once; each round gathers every waiting query, so there are as many as in the longest walk.

    denoiser: the network with its process.
    runs: for each walk the parameters of `sample` by name, but for denoiser and callback; "noise" is required.
        Solvers, steps, grids and numbers of rows may differ; walks of one shape, dtype and device share calls.
    callback: is called as callback(waiting, finished) after each round.
    Returns, in the order of `runs`, what `sample` alone would give for each.
    Raises HastenError as `sample` does, before the first network call; what a walk raises ends all.
    """
    for run in runs:
        check_run(run)
    walks = Walks(denoiser.process)
    order = [walks.add(run) for run in runs]
    _raise_first(walks)
    follow = getattr(denoiser, "follow", None)
    while walks.waiting:
        for batch in walks.batches():
            if follow is not None:
                follow(batch.asked)
            walks.answer(batch, denoiser(batch.x, batch.t))
            _raise_first(walks)
        if callback is not None:
            callback(walks.waiting, len(walks.results))
    return [walks.results[index] for index in order]


def check_run(run: Mapping[str, Any]) -> None:
    """Look at the names in a run.

    run: as for `Walks.add`.
    Raises HastenError for one that is not a parameter of a run, with the nearest that is.
    """
    for key in run:
        if key not in RUN_FIELDS:
            raise unknown("run", key, RUN_FIELDS)


def _resumed(walk: Walk, prediction: Prediction | None) -> Query | Tensor:
    """What a walk yields next, or what it returns."""
    try:
        return next(walk) if prediction is None else walk.send(prediction)
    except StopIteration as done:
        return done.value


def _check(reached: Query | Tensor) -> None:
    is_query = isinstance(reached, Query)
    if not torch.isfinite(reached.x if is_query else reached).all():
        place = f"the state at step {reached.step + 1} of {reached.steps}" if is_query else "the result"
        raise HastenError(f"{place} has values that are not finite (the run diverged)")


def _raise_first(walks: Walks) -> None:
    for error in walks.errors.values():
        raise error
