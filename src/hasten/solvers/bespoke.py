"""A solver whose weights are learnt for one model and its times."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from hasten.catalog import Paper
from hasten.errors import HastenError, positive_int
from hasten.fitting import Course, solve
from hasten.fitting.weights import least_squares
from hasten.grids import GridLike, schedule, settling
from hasten.predictions import Prediction
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS, Noise, Query, Row, Solver, Tabular, Walk, program, told
from hasten.solvers.exponential import DPMSolverPP, UniPC

if TYPE_CHECKING:
    from hasten.denoisers import DenoiserLike


@SOLVERS.add
@dataclass(frozen=True)
class BNS(Tabular):
    """Bespoke non-stationary: every step has its own weights of the state and of the last data predictions.

    order: how many data predictions, at least 1. weights: (1 + order) a step, of the state and then of the
    predictions, newest first. at: the times they were fitted for, 0 included; another run is refused, but for
    one that starts later on them (image to image). Unfitted it is DPM-Solver++ 2M, and so are the steps that
    lack predictions they were fitted with.
    Source: Shaul et al. 2024, section 3.1; fitted by least squares instead of its gradient descent.
    """

    order: int = 4
    weights: tuple[float, ...] = ()
    at: tuple[float, ...] = ()
    name = "bns"
    convergence = 2
    needs_fit: ClassVar[bool] = True
    paper = Paper("Bespoke Non-Stationary Solvers for Fast Sampling of Diffusion and Flow Models", 2024, "2403.01329")

    def __post_init__(self) -> None:
        positive_int("order", self.order)
        if len(self.weights) != max(0, len(self.at) - 1) * (1 + self.order):
            raise HastenError(
                f"weights: {len(self.weights)} numbers; give 1 + order = {1 + self.order} for each step between the "
                f"{len(self.at)} times of `at`"
            )

    def table(self, process: Process, times: Array) -> tuple[str, list[Row]]:
        value, rows, _ = program(_BASE, process, times)
        if not self.weights:
            return value, rows
        first = len(self.at) - len(times)
        if first < 0 or not np.allclose(times, self.at[first:], rtol=1e-6, atol=1e-9):
            raise HastenError(f"weights: fitted for {len(self.at) - 1} steps at other times; fit again for these")
        fitted = np.reshape(self.weights, (-1, 1 + self.order))[first:]
        return value, [
            replace(row, a=float(weights[0]), b=tuple(weights[1 : 2 + i].tolist()))
            if not weights[2 + i :].any()
            else row
            for i, (row, weights) in enumerate(zip(rows, fitted))
        ]

    def learning(self, course: Course | None) -> Solver | None:
        return None if self.weights else Learning(order=self.order, course=course)

    @torch.no_grad()
    def fit(
        self, denoiser: DenoiserLike, noises: Tensor, steps: int = 10, grid: GridLike = "karras",
        course: Course | None = None, ridge: float = 1e-6,
    ) -> BNS:  # fmt: skip
        """The solver with weights that lead along the converged course of this model, at these times.

        noises: start states, (rows, ...), 10 or more (with their prompts bound in the denoiser). course: of the
        noises, found here in 128 calls if None. ridge: see `Learning`. To fit inside a pipeline, let it run by a
        `Recording` and then by `learning`.
        """
        learning = Learning(order=self.order, course=course or self.course(denoiser, noises), ridge=ridge)
        solve(learning, denoiser, schedule(grid, denoiser.process, steps), noises)
        return learning.fitted[-1]

    @staticmethod
    @torch.no_grad()
    def course(denoiser: DenoiserLike, noises: Tensor, steps: int = 128) -> Course:
        """The converged course of start states: what `fit` leads along, to be shared by several fits."""
        recording = Recording()
        solve(recording, denoiser, schedule(settling(denoiser.process), denoiser.process, steps), noises)
        return recording.courses[-1]


@dataclass(frozen=True)
class Recording(UniPC):
    """UniPC whose runs are kept in `courses`, for runs on fine times that end on data."""

    courses: ClassVar[list[Course]]  # of each instance, but no setting of it

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "courses", [])

    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        states: list[Tensor] = []
        slopes: list[Tensor] = []

        def keep(_: Query, p: Prediction) -> Prediction:
            states.append(p.state.clone())
            slopes.append(p.velocity)
            return p

        end = yield from told(super().walk(process, times, x, noise), keep)
        self.courses.append(Course(process, times[:-1], states, slopes, end.clone()))
        return end


@dataclass(frozen=True)
class Learning(BNS):
    """A run that fits the weights of each step once it is there, in `fitted`, and goes on with them.

    Every step is fitted from where the steps before it really lead, so it makes up for their errors. course: of
    the states it will start from. ridge: how strongly weights stay near those of DPM-Solver++ 2M, above 0.
    """

    course: InitVar[Course | None] = None
    ridge: InitVar[float] = 1e-6
    fitted: ClassVar[list[BNS]]
    _course: ClassVar[Course]
    _ridge: ClassVar[float]

    def __post_init__(self, course: Course | None, ridge: float) -> None:
        super().__post_init__()
        for name, value in {"_course": course, "_ridge": ridge, "fitted": []}.items():
            object.__setattr__(self, name, value)

    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        _, rows, _ = program(_BASE, process, times)
        weights: list[float] = []
        past: list[Tensor] = []
        for i, row in enumerate(rows):
            p = yield Query(x, row.time, row.step, len(rows))
            past = [p.data, *past][: self.order]
            terms = [p.state, *past]
            found = least_squares(terms, self._course.at(times[i + 1]).to(x), (row.a, *row.b), self._ridge)
            x = sum((weight * term for weight, term in zip(found, terms)), torch.zeros_like(x))
            weights += found + [0.0] * (self.order - len(past))
        self.fitted.append(BNS(self.order, tuple(weights), tuple(times.tolist())))
        return x


_BASE = DPMSolverPP(order=2)
