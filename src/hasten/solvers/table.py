"""Solvers whose every update is a weighted sum: the weights are written down once, before the first query.

Such a solver gives a table of updates, one a query; one loop then walks any of them.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hasten.predictions import combine
from hasten.processes import Array, Process
from hasten.solvers.base import Noise, Query, Solver, Walk

PROGRAMS = 64  # tables that are kept, for runs at the same times


@dataclass(frozen=True)
class Update:
    """After the query at `time`, x <- a x + sum_j b[j] value_j + noise z.

    time: of the query.
    a: the weight of the state.
    b: the weights of the values, newest first: b[0] of the query just answered, b[1] of the one before, and so on.
    step: of the query, see `Query`.
    stage: of the query, see `Query`.
    noise: the weight of fresh unit noise.
    value: which attribute of this query's prediction is remembered, if not the one that the table names.
    kept: what it is remembered as, before the update: weights of itself and of the values before, newest first.
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
    """Builds updates. States are kept as weights over (anchor state, all values so far).

    An update anchored at an earlier node of the same step is rewritten to start from the current state, and
    a corrector is folded into the update that follows it, so walking needs no stored states: it goes on from
    whatever state the prediction carries.

    updates: those made so far.
    """

    updates: list[Update] = field(default_factory=list)
    _formula: tuple[int, float, Array, float] | None = None  # of the current state: anchor, a, weights, noise
    _shift: Array | None = None  # a correction of the current state, as weights by node

    def correct(self, weights: Array, kept: tuple[float, ...] = (1.0,)) -> None:
        """The current state had better been made with these weights.

        weights: of the same anchor, one number a node, the newest node included.
        kept: what the newest value, weighed here as it was answered, will be remembered as.
        """
        assert self._formula is not None
        self._shift = weights - _padded(self._formula[2])
        self._shift[..., -1] /= kept[0]
        for lag, share in enumerate(kept[1:], 2):
            self._shift[..., -lag] -= self._shift[..., -1] * share

    def advance(self, time: float, anchor: int, a: float, weights: Array, noise: float = 0.0, **marks: Any) -> None:
        """After the next node, at `time`: the next state is `a * state[anchor] + weights . values + noise`.

        time: of the query at this node.
        anchor: the node whose state the step starts from.
        a: the weight of that state.
        weights: one number a node, oldest first, the node just queried last; (kinds, nodes) where several kinds of
            value are remembered.
        noise: all that came in since the anchor; what the current state already carries of it is kept, and only
            the rest is fresh.
        marks: further fields of the update.
        """
        node = len(self.updates)
        from_here, by_node, fresh = a, weights, noise
        if anchor != node:
            assert self._formula is not None and self._formula[0] == anchor, "steps may only re-use their own anchor"
            from_here = a / self._formula[1]
            by_node = weights - from_here * _padded(self._formula[2])
            fresh = max(0.0, noise**2 - (from_here * self._formula[3]) ** 2) ** 0.5
        elif self._shift is not None:
            by_node = weights + a * self._shift
        self._shift = None
        self._formula = (anchor, a, weights, noise)
        newest_first = by_node.T[::-1].ravel()
        used = np.flatnonzero(newest_first)
        b = tuple(float(w) for w in newest_first[: used[-1] + 1]) if len(used) else (0.0,)
        self.updates.append(Update(time, float(from_here), b, noise=float(fresh), **marks))


def _padded(weights: Array) -> Array:
    """With a zero for one more node."""
    return np.concatenate([weights, np.zeros((*weights.shape[:-1], 1))], -1)


Advance = Callable[[Update, Tensor, list[Tensor]], Tensor]  # update, state, values (newest first) -> the next state


def weighed(x: Tensor, a: float, values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """a x + the sum of weights times values. What is given is left as it is, and may be what is returned.

    x: the state.
    a: its weight.
    values: shaped like the state, at least one.
    weights: one a value.
    """
    total = combine(x, a, values[0], weights[0])
    for weight, value in zip(weights[1:], values[1:]):
        if weight:
            total = (torch.add if total is values[0] else Tensor.add_)(total, value, alpha=weight)
    return total


class Tabular(Solver):
    """A solver whose updates weigh the state and past values of one prediction."""

    @abstractmethod
    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        """Which attribute of a Prediction is remembered ("data", "noise", "velocity"), and the updates.

        Of several, joined by spaces, each is: their values take turns in the weights of the updates.

        process: of the network.
        times: decreasing, noisiest first; the last may be 0.
        """

    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        return self.follow(process, times, x, noise, lambda update, x, values: weighed(x, update.a, values, update.b))

    def follow(self, process: Process, times: Array, x: Tensor, noise: Noise, advance: Advance) -> Walk:
        """The walk, with another way from a state and the kept values to the next state.

        process, times, x, noise: see `Solver.walk`.
        advance: update, state and values (newest first) -> the next state, but for its noise.
        """
        value, updates, memory = program(self, process, times)
        steps = len(times) - 1
        past: list[Tensor] = []
        for i, (update, keep) in enumerate(zip(updates, memory)):
            p = yield Query(x, update.time, update.step, steps, update.stage)
            newest = [getattr(p, kind) for kind in (update.value or value).split()]
            if len(update.kept) > 1:
                newest = [weighed(newest[0], update.kept[0], past, update.kept[1:])]
            past[:0] = newest
            x = advance(update, p.state, past)
            if update.noise:
                x = torch.add(x, noise(i), alpha=update.noise)
            del past[keep:]
        return x

    def query_times(self, process: Process, times: Array) -> list[Query]:
        _, updates, _ = program(self, process, times)
        x = torch.zeros(1, 1)
        return [Query(x, update.time, update.step, len(times) - 1, update.stage) for update in updates]


Program = tuple[str, list[Update], list[int]]  # what is remembered, the updates, how many values each leaves behind


def program(solver: Tabular, process: Process, times: Array) -> Program:
    """A solver's table, computed once for runs at the same times: what is remembered, the updates, and how many of
    the newest values each of them leaves behind.

    solver: whose table it is.
    process: of the network.
    times: decreasing, noisiest first.
    """
    try:
        return _compiled(solver, process, tuple(map(float, times)))
    except TypeError:  # a solver or process that cannot be hashed
        return _compiled.__wrapped__(solver, process, tuple(map(float, times)))


@functools.lru_cache(maxsize=PROGRAMS)
def _compiled(solver: Tabular, process: Process, times: tuple[float, ...]) -> Program:
    value, updates = solver.table(process, np.array(times))
    return value, updates, _memory(updates, len(value.split()))


def _memory(updates: list[Update], kinds: int) -> list[int]:
    """How many of the newest values each update must leave behind for those after it."""
    reach = [max(len(update.b), len(update.kept)) for update in updates]
    later = [reach[i + 1 : i + max(reach)] for i in range(len(updates))]
    return [max([0, *(of - k * kinds for k, of in enumerate(after, 1))]) for after in later]
