r"""Exponential integrators: expand a prediction in lam = log(alpha / sigma), integrate the rest exactly.

With the data prediction D, from s to t, h = lam_t - lam_s,

    x_t = (sigma_t / sigma_s) x_s + alpha_t \int_0^h e^{-(h - u)} D(lam_s + u) du

and D is replaced by the polynomial through values at a few nodes. A solver is therefore a list of steps that
say which nodes, plus, where a paper weighs a derivative differently from the exact integral, a rule for that.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hasten.catalog import Paper
from hasten.errors import HastenError, one_of, unit_interval, unknown
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS, Path, Row, Tabular

RULES = ("exact", "midpoint", "linear", "halved")


@dataclass(frozen=True)
class Frame:
    """The path in numbers: alpha, sigma and lam at every node, and which prediction is expanded.

    expand: "data" or "noise". damping(h): by how much more than the ODE a step forgets its state, 1 for
    none; the forgotten part of the variance comes back as fresh noise.
    """

    alpha: Array
    sigma: Array
    lam: Array
    expand: str = "data"

    @classmethod
    def of(cls, process: Process, times: Array, expand: str = "data") -> Frame:
        if expand not in ("data", "noise"):
            raise HastenError(f"expand: {expand!r} is not known; choose 'data' or 'noise'")
        frame = cls(process.alpha(times), process.sigma(times), process.lam(times), expand)
        if expand == "noise" and not (frame.alpha > 0).all():
            raise HastenError("expand: 'noise' cannot start where alpha is 0 (flow, zero terminal SNR); use 'data'")
        return frame

    def update(
        self, s: int, t: int, nodes: Sequence[int], *, rule: str = "exact", damping: float = 1.0, size: int
    ) -> tuple[float, Array, float]:
        """State weight, value weights by node (length `size`) and noise of the step s -> t.

        nodes: which values the polynomial passes through, s included; those at infinite lam are left out,
        and a step onto sigma = 0 keeps s alone.
        """
        weights = np.zeros(size)
        if self.sigma[t] == 0:
            weights[s] = 1.0  # the data prediction is the result
            if self.expand == "noise":
                weights[s] = -self.sigma[s] / self.alpha[s]
                return float(1 / self.alpha[s]), weights, 0.0
            return 0.0, weights, 0.0
        lead, other = (self.sigma, self.alpha) if self.expand == "data" else (self.alpha, self.sigma)
        a = damping * lead[t] / lead[s]
        noise = self.sigma[t] * math.sqrt(max(0.0, 1 - damping**2))
        total = other[t] - a * other[s]  # weight of a constant: keeps the marginal mean, whatever the damping
        nodes = [n for n in nodes if np.isfinite(self.lam[n])] if np.isfinite(self.lam[s]) else [s]
        if len(nodes) == 1:
            weights[s] = total
            return float(a), weights, noise
        h = self.lam[t] - self.lam[s]
        rate = 1 - math.log(damping) / h if self.expand == "data" else -1.0
        moments = total * unit_moments(rate * h, len(nodes))
        moments = apply_rule(rule, moments, total, rate * h)
        at = np.array([(self.lam[n] - self.lam[s]) / h for n in nodes])
        weights[list(nodes)] = np.linalg.solve(np.vander(at, increasing=True).T, moments)
        return float(a), weights, noise


def unit_moments(z: float, count: int) -> Array:
    r"""m_k = \int_0^1 e^{-z(1-u)} u^k du / \int_0^1 e^{-z(1-u)} du for k < count, any real z.

    The integral is k! phi_{k+1}(-z); a power series where the recursion would cancel.
    """
    if abs(z) < 1.0:
        integrals = list(_series(count) @ (-z) ** np.arange(24))
    else:
        integrals = [-math.expm1(-z) / z]
        for k in range(1, count):
            integrals.append((1 - k * integrals[-1]) / z)
    return np.array(integrals) / integrals[0]


@functools.cache
def _series(count: int) -> Array:
    """k! / (n + k + 1)! for k < count and n < 24."""
    return np.array([[math.factorial(k) / math.factorial(n + k + 1) for n in range(24)] for k in range(count)])


def apply_rule(rule: str, moments: Array, total: float, z: float) -> Array:
    """How the weights of the derivatives are bent: the papers' shortcuts, joined by commas if there are several.

    exact: not at all. midpoint: the slope as if the value were taken half-way (DPM-Solver++ 2M, UniPC's
    B2). linear: the slope integrated without the exponential (UniPC's B1). These two bend steps of two
    nodes only. halved: the second derivative at half its weight (the 3M update in common use), in steps of
    three nodes.
    """
    bent = moments.copy()
    for name in rule.split(","):
        if name not in RULES:
            raise unknown("rule", name, RULES)
        if name == "midpoint" and len(moments) == 2:
            bent[1] = total / 2
        elif name == "linear" and len(moments) == 2:
            bent[1] = total / 2 * z / -math.expm1(-z)
        elif name == "halved" and len(moments) == 3:
            bent[2] = moments[2] / 2
    return bent


@dataclass(frozen=True)
class _Exponential(Tabular):
    """One query a step, values of earlier steps re-used: what multistep exponential solvers share."""

    def _damping(self, h: float) -> float:
        return 1.0

    def _multistep(
        self, process: Process, times: Array, order: int, rule: str = "exact", *,
        expand: str = "data", lower_order_final: bool = True, correct: bool = False,
    ) -> tuple[str, list[Row]]:  # fmt: skip
        """rule: how steps bend their weights, see `apply_rule`; several rules are joined by a comma."""
        frame, path, steps = Frame.of(process, times, expand), Path(), len(times) - 1
        made_with: list[int] = []
        for i in range(steps):
            if correct and i:
                _, weights, _ = frame.update(i - 1, i, [*made_with, i], rule=rule, size=i + 1)
                path.correct(weights)
            rank = min(order, i + 1, steps - i if lower_order_final else order)
            made_with = [i - k for k in range(rank)]
            damping = self._damping(frame.lam[i + 1] - frame.lam[i])
            a, weights, noise = frame.update(i, i + 1, made_with, rule=rule, damping=damping, size=i + 1)
            path.advance(times[i], i, a, weights, step=i, noise=noise)
        return expand, path.rows


@SOLVERS.add
@dataclass(frozen=True)
class DDIM(_Exponential):
    """First order; eta 0 is the ODE, eta 1 has the variance of ancestral (DDPM) sampling.

    eta: 0 to 1. Source: Song et al. 2020, eq. (12) and (16).
    """

    eta: float = 0.0
    name = "ddim"
    paper = Paper("Denoising Diffusion Implicit Models", 2020, "2010.02502")

    def __post_init__(self) -> None:
        unit_interval("eta", self.eta)
        object.__setattr__(self, "stochastic", self.eta > 0)

    def _damping(self, h: float) -> float:
        return math.sqrt(1 + self.eta**2 * math.expm1(-2 * h))

    def table(self, process: Process, times: Array) -> tuple[str, list[Row]]:
        return self._multistep(process, times, 1)


@SOLVERS.add
@dataclass(frozen=True)
class DPMSolverPP(_Exponential):
    """DPM-Solver++: the data prediction expanded to order 1, 2 or 3.

    order: 1 to 3. method: "multistep" (1 query a step) or "singlestep" (order 2 only, 2 queries a step, the
    inner one at `r` of the step). rule: "midpoint" (the paper's 2M) or "exact" (its Taylor form; called heun
    in diffusers); order 3 is always exact, unless `compat`, which halves the second derivative as the
    official code, diffusers and k-diffusion do, and is second order. eta: 0 is the ODE, 1 the SDE.
    lower_order_final: end with lower orders. Source: Lu et al. 2022, algorithms 1 and 2, eq. (9).
    """

    order: int = 2
    method: str = "multistep"
    rule: str = "midpoint"
    compat: bool = False
    eta: float = 0.0
    r: float = 0.5
    lower_order_final: bool = True
    name = "dpm++"
    paper = Paper("DPM-Solver++: Fast Solver for Guided Sampling", 2022, "2211.01095")

    def __post_init__(self) -> None:
        one_of("order", self.order, (1, 2, 3))
        one_of("method", self.method, ("multistep", "singlestep"))
        one_of("rule", self.rule, ("midpoint", "exact"))
        unit_interval("eta", self.eta)
        if self.method == "singlestep" and (self.order != 2 or self.eta):
            raise HastenError(f"method: 'singlestep' needs order 2 and eta 0; got order {self.order}, eta {self.eta}")
        if not 0 < self.r <= 1:
            raise HastenError(f"r: {self.r} is not possible; give where in the step to look, above 0 up to 1")
        object.__setattr__(self, "stochastic", self.eta > 0)
        object.__setattr__(self, "evaluations", 2 if self.method == "singlestep" else 1)

    def _damping(self, h: float) -> float:
        return math.exp(-self.eta * h) if self.eta else 1.0

    def table(self, process: Process, times: Array) -> tuple[str, list[Row]]:
        if self.method == "singlestep":
            return self._singlestep(process, times)
        rule = f"{self.rule},halved" if self.compat else self.rule
        return self._multistep(process, times, self.order, rule, lower_order_final=self.lower_order_final)

    def _singlestep(self, process: Process, times: Array) -> tuple[str, list[Row]]:
        nodes, owner = inner_nodes(process, times, self.r)
        frame, path = Frame.of(process, nodes), Path()
        for i in range(len(nodes) - 1):
            inner = i > 0 and owner[i] == owner[i - 1]
            anchor = i - 1 if inner else i
            a, weights, _ = frame.update(anchor, i + 1, [anchor, i] if inner else [i], rule=self.rule, size=i + 1)
            path.advance(nodes[i], anchor, a, weights, step=owner[i], stage=int(inner))
        return "data", path.rows


@SOLVERS.add
@dataclass(frozen=True)
class UniPC(_Exponential):
    """UniPC: a predictor of order p, and a corrector of order p + 1 that re-uses the next step's query.

    order: 1 to 3 (2 for guided, 3 for unconditional sampling). variant: "bh2" or "bh1", which differ only
    where the paper takes 1/2 instead of solving (predictor of order 2, corrector of order 1); "exact" solves
    there too. corrector: False leaves the predictor UniP. expand: "data" or "noise".
    Source: Zhao et al. 2023, algorithms 1 and 2, eq. (3) and (9).
    """

    order: int = 2
    variant: str = "bh2"
    corrector: bool = True
    expand: str = "data"
    lower_order_final: bool = True
    name = "unipc"
    paper = Paper("UniPC: A Unified Predictor-Corrector Framework", 2023, "2302.04867")

    def __post_init__(self) -> None:
        one_of("order", self.order, (1, 2, 3))
        one_of("variant", self.variant, ("bh1", "bh2", "exact"))
        one_of("expand", self.expand, ("data", "noise"))

    def table(self, process: Process, times: Array) -> tuple[str, list[Row]]:
        rule = {"bh1": "linear", "bh2": "midpoint", "exact": "exact"}[self.variant]
        return self._multistep(
            process, times, self.order, rule, expand=self.expand,
            lower_order_final=self.lower_order_final, correct=self.corrector,
        )  # fmt: skip


def inner_nodes(process: Process, times: Array, r: float) -> tuple[Array, list[int]]:
    """The times of a run with a node inserted at fraction r (in lam) of every step, and each node's step.

    A step onto sigma = 0 gets none; a step from lam = -inf gets one at the fraction r in time.
    """
    lam = process.lam(times)
    nodes: list[float] = []
    owner: list[int] = []
    for i in range(len(times) - 1):
        nodes.append(times[i])
        owner.append(i)
        if np.isfinite(lam[i + 1]):
            inner = times[i] + r * (times[i + 1] - times[i])
            if np.isfinite(lam[i]):
                inner = process.time(lam[i] + r * (lam[i + 1] - lam[i]))
            nodes.append(float(inner))
            owner.append(i)
    return np.array([*nodes, times[-1]]), owner
