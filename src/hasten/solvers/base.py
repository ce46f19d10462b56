"""What a solver is: a generator that yields queries, is sent predictions, and returns the result.

The host owns the network (a plain loop, a diffusers scheduler, a server that batches many walks); a walk
never calls it. What is fitted to a model is fitted by `hasten.fit`; nothing here needs that room to walk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from hasten.core.fitters import fitters
from hasten.core.registry import Paper, Registry
from hasten.predictions import Prediction
from hasten.processes import Array, Process


class Query(NamedTuple):
    """The network is wanted at state `x` and time `t`. Caches and progress bars need the rest.

    x: the state, (rows, ...).
    t: the time.
    step: which step of the run this is for, from 0.
    steps: how many steps the run has.
    stage: 0 for the first query of a step, 1, 2, ... for further ones.
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

    name: what recipes call it.
    paper: where it comes from.
    evaluations: network calls a step.
    convergence: its order in the size of the steps (weak if stochastic); cold starts may cap it at 2. 0 if more steps
        approach no solution of an ODE or SDE: it is for distilled networks.
    stochastic: whether it asks for noise.
    adaptive: whether it chooses its times as it goes, between the first and the last given.
    needs_fit: whether it takes numbers of the model, see `fit`, and has none yet; it walks without, as its base solver.
    warning: what is known to go wrong with it.
    search_space: the settings that a search tries, a mapping of fields each; {} is as it is, () leaves the solver out.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]
    evaluations: int = 1
    convergence: int = 1
    stochastic: bool = False
    adaptive: bool = False
    needs_fit: bool = False
    warning: ClassVar[str] = ""
    search_space: ClassVar[Sequence[Mapping[str, Any]]] = ({},)

    @abstractmethod
    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        """Solve from times[0] to times[-1]. After each yield the walk goes on from the prediction's own `x`.

        process: of the network.
        times: decreasing, noisiest first; the last may be 0.
        x: the state at times[0], (rows, ...).
        noise: called with i, gives the unit noise of the update after query i (0, 1, ...); what it gave replays a
            walk exactly.
        """

    def fit(self, *model_and_samples: Any, **settings: Any) -> Self:
        """The same solver with numbers of one model: `solver.fit(denoiser, noises, steps=6, grid="karras")`.

        What it takes differs from solver to solver: read on at the function of that class, one file each, in
        `hasten.fit` (`fit/bns.py` for `BNS`).
        Raises HastenError if there is nothing to fit in this solver.
        """
        return fitters(self, *model_and_samples, **settings)

    def query_times(self, process: Process, times: Array) -> list[Query]:
        """The queries of a run, in order, as a walk of a single number with a fake network makes them.

        process: of the network.
        times: decreasing, noisiest first.
        """
        return drain(self.walk(process, times, torch.zeros(1, 1), lambda i: torch.zeros(1, 1)), process)


def drain(walk: Walk, process: Process) -> list[Query]:
    """Run a walk against a network that always answers 0, and return what it asked.

    walk: one that has not begun.
    process: that the walk was made for.
    """
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
    """The same walk, told predictions that were changed on their way in.

    walk: one that has not begun.
    change: a query and the answer to it -> what the walk is told instead.
    """
    try:
        query = next(walk)
        while True:
            query = walk.send(change(query, (yield query)))
    except StopIteration as done:
        return done.value


SOLVERS: Registry[Solver] = Registry("solver", Solver)
