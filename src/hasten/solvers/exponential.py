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

from hasten.core.errors import HastenError, unknown
from hasten.processes import Array, Process
from hasten.solvers.table import Path, Tabular, Update

RULES = ("exact", "midpoint", "linear", "halved")
SERIES_BELOW = 1.0  # |z| up to which moments are a power series: beyond, the recursion does not cancel
SERIES_TERMS = 24  # of that series; the last is below 1e-23


@dataclass(frozen=True)
class Frame:
    """The path in numbers: alpha, sigma and lam at every node, and which prediction is expanded.

    alpha: how much of the data is left, one number a node.
    sigma: how much noise there is, one number a node.
    lam: log(alpha / sigma), one number a node.
    expand: "data" or "noise"; a step that starts where alpha is 0, where noise says nothing about data,
        expands the data whichever it is.
    """

    alpha: Array
    sigma: Array
    lam: Array
    expand: str = "data"

    @classmethod
    def of(cls, process: Process, times: Array, expand: str = "data") -> Frame:
        """The frame of a process.

        process: of the network.
        times: of the nodes, decreasing.
        expand: which prediction is expanded, "data" or "noise".

        Raises HastenError for another `expand`.
        """
        if expand not in ("data", "noise"):
            raise HastenError(f"expand: {expand!r} is not known; choose 'data' or 'noise'")
        return cls(process.alpha(times), process.sigma(times), process.lam(times), expand)

    def value(self, s: int) -> str:
        """Which prediction a step that starts at node s expands."""
        return self.expand if self.alpha[s] > 0 else "data"

    def update(
        self, s: int, t: int, nodes: Sequence[int], *, rule: str = "exact", damping: float = 1.0, size: int
    ) -> tuple[float, Array, float]:
        """State weight, value weights by node and noise of the step from node s to node t.

        s, t: the nodes at the ends of the step.
        nodes: which values the polynomial passes through, s included; those at infinite lam are left out,
            and a step onto sigma = 0 keeps s alone.
        rule: how the weights of the derivatives are bent, see `apply_rule`.
        damping: by how much more than the ODE a step forgets its state, 1 for none; the forgotten part of the
            variance comes back as fresh noise.
        size: how many value weights there are, one a node.
        """
        weights = np.zeros(size)
        if self.sigma[t] == 0:  # the data prediction is the result
            of_data = self.value(s) == "data"
            weights[s] = 1.0 if of_data else -self.sigma[s] / self.alpha[s]
            return 0.0 if of_data else float(1 / self.alpha[s]), weights, 0.0
        nodes = [n for n in nodes if np.isfinite(self.lam[n])] if np.isfinite(self.lam[s]) else [s]
        h = self.lam[t] - self.lam[s]
        a, total, rate, noise = self._ends(s, t, damping, len(nodes))
        if len(nodes) == 1:
            weights[s] = total
            return float(a), weights, float(noise)
        moments = apply_rule(rule, total * unit_moments(rate * h, len(nodes)), total, rate * h)
        at = np.array([(self.lam[n] - self.lam[s]) / h for n in nodes])
        weights[list(nodes)] = np.linalg.solve(np.vander(at, increasing=True).T, moments)
        return float(a), weights, float(noise)

    def _ends(self, s: int, t: int, damping: float, count: int) -> tuple[float, float, float, float]:
        """State weight, sum of the value weights, rate of the exponential in lam, and noise of the step s -> t."""
        h = self.lam[t] - self.lam[s]
        if self.value(s) == "data":
            a, noise = damping * self.sigma[t] / self.sigma[s], self.sigma[t] * math.sqrt(max(0.0, 1 - damping**2))
            total = self.alpha[t] - a * self.alpha[s]  # keeps the marginal mean, whatever the damping
            rate = 1.0 if damping == 1 or count == 1 else 1 - math.log(damping) / h
            return a, total, rate, noise
        a, eta = self.alpha[t] / self.alpha[s], -math.log(damping) / h
        noise = self.sigma[t] * math.sqrt(max(0.0, eta * math.expm1(2 * h)))
        return a, (1 + eta) * (self.sigma[t] - a * self.sigma[s]), -1.0, noise

    def step(
        self, x: Tensor, s: int, t: int, nodes: Sequence[int], values: Sequence[Tensor], rule: str = "exact"
    ) -> Tensor:
        """The state at node t.

        x: the state at node s, (rows, ...).
        s, t: the nodes at the ends of the step.
        nodes: which values the polynomial passes through, s included.
        values: one a node, oldest first.
        rule: see `apply_rule`.
        """
        a, weights, _ = self.update(s, t, nodes, rule=rule, size=len(values))
        x = x * a
        for weight, value in zip(weights, values):
            x.add_(value, alpha=float(weight))
        return x


def unit_moments(z: float, count: int) -> Array:
    r"""m_k = \int_0^1 e^{-z(1-u)} u^k du / \int_0^1 e^{-z(1-u)} du for k < count, any real z.

    The integral is k! phi_{k+1}(-z); a power series where the recursion would cancel.

    z: the rate of the exponential over the whole step.
    count: how many moments, at least 1.
    """
    if abs(z) < SERIES_BELOW:
        integrals = list(_series(count) @ (-z) ** np.arange(SERIES_TERMS))
    else:
        integrals = [-math.expm1(-z) / z]
        for k in range(1, count):
            integrals.append((1 - k * integrals[-1]) / z)
    return np.array(integrals) / integrals[0]


@functools.cache
def _series(count: int) -> Array:
    """k! / (n + k + 1)! for k < count, one column a term n."""
    return np.array([
        [math.factorial(k) / math.factorial(n + k + 1) for n in range(SERIES_TERMS)] for k in range(count)
    ])  # fmt: skip


