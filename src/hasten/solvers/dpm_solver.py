"""DPM-Solver and DPM-Solver++: orders 1 to 3, multistep or singlestep, as an ODE or as an SDE."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hasten.core.errors import one_of, positive_share, unit_interval
from hasten.core.registry import Paper
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS
from hasten.solvers.exponential import Exponential
from hasten.solvers.table import Update


@SOLVERS.add
@dataclass(frozen=True)
class DPMSolverPP(Exponential):
    """DPM-Solver++: the data prediction expanded to order 1, 2 or 3, as an ODE or as an SDE.

    order: 1, 2 or 3.
    method: "multistep" (1 query a step, re-using earlier ones) or "singlestep" (a step looks inside itself).
    rule: "midpoint" (the paper's; type dpmsolver) or "exact" (its Taylor form; called heun in diffusers);
        multistep order 3 is always exact, but for `compat`.
    compat: multistep order 3 with half the second derivative, as the official code, diffusers and k-diffusion have
        it; second order.
    eta: 0 is the ODE, 1 the SDE; with singlestep order 2 that is k-diffusion's dpmpp_sde. From 0 to 1.
    r: where singlestep order 2 looks, as a share of the step in lam, above 0 up to 1.
    schedule: of singlestep. "fixed" looks inside every step, at `r` of it (order 2) or a third and two (order 3),
        which makes `order` queries a step; "fast" spends one query a time of the grid, on steps that span up to
        `order` times.
    lower_order_final: end multistep with lower orders.

    Source: Lu et al. 2022, algorithms 1 and 2, eq. (9), and the section on diffusion SDEs.
    """

    order: int = 2
    method: str = "multistep"
    rule: str = "midpoint"
    compat: bool = False
    eta: float = 0.0
    r: float = 0.5
    schedule: str = "fixed"
    lower_order_final: bool = True
    name = "dpm++"
    paper = Paper("DPM-Solver++: Fast Solver for Guided Sampling", 2022, "2211.01095")
    search_space: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"order": 2}, {"order": 2, "rule": "exact"}, {"order": 3}, {"order": 3, "compat": True},
        {"order": 2, "method": "singlestep"},
    )  # fmt: skip

    def __post_init__(self) -> None:
        one_of("order", self.order, (1, 2, 3))
        one_of("method", self.method, ("multistep", "singlestep"))
        one_of("rule", self.rule, ("midpoint", "exact"))
        one_of("schedule", self.schedule, ("fixed", "fast"))
        unit_interval("eta", self.eta)
        positive_share("r", self.r)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @property
    def evaluations(self) -> int:
        return self.order if self.method == "singlestep" and self.schedule == "fixed" else 1

    @property
    def convergence(self) -> int:
        return 2 if self.compat and self.method == "multistep" else self.order

    @property
    def bend(self) -> str:
        return f"{self.rule},halved" if self.compat else self.rule

    def damping(self, h: float) -> float:
        return math.exp(-self.eta * h) if self.eta else 1.0

    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        if self.method == "singlestep":
            inner = {1: (), 2: (self.r,), 3: (1 / 3, 2 / 3)}[self.order] if self.schedule == "fixed" else None
            return self.singlestep(process, times, self.rule, inner)
        return super().table(process, times)


@SOLVERS.add
@dataclass(frozen=True)
class DPMSolver(DPMSolverPP):
    """DPM-Solver: the noise prediction expanded to order 1, 2 or 3; DPM-Solver-fast at the defaults.

    Where alpha is 0, as at the start of flows, the first step expands the data.

    order: 1, 2 or 3.
    method: "singlestep" or "multistep", which with rule "exact" is DEIS in log-rho, with eta 1 SDE-DPM-Solver.
    schedule: "fast" spends one query a time of the given grid, on steps that span several; "fixed" as in DPMSolverPP.
    rule, compat, eta, r, lower_order_final: as in DPMSolverPP.

    Source: Lu et al. 2022, eq. (3.4) to (3.7), algorithms 1 and 2.
    """

    order: int = 3
    method: str = "singlestep"
    schedule: str = "fast"
    name = "dpm"
    warning = "unstable under guidance: at 8 evaluations and guidance 7.5, 16 times DDIM's error on a mixture"
    expand = "noise"
    paper = Paper("DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling", 2022, "2206.00927")
    search_space: ClassVar[Sequence[Mapping[str, Any]]] = ({},)


# MR sampler (Li et al. 2025, arXiv 2502.07856): the same on what is around the mean, see `denoisers.AroundMean`
SOLVERS.alias("mr-sampler", "dpm++", rule="exact")
SOLVERS.alias("mr-sampler-sde", "dpm++", rule="exact", eta=1.0)
SOLVERS.alias("mr-sampler-noise", "dpm", order=2, method="multistep", rule="exact")
SOLVERS.alias("mr-sampler-noise-sde", "dpm", order=2, method="multistep", rule="exact", eta=1.0)
