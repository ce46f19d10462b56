"""Linear methods: in the right coordinates the ODE is dy/dr = v with v a prediction, and steps add v's up.

Every Gaussian path becomes such an ODE in two ways:

    "sigma":  y = x / alpha,            r = sigma / alpha,            v = the noise prediction
    "flow":   y = x / (alpha + sigma),  r = sigma / (alpha + sigma),  v = noise - data

The first is EDM's, the second that of rectified flow; it is the one without a singularity at alpha = 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hasten.core.errors import HastenError, one_of, positive_share
from hasten.core.registry import Paper
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS
from hasten.solvers.table import Path, Tabular, Update

SPACES = ("auto", "sigma", "flow")
Slope = dict[int, float]  # weights of predictions by node, 0 elsewhere


@dataclass(frozen=True)
class Coordinates:
    """y = x / scale, and the variable r that the ODE is linear in, for a list of times.

    space: "sigma" or "flow".
    scale: one number a time.
    r: one number a time.
    """

    space: str
    scale: Array
    r: Array

    @classmethod
    def of(cls, process: Process, times: Array, space: str) -> Coordinates:
        """The coordinates of a process at some times.

        process: of the network.
        times: decreasing.
        space: "sigma", "flow", or "auto": sigma unless they start where alpha is 0.

        Raises HastenError for space "sigma" there.
        """
        alpha, sigma = process.alpha(times), process.sigma(times)
        if space == "auto":
            space = "sigma" if alpha[0] > 0 else "flow"
        if space == "sigma" and not alpha[0] > 0:
            raise HastenError("space: 'sigma' cannot start where alpha is 0 (flow, zero terminal SNR); use 'flow'")
        scale = alpha if space == "sigma" else alpha + sigma
        return cls(space, scale, sigma / scale)

    @property
    def value(self) -> str:
        """The attribute of a Prediction that is dy/dr."""
        return "noise" if self.space == "sigma" else "velocity"

    def lam(self, r: Array) -> Array:
        """log(alpha / sigma) where the variable is `r`."""
        with np.errstate(divide="ignore"):
            return -np.log(r) if self.space == "sigma" else np.log1p(-r) - np.log(r)

    def update(self, s: int, t: int, weights: Array) -> tuple[float, Array]:
        """State weight and value weights of the step y_t = y_s + (r_t - r_s) weights . v.

        s: the node it starts from.
        t: the node it goes to.
        weights: of the values v, one a node.
        """
        return float(self.scale[t] / self.scale[s]), self.scale[t] * (self.r[t] - self.r[s]) * weights

    def table(self, times: Array, plan: Iterable[tuple[int, int, int, Slope]]) -> tuple[str, list[Update]]:
        """A solver's table.

        times: of the queries, and then the last one.
        plan: step, stage, anchor and slope of the update after each query.
        """
        path = Path()
        for n, (step, stage, anchor, slope) in enumerate(plan):
            by_node = np.zeros(n + 1)
            by_node[list(slope)] = list(slope.values())
            a, weights = self.update(anchor, n + 1, by_node)
            path.advance(times[n], anchor, a, weights, step=step, stage=stage)
        return self.value, path.updates


@SOLVERS.add
@dataclass(frozen=True)
class Euler(Tabular):
    """First order. The same step as DDIM with eta 0, in any coordinates.

    Source: Karras et al. 2022, eq. (3).
    """

    name = "euler"
    paper = Paper("Elucidating the Design Space of Diffusion-Based Generative Models", 2022, "2206.00364")
    search_space: ClassVar[Sequence[Mapping[str, Any]]] = ()  # the same steps as ddim

    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        return Coordinates.of(process, times, "auto").table(times, [(i, 0, i, {i: 1.0}) for i in range(len(times) - 1)])


@SOLVERS.add
@dataclass(frozen=True)
class Heun(Tabular):
    """Second order with two queries a step (one where the step ends on data): EDM's solver without churn.

    a: where in the step the second query is, above 0 up to 1 (1 is Heun, 1/2 midpoint, 2/3 Ralston).
    space: "sigma" (EDM), "flow", or "auto", which is sigma unless the run starts where alpha is 0.

    Source: Karras et al. 2022, algorithm 1 and appendix D.2.
    """

    a: float = 1.0
    space: str = "auto"
    name = "heun"
    evaluations = 2
    convergence = 2
    warning = "unstable under guidance: at 8 evaluations and guidance 7.5, 12 times DDIM's error on a mixture"
    paper = Paper("Elucidating the Design Space of Diffusion-Based Generative Models", 2022, "2206.00364")

    def __post_init__(self) -> None:
        one_of("space", self.space, SPACES)
        positive_share("a", self.a)

    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        outer = Coordinates.of(process, times, self.space)
        nodes: list[float] = []
        plan: list[tuple[int, int, int, Slope]] = []
        for i in range(len(times) - 1):
            k = len(nodes)
            nodes.append(times[i])
            plan.append((i, 0, k, {k: 1.0}))
            if outer.r[i + 1] > 0:
                inner = outer.r[i] + self.a * (outer.r[i + 1] - outer.r[i])
                nodes.append(float(times[i + 1]) if self.a == 1 else float(process.time(outer.lam(inner))))
                plan.append((i, 1, k, {k: 1 - 0.5 / self.a, k + 1: 0.5 / self.a}))
        at = np.array([*nodes, times[-1]])
        return Coordinates.of(process, at, outer.space).table(at, plan)
