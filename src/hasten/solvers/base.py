"""What a solver is: a generator that yields queries, is sent predictions, and returns the result.

The host owns the network (a plain loop, a diffusers scheduler, a server that batches many walks); a walk
never calls it. Solvers whose every update is a weighted sum write those weights down once, as rows, before
the first query; one loop then walks any of them.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hasten.core.registry import Paper, Registry
from hasten.predictions import Prediction, combine
from hasten.processes import Array, Process


class Query(NamedTuple):
    """The network is wanted at state `x` and time `t`.

    step, steps: which step of how many this is for. stage: 0 for the first query of a step, 1, 2, ... for
    further ones; caches and progress bars need these.
    """

    x: Tensor
    t: float
    step: int = 0
    steps: int = 1
    stage: int = 0


Noise = Callable[[int], Tensor]  # index of a query -> unit noise shaped like the state
Walk = Generator[Query, Prediction, Tensor]


class Solver(ABC):
    """How to step through the times of a run. Subclasses are frozen dataclasses of hyper-parameters.

    Attributes say what `hasten methods` lists. Those that depend on fields are set when one is made.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]
    evaluations: ClassVar[int] = 1  # network calls a step
    convergence: ClassVar[int] = 1  # order in the size of the steps (weak if stochastic); cold starts may cap it at 2
    stochastic: bool = False  # whether it asks for noise
    adaptive: ClassVar[bool] = False  # whether it chooses its times as it goes, between the first and last given
    needs_fit: ClassVar[bool] = False  # whether it is more than its base solver only after `fit`
    warning: ClassVar[str] = ""  # what is known to go wrong with it

    @abstractmethod
    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        """Solve from times[0] to times[-1] (noisiest first; the last may be 0), starting at state x.

        noise(i) gives the unit noise of the update after query i (0, 1, ...); a walk that asks for it replays
        exactly. After each yield the walk goes on from the prediction's own `x`, which the host may have edited.
        """

    def learning(self, trajectory: Any) -> Solver | None:
        """A solver like this one that fits itself to its model while it runs, the result in `fitted[-1]`.

        None if it cannot, or is fitted already. trajectory: a `hasten.fit.Trajectory` of the start states it will run
        from; with None it only tells whether it can.
        """
        return None

    def query_times(self, process: Process, times: Array) -> list[Query]:
        """The queries of a run, in order, found by walking a single number with a fake network."""
        return drain(self.walk(process, times, torch.zeros(1, 1), lambda i: torch.zeros(1, 1)), process)


def drain(walk: Walk, process: Process) -> list[Query]:
    """Run a walk against a network that always answers 0, and return what it asked."""
    queries: list[Query] = []
    try:
        query = next(walk)
        while True:
            queries.append(query)
            alpha, sigma = float(process.alpha(query.t)), float(process.sigma(query.t))
            query = walk.send(Prediction(query.x, alpha, sigma, torch.zeros_like(query.x), "sample"))
    except StopIteration:
        return queries


def told(walk: Walk, change: Callable[[Query, Prediction], Prediction]) -> Walk:
    """The same walk, told predictions that were changed on their way in."""
    try:
        query = next(walk)
        while True:
            query = walk.send(change(query, (yield query)))
    except StopIteration as done:
        return done.value


@dataclass(frozen=True)
class Update:
    """One update: after the query at `time`, x <- a x + sum_j b[j] value_j + noise z.

    b[0] weighs the newest value (of the query just answered), b[1] the one before, and so on. value: which
    attribute of this query's prediction is remembered, if not the one that the table names. kept: what it is
    remembered as, before the update: weights of itself and of the values before, newest first.
    """

    time: float
    a: float
    b: tuple[float, ...]
    step: int
    stage: int = 0
    noise: float = 0.0
    value: str = ""
    kept: tuple[float, ...] = (1.0,)


