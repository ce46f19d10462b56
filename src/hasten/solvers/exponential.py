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
from torch import Tensor

from hasten.core.errors import HastenError, one_of, positive_share, unit_interval, unknown
from hasten.core.registry import Paper
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS, Path, Tabular, Update

RULES = ("exact", "midpoint", "linear", "halved")


@dataclass(frozen=True)
class Frame:
    """The path in numbers: alpha, sigma and lam at every node, and which prediction is expanded.

    expand: "data" or "noise"; a step that starts where alpha is 0, where noise says nothing about data,
    expands the data whichever it is.
    """

    alpha: Array
    sigma: Array
    lam: Array
    expand: str = "data"

    @classmethod
    def of(cls, process: Process, times: Array, expand: str = "data") -> Frame:
        if expand not in ("data", "noise"):
            raise HastenError(f"expand: {expand!r} is not known; choose 'data' or 'noise'")
        return cls(process.alpha(times), process.sigma(times), process.lam(times), expand)

    def value(self, s: int) -> str:
        """Which prediction a step that starts at node s expands."""
        return self.expand if self.alpha[s] > 0 else "data"

    def update(
        self, s: int, t: int, nodes: Sequence[int], *, rule: str = "exact", damping: float = 1.0, size: int
    ) -> tuple[float, Array, float]:
        """State weight, value weights by node (length `size`) and noise of the step s -> t.

        nodes: which values the polynomial passes through, s included; those at infinite lam are left out,
        and a step onto sigma = 0 keeps s alone. damping: by how much more than the ODE a step forgets its
        state, 1 for none; the forgotten part of the variance comes back as fresh noise.
        """
        weights = np.zeros(size)
        of_data = self.value(s) == "data"
        if self.sigma[t] == 0:
            weights[s] = 1.0 if of_data else -self.sigma[s] / self.alpha[s]
            return 0.0 if of_data else float(1 / self.alpha[s]), weights, 0.0  # the data prediction is the result
        nodes = [n for n in nodes if np.isfinite(self.lam[n])] if np.isfinite(self.lam[s]) else [s]
        h = self.lam[t] - self.lam[s]
        if of_data:
            a, noise = damping * self.sigma[t] / self.sigma[s], self.sigma[t] * math.sqrt(max(0.0, 1 - damping**2))
            total = self.alpha[t] - a * self.alpha[s]  # keeps the marginal mean, whatever the damping
            rate = 1.0 if damping == 1 or len(nodes) == 1 else 1 - math.log(damping) / h
        else:
            a, eta, rate = self.alpha[t] / self.alpha[s], -math.log(damping) / h, -1.0
            noise = self.sigma[t] * math.sqrt(max(0.0, eta * math.expm1(2 * h)))
            total = (1 + eta) * (self.sigma[t] - a * self.sigma[s])
        if len(nodes) == 1:
            weights[s] = total
            return float(a), weights, float(noise)
        moments = apply_rule(rule, total * unit_moments(rate * h, len(nodes)), total, rate * h)
        at = np.array([(self.lam[n] - self.lam[s]) / h for n in nodes])
        weights[list(nodes)] = np.linalg.solve(np.vander(at, increasing=True).T, moments)
        return float(a), weights, float(noise)

    def step(
        self, x: Tensor, s: int, t: int, nodes: Sequence[int], values: Sequence[Tensor], rule: str = "exact"
    ) -> Tensor:
        """The state at node t from x at node s, through those of the values (by node) at `nodes`."""
        a, weights, _ = self.update(s, t, nodes, rule=rule, size=len(values))
        x = x * a
        for weight, value in zip(weights, values):
            x.add_(value, alpha=float(weight))
        return x


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
    """What exponential solvers share: steps that re-use values of earlier steps, or look inside their own."""

    order, expand, lower_order_final, corrector = 1, "data", True, False  # of solvers without such a field
    _rule = "exact"  # how steps bend their weights, see `apply_rule`; several rules are joined by a comma

    def _damping(self, h: float) -> float:
        return 1.0

    def _kept(self, frame: Frame, times: Array, i: int) -> tuple[float, ...]:
        """What the value of node i is remembered as, see `Update`."""
        return (1.0,)

    def _nodes(self, i: int, steps: int) -> list[int]:
        """The nodes that step i of a multistep run passes through, newest first."""
        return [i - k for k in range(min(self.order, i + 1, steps - i if self.lower_order_final else self.order))]

    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        frame, path, steps = Frame.of(process, times, self.expand), Path(), len(times) - 1
        for i in range(steps):
            kept = self._kept(frame, times, i)
            if self.corrector and i:
                _, weights, _ = frame.update(i - 1, i, [*self._nodes(i - 1, steps), i], rule=self._rule, size=i + 1)
                path.correct(weights, kept)
            damping = self._damping(frame.lam[i + 1] - frame.lam[i])
            a, weights, noise = frame.update(
                i, i + 1, self._nodes(i, steps), rule=self._rule, damping=damping, size=i + 1
            )
            path.advance(times[i], i, a, weights, step=i, noise=noise, value=frame.value(i), kept=kept)
        return self.expand, path.rows

    def _singlestep(
        self, process: Process, times: Array, rule: str, inner: Sequence[float] | None
    ) -> tuple[str, list[Update]]:
        """Every step looks at `order` nodes of its own, at fractions `inner` (of lam) of it.

        Without `inner` the times themselves are the nodes: steps span several, and a query counts as a step.
        """
        if inner is None:
            nodes, orders = times, fast_orders(len(times) - 1, self.order, to_data=process.sigma(times[-1]) == 0)
        else:
            nodes, orders = inner_nodes(process, times, inner)
        frame, path, s = Frame.of(process, nodes, self.expand), Path(), 0
        for step, rank in enumerate(orders):
            for j, (used, bend) in enumerate(STAGES[rank, rule]):
                anchor, after = (s, used) if np.isfinite(frame.lam[s]) else (s + j, (0,))
                damping = self._damping(frame.lam[s + j + 1] - frame.lam[anchor])
                a, weights, noise = frame.update(
                    anchor, s + j + 1, [anchor + n for n in after], rule=bend, damping=damping, size=s + j + 1
                )
                count, stage = (s + j, 0) if inner is None else (step, j)
                path.advance(
                    nodes[s + j], anchor, a, weights, step=count, stage=stage, noise=noise, value=frame.value(anchor)
                )
            s += rank
        return self.expand, path.rows