def apply_rule(rule: str, moments: Array, total: float, z: float) -> Array:
    """The moments, bent by the papers' shortcuts. Raises HastenError for a name that is not one of `RULES`.

    rule: names, joined by commas if there are several.
        "exact": not bent at all.
        "midpoint", for steps of two nodes: the slope as if the value were taken half-way (DPM-Solver++ 2M, UniPC's B2).
        "linear", for steps of two nodes: the slope integrated without the exponential (UniPC's B1).
        "halved", for steps of three nodes: the second derivative at half its weight (the 3M update in common use).
    moments: the weights of the value and its derivatives at the start of the step, one a node.
    total: the weight of the value alone, moments[0].
    z: the rate of the exponential over the whole step.
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
class Exponential(Tabular):
    """What exponential solvers share: steps that re-use values of earlier steps, or look inside their own.

    Solvers that let users choose have these as fields, or as properties that follow from fields.

    order: how many values a step passes through.
    expand: "data" or "noise".
    lower_order_final: whether the last steps are of lower order.
    corrector: whether a state is corrected once the network has answered there.
    bend: how steps bend the weights of their derivatives, see `apply_rule`.
    """

    order, expand, lower_order_final, corrector, bend = 1, "data", True, False, "exact"

    def damping(self, h: float) -> float:
        """By how much more than the ODE a step of length h in lam forgets its state; 1 for none."""
        return 1.0

    def kept(self, frame: Frame, times: Array, i: int) -> tuple[float, ...]:
        """What the value of a node is remembered as, see `Update`.

        frame: of the run.
        times: of the run.
        i: the node.
        """
        return (1.0,)

    def nodes(self, i: int, steps: int) -> list[int]:
        """The nodes that a step of a multistep run passes through, newest first.

        i: the step.
        steps: of the run.
        """
        return [i - k for k in range(min(self.order, i + 1, steps - i if self.lower_order_final else self.order))]

    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        frame, path, steps = Frame.of(process, times, self.expand), Path(), len(times) - 1
        for i in range(steps):
            kept = self.kept(frame, times, i)
            if self.corrector and i:
                _, weights, _ = frame.update(i - 1, i, [*self.nodes(i - 1, steps), i], rule=self.bend, size=i + 1)
                path.correct(weights, kept)
            damping = self.damping(frame.lam[i + 1] - frame.lam[i])
            nodes = self.nodes(i, steps)
            a, weights, noise = frame.update(i, i + 1, nodes, rule=self.bend, damping=damping, size=i + 1)
            path.advance(times[i], i, a, weights, step=i, noise=noise, value=frame.value(i), kept=kept)
        return self.expand, path.updates

    def singlestep(
        self, process: Process, times: Array, rule: str, inner: Sequence[float] | None
    ) -> tuple[str, list[Update]]:
        """The table of steps that each look at `order` nodes of their own.

        process: of the network.
        times: decreasing, noisiest first.
        rule: of the steps, one of `STAGES`.
        inner: where in a step its further nodes are, in fractions of lam. None takes the times themselves as
            nodes: steps span several, and a query counts as a step.
        """
        if inner is None:
            nodes, orders = times, fast_orders(len(times) - 1, self.order, to_data=process.sigma(times[-1]) == 0)
        else:
            nodes, orders = inner_nodes(process, times, inner)
        frame, path, s = Frame.of(process, nodes, self.expand), Path(), 0
        for step, rank in enumerate(orders):
            for j, (used, bend) in enumerate(STAGES[rank, rule]):
                anchor, after = (s, used) if np.isfinite(frame.lam[s]) else (s + j, (0,))
                damping = self.damping(frame.lam[s + j + 1] - frame.lam[anchor])
                a, weights, noise = frame.update(
                    anchor, s + j + 1, [anchor + n for n in after], rule=bend, damping=damping, size=s + j + 1
                )
                count, stage = (s + j, 0) if inner is None else (step, j)
                path.advance(
                    nodes[s + j], anchor, a, weights, step=count, stage=stage, noise=noise, value=frame.value(anchor)
                )
            s += rank
        return self.expand, path.updates


# (order, rule) of a step -> for each of its queries, which of its nodes the update after it passes through, and how
STAGES = {
    **{(1, rule): (((0,), "exact"),) for rule in RULES},
    **{(2, rule): (((0,), "exact"), ((0, 1), rule)) for rule in RULES},
    (3, "midpoint"): (((0,), "exact"), ((0, 1), "exact"), ((0, 2), "exact")),
    (3, "exact"): (((0,), "exact"), ((0, 1), "exact"), ((0, 1, 2), "exact")),
}


def fast_orders(evaluations: int, order: int, to_data: bool = False) -> list[int]:
    """The orders of singlestep steps that spend just so many evaluations, the last step low.

    evaluations: of the whole run, at least 1.
    order: of most steps, 1 to 3.
    to_data: whether the last step ends on sigma = 0, where only order 1 is possible.

    Source: Lu et al. 2022 (DPM-Solver), section 3.3 and DPM-Solver-fast in the appendix.
    """
    full, rest = divmod(evaluations, order)
    if order == 3 and rest == 0:
        orders = [3] * (full - 1) + [2, 1]
    else:
        orders = [order] * full + [rest] * (rest > 0)
    return orders[:-1] + [1] * orders[-1] if to_data else orders


def inner_nodes(process: Process, times: Array, fractions: Sequence[float]) -> tuple[Array, list[int]]:
    """The times of a run with nodes inserted at fractions (of lam) of every step, and how many each step has.

    A step onto sigma = 0 gets none; a step from lam = -inf gets them at the fractions of time.

    process: of the network.
    times: decreasing, noisiest first.
    fractions: between 0 and 1, rising.
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
