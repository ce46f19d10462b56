"""DPM-Solver-12 and -23: step sizes chosen on the way from the error that two orders disagree by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError, one_of
from hasten.core.registry import Paper
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS, Noise, Query, Solver, Walk
from hasten.solvers.exponential import STAGES, Frame

SMALLEST_ERROR = 1e-10  # keeps the next step finite after one without any error

# order -> the nodes and the rule of the step of one order less, which a step is compared with
_LOWER = {2: ((0,), "exact"), 3: ((0, 1), "midpoint")}


@SOLVERS.add
@dataclass(frozen=True)
class DPMAdaptive(Solver):
    """DPM-Solver with adaptive steps between the first time of a run and its last positive one.

    A run that ends on data ends with one more query; where alpha is 0 the first step is the grid's. Rows share
    their steps, which are those of the row in most need; give each row a run of its own in `sample_many` for its
    own steps.

    order: 2 (orders 1 and 2 compared) or 3 (2 and 3).
    atol, rtol: tolerances of an entry of the state, above 0.
    h: the first step in lam, above 0.
    theta: safety factor, above 0.
    expand: "noise" (the paper's) or "data".

    Raises HastenError if the states stop being finite.
    Source: Lu et al. 2022, section 3.3, appendix C.
    """

    order: int = 3
    atol: float = 0.0078
    rtol: float = 0.05
    h: float = 0.05
    theta: float = 0.9
    expand: str = "noise"
    name = "dpm-adaptive"
    adaptive = True
    warning = "how many queries it makes depends on the image; pipelines cannot run it"
    paper = Paper("DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling", 2022, "2206.00927")

    def __post_init__(self) -> None:
        one_of("order", self.order, (2, 3))
        one_of("expand", self.expand, ("data", "noise"))
        for field in ("atol", "rtol", "h", "theta"):
            if not getattr(self, field) > 0:
                raise HastenError(f"{field}: {getattr(self, field)} is not possible; give a number above 0")

    @property
    def evaluations(self) -> int:
        return self.order

    @property
    def convergence(self) -> int:
        return self.order

    def query_times(self, process: Process, times: Array) -> list[Query]:
        raise HastenError(f"solver: {self.name!r} cannot lay out its times beforehand; they depend on the image")

    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        t, steps, h, previous = float(times[0]), 0, self.h, x
        if process.alpha(t) == 0:
            p = yield Query(x, t)
            x = previous = Frame.of(process, times[:2], "data").step(p.state, 0, 1, (0,), [p.data])
            t, steps = float(times[1]), 1
        end = float(times[times > 0][-1])
        while t > end:
            lam, last = float(process.lam(t)), float(process.lam(end))
            h = min(h, last - lam)
            nodes = np.append(t, process.time(lam + h * np.arange(1, self.order + 1) / self.order))
            nodes[-1] = end if h == last - lam else nodes[-1]
            frame, state, values = Frame.of(process, nodes, self.expand), x, []
            for j, (used, rule) in enumerate(STAGES[self.order, "midpoint"]):
                p = yield Query(state, float(nodes[j]), steps, steps + 1, j)
                x = p.state if j == 0 else x
                values.append(getattr(p, self.expand))
                state = frame.step(x, 0, j + 1, used, values, rule)
            used, rule = _LOWER[self.order]
            lower = frame.step(x, 0, self.order, used, values, rule)
            error = self._error(state, lower, previous)
            if error <= 1:
                x, previous, t, steps = state, lower, float(nodes[-1]), steps + 1
            h *= self.theta * max(error, SMALLEST_ERROR) ** (-1 / self.order)
        if process.sigma(times[-1]) == 0 and t > 0:
            p = yield Query(x, t, steps, steps + 1)
            return p.data
        return x

    def _error(self, state: Tensor, lower: Tensor, previous: Tensor) -> float:
        """How far two orders are apart, in tolerances, of the row in most need; above 1 the step is refused."""
        scale = torch.maximum(lower.abs(), previous.abs()).mul_(self.rtol).clamp_(min=self.atol)
        error = float(((state - lower) / scale).flatten(1).square().mean(1).max()) ** 0.5
        if not np.isfinite(error):
            raise HastenError(f"solver: {self.name!r} met states that are not finite; check the network's answers")
        return error