# (order, rule) of a step -> for each of its queries, which of its nodes the update after it passes through, and how
STAGES = {
    **{(1, rule): (((0,), "exact"),) for rule in RULES},
    **{(2, rule): (((0,), "exact"), ((0, 1), rule)) for rule in RULES},
    (3, "midpoint"): (((0,), "exact"), ((0, 1), "exact"), ((0, 2), "exact")),
    (3, "exact"): (((0,), "exact"), ((0, 1), "exact"), ((0, 1, 2), "exact")),
}


def fast_orders(evaluations: int, order: int, to_data: bool = False) -> list[int]:
    """The orders of singlestep steps that spend just so many evaluations, the last step low.

    to_data: the last step ends on sigma = 0, where only order 1 is possible.
    Source: Lu et al. 2022 (DPM-Solver), section 3.3 and DPM-Solver-fast in the appendix.
    """
    full, rest = divmod(evaluations, order)
    if order == 3 and rest == 0:
        orders = [3] * (full - 1) + [2, 1]
    else:
        orders = [order] * full + [rest] * (rest > 0)
    return orders[:-1] + [1] * orders[-1] if to_data else orders


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


@SOLVERS.add
@dataclass(frozen=True)
class DPMSolverPP(_Exponential):
    """DPM-Solver++: the data prediction expanded to order 1, 2 or 3, as an ODE or as an SDE.

    method: "multistep" (1 query a step, re-using earlier ones) or "singlestep". schedule, of singlestep:
    "fixed" looks inside every step, at `r` of it (order 2) or a third and two (order 3), which makes `order`
    queries a step; "fast" spends one query a time of the grid, on steps that span up to `order` times.
    rule: "midpoint" (the paper's; type dpmsolver) or "exact" (its Taylor form; called heun in diffusers);
    multistep order 3 is always exact, unless `compat`, which halves the second derivative as the official
    code, diffusers and k-diffusion do, and is second order. eta: 0 is the ODE, 1 the SDE; with singlestep
    order 2 that is k-diffusion's dpmpp_sde. lower_order_final: end multistep with lower orders.
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

    def __post_init__(self) -> None:
        one_of("order", self.order, (1, 2, 3))
        one_of("method", self.method, ("multistep", "singlestep"))
        one_of("rule", self.rule, ("midpoint", "exact"))
        one_of("schedule", self.schedule, ("fixed", "fast"))
        unit_interval("eta", self.eta)
        positive_share("r", self.r)
        inside = self.method == "singlestep"
        object.__setattr__(self, "stochastic", self.eta > 0)
        object.__setattr__(self, "evaluations", self.order if inside and self.schedule == "fixed" else 1)
        object.__setattr__(self, "convergence", 2 if self.compat and not inside else self.order)

    def _damping(self, h: float) -> float:
        return math.exp(-self.eta * h) if self.eta else 1.0

    @property
    def _rule(self) -> str:
        return f"{self.rule},halved" if self.compat else self.rule

    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        if self.method == "singlestep":
            inner = {1: (), 2: (self.r,), 3: (1 / 3, 2 / 3)}[self.order] if self.schedule == "fixed" else None
            return self._singlestep(process, times, self.rule, inner)
        return super().table(process, times)


@SOLVERS.add
@dataclass(frozen=True)
class DPMSolver(DPMSolverPP):
    """DPM-Solver: the noise prediction expanded to order 1, 2 or 3; DPM-Solver-fast at the defaults.

    Fields as in DPMSolverPP; method "multistep" with rule "exact" is DEIS in log-rho, with eta 1 SDE-DPM-Solver.
    Where alpha is 0, as at the start of flows, the first step expands the data. The steps of schedule "fast"
    span times of the given grid. Source: Lu et al. 2022, eq. (3.4) to (3.7), algorithms 1 and 2.
    """

    order: int = 3
    method: str = "singlestep"
    schedule: str = "fast"
    name = "dpm"
    warning = "unstable under guidance: at 8 evaluations and guidance 7.5, 16 times DDIM's error on a mixture"
    expand = "noise"
    paper = Paper("DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling", 2022, "2206.00927")


# MR sampler (Li et al. 2025, arXiv 2502.07856): the same on what is around the mean, see `denoisers.AroundMean`
SOLVERS.alias("mr-sampler", "dpm++", rule="exact")
SOLVERS.alias("mr-sampler-sde", "dpm++", rule="exact", eta=1.0)
SOLVERS.alias("mr-sampler-noise", "dpm", order=2, method="multistep", rule="exact")
SOLVERS.alias("mr-sampler-noise-sde", "dpm", order=2, method="multistep", rule="exact", eta=1.0)


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
        object.__setattr__(self, "convergence", self.order + self.corrector)

    @property
    def _rule(self) -> str:
        return {"bh1": "linear", "bh2": "midpoint", "exact": "exact"}[self.variant]


def inner_nodes(process: Process, times: Array, fractions: Sequence[float]) -> tuple[Array, list[int]]:
    """The times of a run with nodes inserted at fractions (of lam) of every step, and how many each step has.

    A step onto sigma = 0 gets none; a step from lam = -inf gets them at the fractions of time.
    """
    lam = process.lam(times)
    nodes: list[float] = []
    orders: list[int] = []
    for i in range(len(times) - 1):
        inner = np.array(fractions if np.isfinite(lam[i + 1]) else ())
        if np.isfinite(lam[i]):
            within = process.time(lam[i] + inner * (lam[i + 1] - lam[i])) if len(inner) else inner
        else:
            within = times[i] + inner * (times[i + 1] - times[i])
        nodes += [float(times[i]), *within.tolist()]
        orders.append(1 + len(inner))
    return np.array([*nodes, times[-1]]), orders
