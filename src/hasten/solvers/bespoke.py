"""A solver whose weights are learnt for one model and its times."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError, positive_int
from hasten.core.registry import Paper
from hasten.fit import Trajectory, solve
from hasten.grids import GridLike, schedule
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS, Solver, Tabular, Update, program
from hasten.solvers.exponential import DPMSolverPP

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

    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        value, rows, _ = program(BASE, process, times)
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

    def learning(self, trajectory: Trajectory | None) -> Solver | None:
        from hasten.fit.bns import Learning

        return None if self.weights else Learning(order=self.order, trajectory=trajectory)

    @torch.no_grad()
    def fit(
        self, denoiser: DenoiserLike, noises: Tensor, steps: int = 10, grid: GridLike = "karras",
        trajectory: Trajectory | None = None, ridge: float = 1e-6,
    ) -> BNS:  # fmt: skip
        """The solver with weights that lead along the converged trajectory of this model, at these times.

        noises: start states, (rows, ...), 10 or more (with their prompts bound in the denoiser). trajectory: of the
        noises, `learning.converged` if None. ridge: see `learning.Learning`. To fit inside a pipeline, let it
        run by a `learning.Recording` and then by what `learning` gives.
        """
        from hasten.fit.bns import Learning, converged

        learning = Learning(order=self.order, trajectory=trajectory or converged(denoiser, noises), ridge=ridge)
        solve(learning, denoiser, schedule(grid, denoiser.process, steps), noises)
        return learning.fitted[-1]


BASE = DPMSolverPP(order=2)
