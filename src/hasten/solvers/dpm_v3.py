r"""DPM-Solver-v3: expand not the data or the noise but what is least sensitive to the state, as measured.

With e the noise prediction and l, s, b tables over lam (each elementwise or a number), the ODE is written for

    f = (sigma e - l x) / alpha,   d(x e^L / alpha) / dlam = -e^L f,   L = \int l,

and f = e^S (g + B), S = \int s, B = \int e^{-S} b, where g is expanded through nodes and the rest integrated.
l = 1, s = b = 0 expands the data prediction (DPM-Solver++), l = 0, s = -1, b = 0 the noise (DPM-Solver).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError, one_of
from hasten.core.registry import Paper
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS, Noise, Query, Solver, Walk
from hasten.solvers.statistics import Integrals, Statistics, powers_through

DEPTH = 4  # how many values an update can use: order 3 and its corrector
PLANS = 16  # that are kept, for runs at the same times


@SOLVERS.add
@dataclass(frozen=True)
class DPMSolverV3(Solver):
    """Multistep, with an optional corrector that costs no query. Unfitted it expands the data prediction.

    Times need not lie on the tables' grid, and integrals are exact for constant tables. Fitted by `fit`, see
    `hasten.fit.dpm_v3`.

    order: 1 to 3 (2 for guided, 3 for unconditional sampling).
    corrector: "pseudo" (one order above the predictor's, derivatives by divided differences alone, which is second
        order at most), "plain" (the predictor's order) or "none".
    pseudo_predictor: divided differences there too, second order at most.
    lower_order_final: end with lower orders.
    span: the first and the last lam of the statistics.
    statistics: (3, points, ...) tables of l, s, b, uniform in lam over `span`; elementwise, or (3, points) numbers.

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
    warning = "order 3 is unstable at few evaluations under guidance; take order 2 there"

    def __post_init__(self) -> None:
        one_of("order", self.order, (1, 2, 3))
        one_of("corrector", self.corrector, ("pseudo", "plain", "none"))
        if self.statistics is None:
            return
        shape = tuple(self.statistics.shape)
        if len(shape) < 2 or shape[0] != 3 or len(self.span) != 2 or not self.span[0] < self.span[1]:
            raise HastenError(f"statistics: {shape} over {self.span}; give (3, points, ...) over a span of two lams")

    @property
    def needs_fit(self) -> bool:
        return self.statistics is None

    @property
    def convergence(self) -> int:
        alone = min(self.order, 2) if self.pseudo_predictor else self.order
        return {"none": alone, "plain": self.order, "pseudo": 2}[self.corrector]

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


@functools.lru_cache(maxsize=PLANS)
def _plan(
    solver: DPMSolverV3, process: Process, times: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> list[_Step | None]:
    """The coefficients of every step; None where lam is infinite at one of its ends.

    A correction, which keeps the value of the predicted state, is folded into the update that follows it.
    """

    def used(weight: Tensor) -> Weight:
        return weight.item() if weight.ndim == 0 else weight.to(device, dtype)

    path, count = _Path.of(solver, process, times), len(times) - 1
    first, last = path.first, path.first + len(path.parts)
    plan: list[_Step | None] = [None] * count
    pseudo = solver.corrector == "pseudo"
    before: list[int] = []  # the nodes that the step before passed through
    for i in range(first, last):
        rank = min(solver.order, i - first + 1, count - i if solver.lower_order_final else solver.order)
        nodes = list(range(i, i - rank, -1))
        a = path.alpha[i + 1] / path.alpha[i] * torch.exp(-path.parts[i - first].L)
        table, depth = path.update(i, nodes, solver.pseudo_predictor, i), rank
        if before and solver.corrector != "none" and len(before) + pseudo > 1:
            better = [i - 1, i, *before[1:]][: len(before) + pseudo]
            corrected = path.update(i - 1, better, pseudo, i)
            table += a * (corrected - path.update(i - 1, before, solver.pseudo_predictor, i))
            depth = max(rank, len(before) + 1)
        of_state = -path.statistics.at(path.lam[i : i + 1])[0, 0] / path.alpha[i]
        weights = [used(weight) for weight in table[1 : 1 + depth]]
        of_noise = float(path.sigma[i] / path.alpha[i])
        plan[i] = _Step(of_noise, used(of_state), used(a), table[0].to(device, dtype), weights)
        before = nodes
    return plan


@dataclass(frozen=True)
class _Path:
    """The noise levels at the times of a run, and the statistics integrated between those whose lam is finite.

    first: the first time with a finite lam.
    parts: the integrals of the steps from there on.
    S, B: from there to each time.
    """

    lam: Array
    alpha: Array
    sigma: Array
    statistics: Statistics
    first: int
    parts: list[Integrals]
    S: list[Tensor]
    B: list[Tensor]

    @classmethod
    def of(cls, solver: DPMSolverV3, process: Process, times: tuple[float, ...]) -> _Path:
        lam, statistics = process.lam(times), Statistics(solver.statistics, solver.span)
        first = 0 if np.isfinite(lam[0]) else 1
        last = len(times) - 1 if np.isfinite(lam[-1]) else len(times) - 2
        parts, S, B = statistics.along(lam[first : last + 1])
        return cls(lam, process.alpha(times), process.sigma(times), statistics, first, parts, S, B)

    def update(self, i: int, nodes: Sequence[int], pseudo: bool, newest: int) -> Tensor:
        """Of step i: the constant and the weights of the values of node `newest` and those before."""
        lam, S, B, first = self.lam, self.S, self.B, self.first
        part = self.parts[i - first]
        table = torch.zeros(1 + DEPTH, *self.parts[0].C.shape, dtype=torch.float64)
        scale, table[0] = self.alpha[i + 1] * torch.exp(-part.L), -part.C
        for column, n in zip(powers_through(np.array([lam[n] - lam[i] for n in nodes]), pseudo).T, nodes):
            weight = sum(float(c) * moment for c, moment in zip(column, part.moments))
            table[1 + newest - n] = -weight * torch.exp(S[i - first] - S[n - first])
            table[0] += weight * torch.exp(S[i - first]) * (B[n - first] - B[i - first])
        return scale * table
