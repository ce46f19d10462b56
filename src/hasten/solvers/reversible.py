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

import torch
from torch import Tensor

from hasten.core.errors import HastenError, positive_share, unit_interval
from hasten.core.registry import Paper
from hasten.predictions import Pair, Prediction, combine
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS, Noise, Query, Solver, Walk
from hasten.solvers.linear import Coordinates

Two = tuple[Tensor, Tensor]
Stepping = Generator[Query, Prediction, Two]

TOO_MUCH = 1e4  # growth of rounding errors over an inversion above which a warning is given


@dataclass(frozen=True)
class Timeline:
    """The times of a run with their coordinates."""

    times: Array
    at: Coordinates

    @classmethod
    def of(cls, process: Process, times: Array) -> Timeline:
        return cls(times, Coordinates.of(process, times, "auto"))

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    def query(self, x: Tensor, i: int, step: int, stage: int = 0) -> Query:
        return Query(x, float(self.times[i]), step, self.steps, stage)

    def value(self, p: Prediction) -> Tensor:
        return getattr(p, self.at.value)

    def euler(self, x: Tensor, value: Tensor, s: int, t: int) -> Tensor:
        """The first-order step of state x from node s to node t."""
        scale, r = self.at.scale, self.at.r
        return combine(x, float(scale[t] / scale[s]), value, float(scale[t] * (r[t] - r[s])))


class Reversible(Solver):
    """A solver with two states and exact steps in both directions.

    first: the index of the first time that `step` steps from. result: which state is the picture in the end. A
    walk starts from unit noise or from a `Pair`; an inverse walk starts from data and returns a Pair that the
    walk takes back to that data.
    """

    first: ClassVar[int] = 0
    result: ClassVar[int] = 0

    def begin(self, run: Timeline, x: Tensor) -> Stepping:
        """The two states at the noisy end, of one."""
        yield from ()
        return x, x

    def begin_inverse(self, run: Timeline, x: Tensor, process: Process) -> Stepping:
        """The two states at the clean end, of one."""
        yield from ()
        return x, x

    @abstractmethod
    def step(self, run: Timeline, i: int, pair: Two) -> Stepping:
        """From time i to time i + 1."""

    @abstractmethod
    def inverse_step(self, run: Timeline, i: int, pair: Two) -> Stepping:
        """From time i + 1 to time i: what `step` with the same i undoes exactly."""

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
        """From data x at times[-1] to the Pair at times[0]; `times` decrease, as those of a walk."""
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


@SOLVERS.add
@dataclass(frozen=True)
class EDICT(Reversible):
    """Two copies, each moved by a DDIM step that asks the network about the other, then mixed; exactly invertible.

    mixing: the share p of itself that a copy keeps, above 0 up to 1; 0.9 to 0.97 for 50 steps. 1 is no mixing,
    unstable at few steps. Which copy moves first alternates. First order, with both queries of a step at the
    time it starts from: a tool for inversion, not a fast sampler. The copies' difference grows by p^-2 a step inverted.
    Source: Wallace et al. 2022, the coupled steps with mixing layers; the alternation is in the official code.
    """

    mixing: float = 0.93
    name = "edict"
    evaluations = 2
    warning = "made for inversion: two calls a step at first order, poor at few steps, worst under guidance"
    paper = Paper("EDICT: Exact Diffusion Inversion via Coupled Transformations", 2022, "2211.12446")

    def __post_init__(self) -> None:
        positive_share("mixing", self.mixing)

    def growth(self, steps: int) -> float:
        return self.mixing ** (-2 * steps)

    def step(self, run: Timeline, i: int, pair: Two) -> Stepping:
        one, other = pair if i % 2 == 0 else pair[::-1]
        p = yield run.query(other, i, i)
        one, other = run.euler(one, run.value(p), i, i + 1), p.x
        p = yield run.query(one, i, i, 1)
        one, other = p.x, run.euler(other, run.value(p), i, i + 1)
        x, y = (one, other) if i % 2 == 0 else (other, one)
        x = combine(x, self.mixing, y, 1 - self.mixing)
        return x, combine(y, self.mixing, x, 1 - self.mixing)

    def inverse_step(self, run: Timeline, i: int, pair: Two) -> Stepping:
        x, y = pair
        y = combine(y, 1 / self.mixing, x, 1 - 1 / self.mixing)
        x = combine(x, 1 / self.mixing, y, 1 - 1 / self.mixing)
        one, other = (x, y) if i % 2 == 0 else (y, x)
        p = yield run.query(one, i, i)
        other = run.euler(other, run.value(p), i + 1, i)
        p = yield run.query(other, i, i, 1)
        one = run.euler(one, run.value(p), i + 1, i)
        return (one, other) if i % 2 == 0 else (other, one)


@SOLVERS.add
@dataclass(frozen=True)
class BDIA(Reversible):
    """DDIM that also steps back over the slot it came through and mends what it did there; exactly invertible.

    gamma: how much is mended, 0 (DDIM) to 1. At 1 this is the leapfrog rule: second order on smooth grids, but
    oscillations are not damped; below it is first order with (1 - gamma) / (1 + gamma) of DDIM's error. An
    inversion multiplies oscillations by 1 / gamma a step: invert with 0.9 or more. The first step is DDIM's.
    Source: Zhang et al. 2023, BDIA-DDIM.
    """

    gamma: float = 1.0
    name = "bdia"
    first = result = 1
    convergence = 2
    warning = "unstable at few evaluations under guidance; below 20 steps that grow fast (Karras times) take gamma 0.5"
    paper = Paper("Exact Diffusion Inversion via Bi-directional Integration Approximation", 2023, "2307.10829")

    def __post_init__(self) -> None:
        unit_interval("gamma", self.gamma)
        object.__setattr__(self, "convergence", 2 if self.gamma == 1 else 1)

    def growth(self, steps: int) -> float:
        if self.gamma == 0:
            raise HastenError("gamma: 0 is plain DDIM, which cannot be inverted exactly; give 0.9 to 1")
        return self.gamma ** (1 - steps)

    def begin(self, run: Timeline, x: Tensor) -> Stepping:
        x, _, ahead = yield from self.slots(run, 0, x)
        return x, ahead

    def begin_inverse(self, run: Timeline, x: Tensor, process: Process) -> Stepping:
        """A DDIM step into the noise. The network is asked about data as if it were at its smallest time."""
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
        """The state at node i as the host hands it back, and the solver's steps from it to nodes i - 1 and i + 1.

        At node 0, which has nothing behind it, the state takes that place.
        """
        p = yield run.query(x, i, i)
        value, x = run.value(p), p.state
        return x, run.euler(x, value, i, i - 1) if i else x, run.euler(x, value, i, i + 1)


@SOLVERS.add
@dataclass(frozen=True)
class BDIAHeun(BDIA):
    """Heun (EDM) that mends the step before, at Heun's cost: BDIA-EDM. With `exact` invertible, at one more query.

    gamma: how much is mended; 0 is Heun. exact: step back by Heun from the newest state alone (a third query),
    which can be undone; else with the slope already known there, and not onto data. Second order.
    Source: Zhang et al. 2023, BDIA-EDM, derived from the general rule (the official code has only the other form).
    """

    exact: bool = False
    name = "bdia-edm"
    evaluations = 2

    def __post_init__(self) -> None:
        unit_interval("gamma", self.gamma)
        object.__setattr__(self, "evaluations", 3 if self.exact else 2)

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
