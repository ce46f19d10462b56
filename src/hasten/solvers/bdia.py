"""BDIA: a step that mends the one before, for DDIM and for Heun, and can be undone."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hasten.core.errors import HastenError, unit_interval
from hasten.core.registry import Paper
from hasten.predictions import Prediction, combine
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS, Noise, Query, Walk
from hasten.solvers.reversible import Reversible, Stepping, Timeline, Two


@SOLVERS.add
@dataclass(frozen=True)
class BDIA(Reversible):
    """DDIM that also steps back over the slot it came through and mends what it did there; exactly invertible.

    The first step is DDIM's. An inversion multiplies oscillations by 1 / gamma a step: invert with 0.9 or more.

    gamma: how much is mended, 0 (DDIM) to 1. At 1 this is the leapfrog rule: second order on smooth grids, but
        oscillations are not damped; below it is first order with (1 - gamma) / (1 + gamma) of DDIM's error.

    Source: Zhang et al. 2023, BDIA-DDIM.
    """

    gamma: float = 1.0
    name = "bdia"
    first = result = 1
    warning = "unstable at few evaluations under guidance; below 20 steps that grow fast (Karras times) take gamma 0.5"
    paper = Paper("Exact Diffusion Inversion via Bi-directional Integration Approximation", 2023, "2307.10829")
    search_space: ClassVar[Sequence[Mapping[str, Any]]] = ()  # made for inversion

    def __post_init__(self) -> None:
        unit_interval("gamma", self.gamma)

    @property
    def convergence(self) -> int:
        return 2 if self.gamma == 1 else 1

    def growth(self, steps: int) -> float:
        if self.gamma == 0:
            raise HastenError("gamma: 0 is plain DDIM, which cannot be inverted exactly; give 0.9 to 1")
        return self.gamma ** (1 - steps)

    def begin(self, run: Timeline, x: Tensor) -> Stepping:
        x, _, ahead = yield from self.slots(run, 0, x)
        return x, ahead

    def begin_inverse(self, run: Timeline, x: Tensor, process: Process) -> Stepping:
        """A DDIM step into the noise. The network is asked about data as if it were at its smallest time.

        run: the times.
        x: the data, (rows, ...).
        process: of the network.
        """
        clean, last = float(run.times[-1]), run.steps
        near = max(clean, process.t_min)
        p = yield Query(x * float(process.alpha(near) / process.alpha(clean)), near, last - 1, last)
        return run.euler(x, run.value(p), last, last - 1), x

    def step(self, run: Timeline, i: int, pair: Two) -> Stepping:
        older, x = pair
        state, behind, ahead = yield from self.slots(run, i, x)
        if state is not x:  # edited by the host: the older state moves along as the ODE would have it
            ratio = run.at.scale[i - 1] * run.at.r[i - 1] / (run.at.scale[i] * run.at.r[i])
            older = torch.add(older, state - x, alpha=float(ratio))
        return state, torch.add(ahead, older - behind, alpha=self.gamma)

    def inverse_step(self, run: Timeline, i: int, pair: Two) -> Stepping:
        x, newer = pair
        _, behind, ahead = yield from self.slots(run, i, x)
        return torch.add(behind, newer - ahead, alpha=1 / self.gamma), x

    def slots(self, run: Timeline, i: int, x: Tensor) -> Generator[Query, Prediction, tuple[Tensor, Tensor, Tensor]]:
        """The state at a node as the host hands it back, and the solver's steps from it to the nodes before and after.

        At node 0, which has nothing before it, the state takes that place.

        run: the times.
        i: the node.
        x: the state there, (rows, ...).
        """
        p = yield run.query(x, i, i)
        value, x = run.value(p), p.state
        return x, run.euler(x, value, i, i - 1) if i else x, run.euler(x, value, i, i + 1)


@SOLVERS.add
@dataclass(frozen=True)
class BDIAHeun(BDIA):
    """Heun (EDM) that mends the step before, at Heun's cost: BDIA-EDM. With `exact` invertible, at one more query.

    Second order.

    gamma: how much is mended, 0 (Heun) to 1.
    exact: step back by Heun from the newest state alone (a third query), which can be undone; else with the slope
        already known there, and not onto data.

    Source: Zhang et al. 2023, BDIA-EDM, derived from the general rule (the official code has only the other form).
    """

    exact: bool = False
    name = "bdia-edm"

    @property
    def convergence(self) -> int:
        return 2

    @property
    def evaluations(self) -> int:
        return 3 if self.exact else 2

    def growth(self, steps: int) -> float:
        if not self.exact:
            raise HastenError("exact: False cannot be inverted, its mending knows more than two states; give True")
        return super().growth(steps)

    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        if self.exact:
            return (yield from super().walk(process, times, x, noise))
        run = Timeline.of(process, times)
        scale, r = run.at.scale, run.at.r
        mending, foreseen = torch.zeros_like(x), x  # in y, and the slope the last step expected here
        for i in range(run.steps):
            p = yield run.query(x, i, i)
            value, state = run.value(p), p.state
            if i and r[i + 1] > 0:
                if state is not x:  # edited by the host: what was expected moves along as the ODE would have it
                    foreseen = torch.add(foreseen, state - x, alpha=float(1 / (scale[i] * r[i])))
                change = combine(value - foreseen, float(r[i - 1] - r[i]) / -2, mending, -1.0)
                mending = change * self.gamma
                ahead, foreseen = yield from self._heun(run, i, i + 1, state, value, stage=1)
                x = torch.add(ahead, mending, alpha=float(scale[i + 1]))
            else:
                x, foreseen = yield from self._heun(run, i, i + 1, state, value, stage=1)
        return x

    def slots(self, run: Timeline, i: int, x: Tensor) -> Generator[Query, Prediction, tuple[Tensor, Tensor, Tensor]]:
        p = yield run.query(x, i, i)
        value, behind, x = run.value(p), p.state, p.state
        ahead, _ = yield from self._heun(run, i, i + 1, x, value, stage=1)
        if i:
            behind, _ = yield from self._heun(run, i, i - 1, x, value, stage=2)
        return x, behind, ahead

    def _heun(self, run: Timeline, i: int, j: int, x: Tensor, value: Tensor, stage: int) -> Stepping:
        """The Heun step of x from node i to node j, and the slope it finds there. Onto data it is Euler's."""
        end = run.euler(x, value, i, j)
        if run.at.r[j] == 0:
            return end, value
        p = yield run.query(end, j, i, stage)
        there = run.value(p)
        return torch.add(p.state, there - value, alpha=float(run.at.scale[j] * (run.at.r[j] - run.at.r[i]) / 2)), there
