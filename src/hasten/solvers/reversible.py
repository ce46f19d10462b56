"""Solvers whose every step can be undone to rounding: what inverting a picture into its noise needs.

They carry two states. `step` goes one step towards data and `inverse_step` back; both are generators like a
whole walk. Everything is written in the coordinates of `hasten.solvers.linear`, x = scale y with dy/dr = value,
where a first-order step from node s is x_t = scale_t (y_s + (r_t - r_s) value).
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hasten.predictions import Pair, Prediction, combine
from hasten.processes import Array, Process
from hasten.solvers.base import Noise, Query, Solver, Walk
from hasten.solvers.linear import Coordinates

Two = tuple[Tensor, Tensor]
Stepping = Generator[Query, Prediction, Two]

TOO_MUCH = 1e4  # growth of rounding errors over an inversion above which a warning is given


@dataclass(frozen=True)
class Timeline:
    """The times of a run with their coordinates.

    times: decreasing, noisiest first.
    at: the coordinates there.
    """

    times: Array
    at: Coordinates

    @classmethod
    def of(cls, process: Process, times: Array) -> Timeline:
        """The times of a run with the coordinates of a process.

        process: of the network.
        times: decreasing, noisiest first.
        """
        return cls(times, Coordinates.of(process, times, "auto"))

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.times) - 1

    def query(self, x: Tensor, i: int, step: int, stage: int = 0) -> Query:
        """The query for a state.

        x: the state, (rows, ...).
        i: the node it is at.
        step: as in `Query`.
        stage: as in `Query`.
        """
        return Query(x, float(self.times[i]), step, self.steps, stage)

    def value(self, p: Prediction) -> Tensor:
        """What of a prediction is dy/dr."""
        return getattr(p, self.at.value)

    def euler(self, x: Tensor, value: Tensor, s: int, t: int) -> Tensor:
        """The first-order step of a state from one node to another.

        x: the state at node s, (rows, ...).
        value: what the prediction there gives for dy/dr, see `value`.
        s: the node it starts from.
        t: the node it goes to.
        """
        scale, r = self.at.scale, self.at.r
        return combine(x, float(scale[t] / scale[s]), value, float(scale[t] * (r[t] - r[s])))


class Reversible(Solver):
    """A solver with two states and exact steps in both directions.

    A walk starts from unit noise or from a `Pair`; an inverse walk starts from data and returns a Pair that the
    walk takes back to that data.

    first: the index of the first time that `step` steps from.
    result: which of the two states is the picture in the end.
    """

    first: ClassVar[int] = 0
    result: ClassVar[int] = 0

    def begin(self, run: Timeline, x: Tensor) -> Stepping:
        """The two states at the noisy end, from the one that a walk is given.

        run: the times.
        x: the state at the first time, (rows, ...).
        """
        yield from ()
        return x, x

    def begin_inverse(self, run: Timeline, x: Tensor, process: Process) -> Stepping:
        """The two states at the clean end, from the data.

        run: the times.
        x: the data, (rows, ...).
        process: of the network.
        """
        yield from ()
        return x, x

    @abstractmethod
    def step(self, run: Timeline, i: int, pair: Two) -> Stepping:
        """From time i to time i + 1.

        run: the times.
        i: which.
        pair: the two states.
        """

    @abstractmethod
    def inverse_step(self, run: Timeline, i: int, pair: Two) -> Stepping:
        """From time i + 1 to time i: what `step` with the same i undoes exactly.

        run: the times.
        i: which.
        pair: the two states.
        """

    @abstractmethod
    def growth(self, steps: int) -> float:
        """How much larger a rounding error or spurious mode is after inverting so many steps."""

    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        run = Timeline.of(process, times)
        pair = (x[0], x[1]) if isinstance(x, Pair) else (yield from self.begin(run, x))
        for i in range(self.first, run.steps):
            pair = yield from self.step(run, i, pair)
        return pair[self.result]

    def inverse_walk(self, process: Process, times: Array, x: Tensor) -> Walk:
        """From data x at times[-1] to the Pair at times[0]. Warns where rounding errors grow too much.

        process: of the network.
        times: decreasing, as those of a walk.
        x: the data, (rows, ...).
        """
        run = Timeline.of(process, times)
        if self.growth(run.steps) > TOO_MUCH:
            warnings.warn(
                f"{self.name}: inverting {run.steps} steps makes rounding errors {self.growth(run.steps):.1g} times "
                "larger; take fewer steps, or a parameter nearer to 1",
                RuntimeWarning, stacklevel=2,
            )  # fmt: skip
        pair = yield from self.begin_inverse(run, x, process)
        for i in reversed(range(self.first, run.steps)):
            pair = yield from self.inverse_step(run, i, pair)
        return Pair.of(*pair)
