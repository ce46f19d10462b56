r"""DPM-Solver-v3: expand not the data or the noise but what is least sensitive to the state, as measured.

With e the noise prediction and l, s, b tables over lam (each elementwise or a number), the ODE is written for

    f = (sigma e - l x) / alpha,   d(x e^L / alpha) / dlam = -e^L f,   L = \int l,

and f = e^S (g + B), S = \int s, B = \int e^{-S} b, where g is expanded through nodes and the rest integrated.
l = 1, s = b = 0 expands the data prediction (DPM-Solver++), l = 0, s = -1, b = 0 the noise (DPM-Solver).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError, one_of
from hasten.core.registry import Paper
from hasten.denoisers import DenoiserLike
from hasten.fit import Probe
from hasten.fit.statistics import Statistics, powers_through
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS, Noise, Query, Solver, Walk

DEPTH = 4  # how many values an update can use: order 3 and its corrector


@SOLVERS.add
@dataclass(frozen=True)
class DPMSolverV3(Solver):
    """Multistep, with an optional corrector that costs no query. Unfitted it expands the data prediction.

    order: 1 to 3 (2 for guided, 3 for unconditional sampling). corrector: "pseudo" (one order above the
    predictor's, derivatives by divided differences alone), "plain" (the predictor's order), "none".
    pseudo_predictor: divided differences there too. What is pseudo is second order at most.
    statistics: (3, points, ...) tables of l, s, b, uniform in lam over `span`; elementwise, or (3, points) numbers.
    Times need not lie on the tables' grid, and integrals are exact for constant tables.
    Source: Zheng et al. 2023, section 3.
    """

    order: int = 3
    corrector: str = "pseudo"
    pseudo_predictor: bool = False
    lower_order_final: bool = True
    span: tuple[float, ...] = ()
    statistics: Tensor | None = field(default=None, hash=False)
    name = "dpm-v3"
    paper = Paper("DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model Statistics", 2023, "2310.13268")
    needs_fit: ClassVar[bool] = True
    warning = "order 3 is unstable at few evaluations under guidance; take order 2 there"

    def __post_init__(self) -> None:
        one_of("order", self.order, (1, 2, 3))
        one_of("corrector", self.corrector, ("pseudo", "plain", "none"))
        alone = min(self.order, 2) if self.pseudo_predictor else self.order
        corrected = {"none": alone, "plain": self.order, "pseudo": 2}[self.corrector]
        object.__setattr__(self, "convergence", corrected)
        if self.statistics is None:
            return
        shape = tuple(self.statistics.shape)
        if len(shape) < 2 or shape[0] != 3 or len(self.span) != 2 or not self.span[0] < self.span[1]:
            raise HastenError(f"statistics: {shape} over {self.span}; give (3, points, ...) over a span of two lams")

    def __eq__(self, other: object) -> bool:
        if type(other) is not DPMSolverV3:
            return NotImplemented
        mine, theirs = ([getattr(s, f.name) for f in fields(s) if f.name != "statistics"] for s in (self, other))
        a, b = self.statistics, other.statistics
        return mine == theirs and (a is b or (a is not None and b is not None and torch.equal(a, b)))

    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        values: list[Tensor] = []  # newest first
        for i, step in enumerate(_plan(self, process, tuple(map(float, times)), x.dtype, x.device)):
            p = yield Query(x, float(times[i]), i, len(times) - 1)
            if step is None:  # onto data, or off pure noise: no finite lam to expand in
                end = float(process.alpha(times[i + 1])), float(process.sigma(times[i + 1]))
                x = p.data if end[1] == 0 else end[0] * p.data + end[1] * p.noise
                continue
            x = p.state
            values.insert(0, _plus(p.noise * step.of_noise, step.of_state, x))
            x = _plus(step.constant, step.a, x)
            for weight, value in zip(step.weights, values):
                x = _plus(x, weight, value)
            del values[DEPTH - 1 :]
        return x

    @torch.no_grad()
    def fit(
        self, denoiser: DenoiserLike, data: Tensor, points: int = 120, elementwise: bool = True, seed: int = 0,
        batch: int = 256, delta: float | None = None,
    ) -> DPMSolverV3:  # fmt: skip
        """The solver with statistics of this model, from clean data (K, ...) or finished samples of it.

        points: of the tables, between lam(t_max) and lam(t_min). elementwise: a table for every coordinate,
        as in the paper, or one for all. delta: for the central differences that stand in for the paper's
        forward-mode derivatives, five network calls a row and point; by default the cube root of the data's
        precision, give about 0.05 for a network in half precision.
        Source: Zheng et al. 2023, section 3.1 and appendix C.1.1.
        """
        step = delta or torch.finfo(data.dtype).eps ** (1 / 3)
        probe = Probe(denoiser, data, step, seed, batch, (0,) if elementwise else tuple(range(data.ndim)))
        found = Statistics.measured(probe, points)
        return replace(self, span=found.span, statistics=found.tables)


Weight = float | Tensor  # the same for every coordinate, or one for each


class _Step(NamedTuple):
    """x <- a x + constant + the sum of weights times values, the newest being of_noise noise + of_state x."""

    of_noise: float
    of_state: Weight
    a: Weight
    constant: Tensor
    weights: list[Weight]


def _plus(total: Tensor, weight: Weight, value: Tensor) -> Tensor:
    """total + weight * value."""
    if isinstance(weight, Tensor):
        return torch.addcmul(total, weight, value)
    return torch.add(total, value, alpha=weight)


@functools.lru_cache(maxsize=16)
def _plan(
    solver: DPMSolverV3, process: Process, times: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> list[_Step | None]:
    """The coefficients of every step; None where lam is infinite at one of its ends.

    A correction, which keeps the value of the predicted state, is folded into the update that follows it.
    """
    lam, alpha, sigma = process.lam(times), process.alpha(times), process.sigma(times)
    count, first = len(times) - 1, 0 if np.isfinite(lam[0]) else 1
    last = count if np.isfinite(lam[-1]) else count - 1
    statistics = Statistics(solver.statistics, solver.span)
    parts, S, B = statistics.along(lam[first : last + 1])

    def update(i: int, nodes: Sequence[int], pseudo: bool, newest: int) -> Tensor:
        """Of step i: the constant and the weights of the values of node `newest` and those before."""
        part, table = parts[i - first], torch.zeros(1 + DEPTH, *parts[0].C.shape, dtype=torch.float64)
        scale, table[0] = alpha[i + 1] * torch.exp(-part.L), -part.C
        for column, n in zip(powers_through(np.array([lam[n] - lam[i] for n in nodes]), pseudo).T, nodes):
            weight = sum(float(c) * moment for c, moment in zip(column, part.moments))
            table[1 + newest - n] = -weight * torch.exp(S[i - first] - S[n - first])
            table[0] += weight * torch.exp(S[i - first]) * (B[n - first] - B[i - first])
        return scale * table

    def used(weight: Tensor) -> Weight:
        return weight.item() if weight.ndim == 0 else weight.to(device, dtype)

    plan: list[_Step | None] = [None] * count
    pseudo = solver.corrector == "pseudo"
    before: list[int] = []  # the nodes that the step before passed through
    for i in range(first, last):
        rank = min(solver.order, i - first + 1, count - i if solver.lower_order_final else solver.order)
        nodes = list(range(i, i - rank, -1))
        a = alpha[i + 1] / alpha[i] * torch.exp(-parts[i - first].L)
        found, depth = update(i, nodes, solver.pseudo_predictor, i), rank
        if before and solver.corrector != "none" and len(before) + pseudo > 1:
            better = [i - 1, i, *before[1:]][: len(before) + pseudo]
            found += a * (update(i - 1, better, pseudo, i) - update(i - 1, before, solver.pseudo_predictor, i))
            depth = max(rank, len(before) + 1)
        of_state = -statistics.at(lam[i : i + 1])[0, 0] / alpha[i]
        weights = [used(weight) for weight in found[1 : 1 + depth]]
        plan[i] = _Step(float(sigma[i] / alpha[i]), used(of_state), used(a), found[0].to(device, dtype), weights)
        before = nodes
    return plan
