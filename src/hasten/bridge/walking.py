"""A solver's walk that can be copied midway: pipelines that tile or force copy their schedulers as they go."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hasten.predictions import Prediction
from hasten.processes import Array, Process
from hasten.solvers import Query, Solver
from hasten.solvers.base import Noise, Walk
from hasten.solvers.table import Tabular, program


@dataclass(eq=False)
class Walking:
    """A walk of a run, and as much of what it was told as a copy needs to go on from the same place.

    A generator cannot be copied, so a copy begins anew and is told the same again before its next step. Solvers
    whose updates weigh a few past values need only these: the older answers are replaced by zeros.

    solver: whose walk it is.
    process: of the network.
    times: of the run.
    state: at times[0].
    """

    solver: Solver
    process: Process
    times: Array
    state: Tensor
    _told: deque[Prediction] = field(default_factory=deque)
    _count: int = 0
    _noises: dict[int, Tensor] = field(default_factory=dict)
    _walk: Walk | None = None
    _noise: Noise | None = None

    def __post_init__(self) -> None:
        self._told = deque(self._told, maxlen=_memory(self.solver, self.process, self.times))

    def send(self, prediction: Prediction, noise: Noise) -> Query:
        """Tell the walk an answer; its next query.

        prediction: the answer to the query before.
        noise: of the update after it.
        Raises StopIteration with the result where the walk is over.
        """
        self._noise = noise
        if self._walk is None:
            self._walk = self._resumed()
        self._told.append(prediction)
        self._count += 1
        return self._walk.send(prediction)

    def undo(self) -> bool:
        """Forget the last answer; whether there is one left before it, and a walk to go on with."""
        self._told.pop()
        self._count, self._walk = self._count - 1, None
        return self._count > 0

    def __deepcopy__(self, memo: Any) -> Walking:
        return Walking(
            self.solver, self.process, self.times, self.state, deque(self._told), self._count, dict(self._noises)
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_walk": None, "_noise": None}

    def _resumed(self) -> Walk:
        """A walk that has been told all but the answer that comes next."""
        walk = self.solver.walk(self.process, self.times, self.state, self._drawn)
        query, noise = next(walk), self._noise
        self._noise = lambda step: torch.zeros_like(self.state)  # what was drawn is in the states that follow
        forgotten = self._count - len(self._told)
        for told in [None] * forgotten + list(self._told):
            if told is None:
                nothing = torch.zeros_like(self.state)
                told = Prediction(nothing, float(self.process.alpha(query.t)), 1.0, nothing, "sample")
            query = walk.send(told)
        self._noise = noise
        return walk

    def _drawn(self, step: int) -> Tensor:
        """The noise of an update; where all answers are kept, so is that, and a copy is told the same."""
        assert self._noise is not None
        if self._told.maxlen is not None:
            return self._noise(step)
        if step not in self._noises:
            self._noises[step] = self._noise(step)
        return self._noises[step]


def _memory(solver: Solver, process: Process, times: Array) -> int | None:
    """How many answers a walk goes back to; None if that cannot be told, and all are kept."""
    if not isinstance(solver, Tabular) or type(solver).walk is not Tabular.walk:
        return None
    value, updates, kept = program(solver, process, times)
    # one more, so that the last answer can be undone
    return -(-max(kept, default=0) // len(value.split())) + max(len(update.kept) for update in updates) + 1
