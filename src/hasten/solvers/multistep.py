r"""Linear multistep methods: the slope of a step is a weighted sum of this and earlier predictions.

In the coordinates of `linear` a step is y_t = y_s + \int v dr. Adams-Bashforth weights take the times as
equally spaced; DEIS integrates the polynomial through the true ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from hasten.core.errors import one_of, positive_share
from hasten.core.registry import Paper
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS
from hasten.solvers.linear import Coordinates, Slope
from hasten.solvers.table import Tabular, Update

_GAMMA = (1.0, 1 / 2, 5 / 12, 3 / 8, 251 / 720)  # Adams-Bashforth in backward differences
QUADRATURE = 40  # points of the Gauss-Legendre rule that integrates DEIS's polynomials
_AT, _SHARE = np.polynomial.legendre.leggauss(QUADRATURE)


def adams(order: int, beta: float = 1.0) -> Array:
    """Weights of the last `order` slopes, newest first: of Adams-Bashforth, or of slopes averaged with `beta`.

    An average v <- (1 - beta) v + beta e is undone by e = v + (1 / beta - 1) (v - v_before), which is put into
    the formula, and differences of order `order` are dropped.

    order: how many slopes, 1 to 5.
    beta: the share of the newest slope in an average, above 0 up to 1 (then slopes are not averaged).

    Source: Wizadwongsa et al. 2024, eq. (18) to (20).
    """
    differences = [g + (1 / beta - 1) * before for g, before in zip(_GAMMA[:order], (0.0, *_GAMMA))]
    return np.array([
        (-1) ** lag * sum(math.comb(k, lag) * differences[k] for k in range(lag, order)) for lag in range(order)
    ])  # fmt: skip


@SOLVERS.add
@dataclass(frozen=True)
class IPNDM(Tabular):
    """Adams-Bashforth that begins with lower orders instead of extra queries.

    order: how many slopes, 1 to 5. Of that order where steps are equal in sigma / alpha, of 2 at most elsewhere.

    Source: Zhang & Chen 2022, improved PNDM (appendix).
    """

    order: int = 4
    name = "ipndm"
    paper = Paper("Fast Sampling of Diffusion Models with Exponential Integrator", 2022, "2204.13902")
    search_space: ClassVar[Sequence[Mapping[str, Any]]] = ({"order": 2}, {"order": 4})

    def __post_init__(self) -> None:
        one_of("order", self.order, range(1, 6))

    @property
    def convergence(self) -> int:
        return min(self.order, 2)

    def _weights(self, order: int) -> Array:
        return adams(order)

    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        weights = [self._weights(min(self.order, i + 1)) for i in range(len(times) - 1)]
        plan = [(i, 0, i, {i - k: w for k, w in enumerate(newest_first)}) for i, newest_first in enumerate(weights)]
        return Coordinates.of(process, times, "auto").table(times, plan)


@SOLVERS.add
@dataclass(frozen=True)
class GHVB(IPNDM):
    """Generalised heavy ball: Adams-Bashforth on averaged slopes, stable at larger steps and no less accurate.

    Order 4 and beta 0.8 are the paper's GHVB 3.8.

    order: how many slopes, 1 to 5.
    beta: the share of the newest slope in the average, above 0 up to 1 (then it is IPNDM).

    Source: Wizadwongsa et al. 2024, eq. (18) to (20); (19) prints a plus before 2 - beta, where only minus gives
    Adams-Bashforth at beta 1.
    """

    beta: float = 0.8
    name = "ghvb"
    paper = Paper("Diffusion Sampling with Momentum for Mitigating Divergence Artifacts", 2024, "2307.11118")
    search_space: ClassVar[Sequence[Mapping[str, Any]]] = ({},)

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_share("beta", self.beta)

    def _weights(self, order: int) -> Array:
        return adams(order, self.beta)

    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        value, (first, *others) = super().table(process, times)
        return value, [first, *(replace(update, kept=(self.beta, 1 - self.beta)) for update in others)]


# start -> how many first steps look twice or more, and with how many slopes it goes on
_STARTS = {"plms": (1, 4), "s-pndm": (1, 2), "f-pndm": (3, 4)}


@SOLVERS.add
@dataclass(frozen=True)
class PNDM(Tabular):
    """Adams-Bashforth after first steps that are made with extra queries.

    A step onto sigma = 0 makes no extra queries.

    start: "plms" (one Heun step, then 2, 3 and 4 slopes: Stable Diffusion's own; N + 1 queries in N steps),
        "s-pndm" (one Heun step, then 2 slopes; N + 1) or "f-pndm" (three Runge-Kutta steps through the middle of
        time, then 4 slopes; N + 9).

    Source: Liu et al. 2022, eq. (11) to (13), algorithm 2; s-pndm in the appendix.
    """

    start: str = "plms"
    name = "pndm"
    convergence = 2
    warning = (
        "unstable under guidance: at 8 evaluations 4 times DDIM's error on a mixture; image to image cannot start it"
    )
    paper = Paper("Pseudo Numerical Methods for Diffusion Models on Manifolds", 2022, "2202.09778")

    def __post_init__(self) -> None:
        one_of("start", self.start, _STARTS)

    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        warm, order = _STARTS[self.start]
        nodes: list[float] = []
        plan: list[tuple[int, int, int, Slope]] = []  # step, stage, anchor, slope by node
        firsts: list[int] = []  # the first node of every step, newest first
        for i, (s, t) in enumerate(pairwise(times.tolist())):
            k = len(nodes)
            firsts.insert(0, k)
            if i >= warm or process.sigma(t) == 0:
                inner, slopes = [], [dict(zip(firsts, adams(min(order, i + 1))))]
            elif warm == 1:
                inner, slopes = [t], [{k: 1.0}, {k: 1 / 2, k + 1: 1 / 2}]
            else:
                inner, slopes = [(s + t) / 2, (s + t) / 2, t], [{k: 1.0}, {k + 1: 1.0}, {k + 2: 1.0}]
                slopes.append({k: 1 / 6, k + 1: 1 / 3, k + 2: 1 / 3, k + 3: 1 / 6})
            nodes += [s, *inner]
            plan += [(i, stage, k, slope) for stage, slope in enumerate(slopes)]
        at = np.array([*nodes, times[-1]])
        return Coordinates.of(process, at, "auto").table(at, plan)


@SOLVERS.add
@dataclass(frozen=True)
class DEIS(Tabular):
    r"""The polynomial through the last slopes, in a variable of choice, integrated exactly.

    The integral \int L_j dr is by 40-point Gauss-Legendre. A log-rho step onto sigma = 0 keeps the newest slope alone.

    order: how many slopes (the paper's r + 1), 1 to 4.
    variable: "time" (tAB), "rho" (sigma / alpha, or its flow counterpart where a run starts at alpha = 0) or
        "log-rho" (lam; what diffusers calls DEIS).

    Source: Zhang & Chen 2022, eq. (13) to (15).
    """

    order: int = 4
    variable: str = "time"
    name = "deis"
    paper = Paper("Fast Sampling of Diffusion Models with Exponential Integrator", 2022, "2204.13902")
    search_space: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"order": 2},
        {"order": 3},
        {"order": 3, "variable": "log-rho"},
    )

    def __post_init__(self) -> None:
        one_of("order", self.order, (1, 2, 3, 4))
        one_of("variable", self.variable, ("time", "rho", "log-rho"))

    @property
    def convergence(self) -> int:
        return self.order

    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        coordinates, plan = Coordinates.of(process, times, "auto"), []
        at = times if self.variable == "time" else self._variable(process, coordinates, coordinates.r)
        for i in range(len(times) - 1):
            nodes = [i - k for k in range(min(self.order, i + 1)) if np.isfinite(at[i - k])]
            slope = {i: 1.0}
            if len(nodes) > 1 and np.isfinite(at[i + 1]):
                slope = dict(zip(nodes, self._slope(process, coordinates, at, nodes)))
            plan.append((i, 0, i, slope))
        return coordinates.table(times, plan)

    def _slope(self, process: Process, coordinates: Coordinates, at: Array, nodes: list[int]) -> Array:
        """The mean over the step from nodes[0] of the Lagrange polynomials through the nodes."""
        s, t = nodes[0], nodes[0] + 1
        r = coordinates.r[s] + (coordinates.r[t] - coordinates.r[s]) * (1 + _AT) / 2
        inside = (self._variable(process, coordinates, r) - at[s]) / (at[t] - at[s])
        basis = np.vander((at[nodes] - at[s]) / (at[t] - at[s]), increasing=True)
        moments = np.vander(inside, len(nodes), increasing=True).T @ _SHARE / 2
        return np.linalg.solve(basis.T, moments)

    def _variable(self, process: Process, coordinates: Coordinates, r: Array) -> Array:
        """The variable of the polynomials where the coordinate is r."""
        if self.variable == "rho":
            return r
        lam = coordinates.lam(r)
        return lam if self.variable == "log-rho" else process.time(lam)