@dataclass
class Path:
    """Builds rows. States are kept as weights over (anchor state, all values so far).

    An update anchored at an earlier node of the same step is rewritten to start from the current state, and
    a corrector is folded into the update that follows it, so walking needs no stored states: it goes on from
    whatever state the prediction carries.
    """

    rows: list[Update] = field(default_factory=list)
    _formula: tuple[int, float, Array, float] | None = None  # of the current state: anchor, a, weights, noise
    _shift: Array | None = None  # a correction of the current state, as weights by node

    def correct(self, weights: Array, kept: tuple[float, ...] = (1.0,)) -> None:
        """The current state had better been made with these weights (same anchor, newest node included).

        kept: what the newest value, weighed here as it was answered, will be remembered as.
        """
        assert self._formula is not None
        self._shift = weights - _padded(self._formula[2])
        self._shift[..., -1] /= kept[0]
        for lag, share in enumerate(kept[1:], 2):
            self._shift[..., -lag] -= self._shift[..., -1] * share

    def advance(self, time: float, anchor: int, a: float, weights: Array, noise: float = 0.0, **marks: Any) -> None:
        """After node `len(rows)` at `time`: the next state is `a * state[anchor] + weights . values + noise`.

        weights: one number a node, oldest first, the node just queried last; (kinds, nodes) where several kinds of
        value are remembered. noise: all that came in since the anchor; what the current state already carries of
        it is kept, and only the rest is fresh. marks: further fields of the row.
        """
        node = len(self.rows)
        row_a, row_weights, fresh = a, weights, noise
        if anchor != node:
            assert self._formula is not None and self._formula[0] == anchor, "steps may only re-use their own anchor"
            row_a = a / self._formula[1]
            row_weights = weights - row_a * _padded(self._formula[2])
            fresh = max(0.0, noise**2 - (row_a * self._formula[3]) ** 2) ** 0.5
        elif self._shift is not None:
            row_weights = weights + a * self._shift
        self._shift = None
        self._formula = (anchor, a, weights, noise)
        newest_first = row_weights.T[::-1].ravel()
        used = np.flatnonzero(newest_first)
        b = tuple(float(w) for w in newest_first[: used[-1] + 1]) if len(used) else (0.0,)
        self.rows.append(Update(time, float(row_a), b, noise=float(fresh), **marks))


def _padded(weights: Array) -> Array:
    """With a zero for one more node."""
    return np.concatenate([weights, np.zeros((*weights.shape[:-1], 1))], -1)


Advance = Callable[[Update, Tensor, list[Tensor]], Tensor]  # row, state and values (newest first) -> the next state


def weighed(x: Tensor, a: float, values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """a x + the sum of weights times values. What is given is left as it is, and may be what is returned."""
    total = combine(x, a, values[0], weights[0])
    for weight, value in zip(weights[1:], values[1:]):
        if weight:
            total = (torch.add if total is values[0] else Tensor.add_)(total, value, alpha=weight)
    return total


class Tabular(Solver):
    """A solver whose updates are rows of weights over the state and past values of one prediction."""

    @abstractmethod
    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        """Which attribute of a Prediction is remembered ("data", "noise", "velocity"), and the rows.

        Of several, joined by spaces, each is: their values take turns in the rows' weights.
        """

    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        return self.follow(process, times, x, noise, lambda row, x, values: weighed(x, row.a, values, row.b))

    def follow(self, process: Process, times: Array, x: Tensor, noise: Noise, update: Advance) -> Walk:
        """The walk, with `update` making the next state, but for its noise, from values as they are kept."""
        value, rows, memory = program(self, process, times)
        steps = len(times) - 1
        past: list[Tensor] = []
        for i, (row, keep) in enumerate(zip(rows, memory)):
            p = yield Query(x, row.time, row.step, steps, row.stage)
            newest = [getattr(p, kind) for kind in (row.value or value).split()]
            if len(row.kept) > 1:
                newest = [weighed(newest[0], row.kept[0], past, row.kept[1:])]
            past[:0] = newest
            x = update(row, p.state, past)
            if row.noise:
                x = torch.add(x, noise(i), alpha=row.noise)
            del past[keep:]
        return x

    def query_times(self, process: Process, times: Array) -> list[Query]:
        _, rows, _ = program(self, process, times)
        x = torch.zeros(1, 1)
        return [Query(x, row.time, row.step, len(times) - 1, row.stage) for row in rows]


Program = tuple[str, list[Update], list[int]]  # what is remembered, the rows, how many values each leaves behind


def program(solver: Tabular, process: Process, times: Array) -> Program:
    """A solver's table, computed once for runs at the same times."""
    try:
        return _compiled(solver, process, tuple(map(float, times)))
    except TypeError:  # a solver or process that cannot be hashed
        return _compiled.__wrapped__(solver, process, tuple(map(float, times)))


@functools.lru_cache(maxsize=64)
def _compiled(solver: Tabular, process: Process, times: tuple[float, ...]) -> Program:
    value, rows = solver.table(process, np.array(times))
    return value, rows, _memory(rows, len(value.split()))


def _memory(rows: list[Update], kinds: int) -> list[int]:
    """How many of the newest values each row must leave behind for the rows after it."""
    reach = [max(len(row.b), len(row.kept)) for row in rows]
    later = [reach[i + 1 : i + max(reach)] for i in range(len(rows))]
    return [max([0, *(of - k * kinds for k, of in enumerate(after, 1))]) for after in later]


SOLVERS: Registry[Solver] = Registry("solver", Solver)
