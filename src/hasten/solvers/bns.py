"""BNS: a solver whose weights are learnt for one model and its times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from hasten.core.errors import HastenError, positive_int
from hasten.core.registry import Paper
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS
from hasten.solvers.dpm_solver import DPMSolverPP
from hasten.solvers.table import Tabular, Update, program

BASE = DPMSolverPP(order=2)  # what it is unfitted
RELATIVE, ABSOLUTE = 1e-6, 1e-9  # differences up to which times are the same


@SOLVERS.add
@dataclass(frozen=True)
class BNS(Tabular):
    """Bespoke non-stationary: every step has its own weights of the state and of the last data predictions.

    Unfitted it is DPM-Solver++ 2M, and so are the steps that lack predictions they were fitted with. Fitted by
    `fit`, see `hasten.fit.bns`.

    order: how many data predictions a step weighs, at least 1.
    weights: (1 + order) a step, of the state and then of the predictions, newest first.
    at: the times they were fitted for, 0 included; another run is refused, but for one that starts later on them
        (image to image).

    Source: Shaul et al. 2024, section 3.1.
    """

    order: int = 4
    weights: tuple[float, ...] = ()
    at: tuple[float, ...] = ()
    name = "bns"
    convergence = 2
    paper = Paper("Bespoke Non-Stationary Solvers for Fast Sampling of Diffusion and Flow Models", 2024, "2403.01329")
    search_space: ClassVar[Sequence[Mapping[str, Any]]] = ({"order": 2}, {"order": 4})

    def __post_init__(self) -> None:
        positive_int("order", self.order)
        if len(self.weights) != max(0, len(self.at) - 1) * (1 + self.order):
            raise HastenError(
                f"weights: {len(self.weights)} numbers; give 1 + order = {1 + self.order} for each step between the "
                f"{len(self.at)} times of `at`"
            )

    @property
    def needs_fit(self) -> bool:
        return not self.weights

    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        value, updates, _ = program(BASE, process, times)
        if not self.weights:
            return value, updates
        first = len(self.at) - len(times)
        if first < 0 or not np.allclose(times, self.at[first:], rtol=RELATIVE, atol=ABSOLUTE):
            raise HastenError(f"weights: fitted for {len(self.at) - 1} steps at other times; fit again for these")
        fitted = np.reshape(self.weights, (-1, 1 + self.order))[first:]
        return value, [
            replace(update, a=float(weights[0]), b=tuple(weights[1 : 2 + i].tolist()))
            if not weights[2 + i :].any()
            else update
            for i, (update, weights) in enumerate(zip(updates, fitted))
        ]
