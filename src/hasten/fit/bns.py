"""Solvers that learn while they run: whoever hosts the run (a loop, a pipeline) hosts the fit too."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hasten.denoisers import DenoiserLike
from hasten.fit import Trajectory, solve
from hasten.fit.weights import least_squares
from hasten.grids import schedule, settling
from hasten.predictions import Prediction
from hasten.processes import Array, Process
from hasten.solvers import BNS, Query, UniPC
from hasten.solvers.base import Noise, Walk, program, told
from hasten.solvers.bespoke import BASE


@torch.no_grad()
def converged(denoiser: DenoiserLike, noises: Tensor, steps: int = 128) -> Trajectory:
    """The converged trajectory of start states (rows, ...): what `BNS.fit` leads along; several fits may share it."""
    recording = Recording()
    solve(recording, denoiser, schedule(settling(denoiser.process), denoiser.process, steps), noises)
    return recording.trajectories[-1]


@dataclass(frozen=True)
class Recording(UniPC):
    """UniPC whose runs are kept in `trajectories`, for runs on fine times that end on data."""

    trajectories: ClassVar[list[Trajectory]]  # of each instance, but no setting of it

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "trajectories", [])

    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        states: list[Tensor] = []
        slopes: list[Tensor] = []

        def keep(_: Query, p: Prediction) -> Prediction:
            states.append(p.state.clone())
            slopes.append(p.velocity)
            return p

        end = yield from told(super().walk(process, times, x, noise), keep)
        self.trajectories.append(Trajectory(process, times[:-1], states, slopes, end.clone()))
        return end


@dataclass(frozen=True)
class Learning(BNS):
    """A run that fits the weights of each step once it is there, in `fitted`, and goes on with them.

    Every step is fitted from where the steps before it really lead, so it makes up for their errors. trajectory: of
    the states it will start from. ridge: how strongly weights stay near those of DPM-Solver++ 2M, above 0.
    """

    trajectory: InitVar[Trajectory | None] = None
    ridge: InitVar[float] = 1e-6
    fitted: ClassVar[list[BNS]]
    _trajectory: ClassVar[Trajectory]
    _ridge: ClassVar[float]

    def __post_init__(self, trajectory: Trajectory | None, ridge: float) -> None:
        super().__post_init__()
        for name, value in {"_trajectory": trajectory, "_ridge": ridge, "fitted": []}.items():
            object.__setattr__(self, name, value)

    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        _, rows, _ = program(BASE, process, times)
        weights: list[float] = []
        past: list[Tensor] = []
        for i, row in enumerate(rows):
            p = yield Query(x, row.time, row.step, len(rows))
            past = [p.data, *past][: self.order]
            terms = [p.state, *past]
            found = least_squares(terms, self._trajectory.at(times[i + 1]).to(x), (row.a, *row.b), self._ridge)
            x = sum((weight * term for weight, term in zip(found, terms)), torch.zeros_like(x))
            weights += found + [0.0] * (self.order - len(past))
        self.fitted.append(BNS(self.order, tuple(weights), tuple(times.tolist())))
        return x
