"""Samplers of distilled networks, whose data prediction is where the ODE's path ends: jump there, and add noise again.

Such networks are asked once to eight times. Networks that were not distilled answer with a mean of many images instead,
and no number of jumps makes up for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from hasten.core.errors import HastenError, unit_interval
from hasten.core.registry import Paper
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS
from hasten.solvers.table import Tabular, Update


@dataclass(frozen=True)
class Jump(Tabular):
    """From s to a target r that is cleaner than the next time t, then up to t with fresh noise.

    x_r = alpha_r D + sigma_r eps, x_t = (alpha_t / alpha_r) x_r + sqrt(sigma_t^2 - (alpha_t sigma_r / alpha_r)^2) z.
    Subclasses say where r is, how x_r is made, and how much noise is fresh; here r is 0, which is data.
    """

    convergence = 0
    stochastic = True
    warning = "for networks distilled to jump (LCM, TCD, consistency models); others give blurred images, at any steps"
    search_space: ClassVar[Sequence[Mapping[str, Any]]] = ()  # a search goes by the distance to the ODE's solution

    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        updates = []
        for step, (s, t) in enumerate(pairwise(map(float, times))):
            r = self.target(process, t)
            state, data = self.landing(process, s, r)
            kept = float(process.alpha(t) / process.alpha(r)) if t > r else 1.0
            noise = self.fresh(process, r, t) if t > r else 0.0
            updates.append(Update(s, kept * state, (kept * data,), step, noise=noise))
        return "data", updates

    def target(self, process: Process, t: float) -> float:
        """The time to jump to, on the way to time t. Where it is later than t, the step ends there."""
        return 0.0

    def landing(self, process: Process, s: float, r: float) -> tuple[float, float]:
        """The weights of the state at s and of its data prediction in the state at r."""
        back = float(process.sigma(r) / process.sigma(s))
        return back, float(process.alpha(r) - back * process.alpha(s))

    def fresh(self, process: Process, r: float, t: float) -> float:
        """How much noise is added from r up to t."""
        kept = process.alpha(t) / process.alpha(r) * process.sigma(r)
        return _root(process.sigma(t) ** 2 - kept**2)


@SOLVERS.add
@dataclass(frozen=True)
class LCM(Jump):
    """Latent consistency: x_t = alpha_t (c_skip x_s + c_out D) + sigma_t z; the last step returns the bracket.

    c_skip = sd^2 / ((k n)^2 + sd^2), c_out = k n / sqrt((k n)^2 + sd^2) at training step n. On processes without a
    table of training steps (flows) c_skip is 0 and c_out 1: this is diffusers' FlowMatchLCM, alias "flow-lcm".

    timestep_scaling: k, above 0.
    sigma_data: sd, above 0.

    Source: Luo et al. 2023, section 4 (boundary condition, multistep sampling).
    """

    timestep_scaling: float = 10.0
    sigma_data: float = 0.5
    name = "lcm"
    paper = Paper(
        "Latent Consistency Models: Synthesizing High-Resolution Images with Few-Step Inference", 2023, "2310.04378"
    )

    def __post_init__(self) -> None:
        for field in ("timestep_scaling", "sigma_data"):
            _above_0(field, getattr(self, field))

    def landing(self, process: Process, s: float, r: float) -> tuple[float, float]:
        if not process.discrete:
            return 0.0, 1.0
        scaled = self.timestep_scaling * float(process.network_time(s))
        total = scaled**2 + self.sigma_data**2
        return self.sigma_data**2 / total, scaled / math.sqrt(total)


@SOLVERS.add
@dataclass(frozen=True)
class Consistency(Jump):
    """Multistep consistency sampling: x_t = alpha_t D + sqrt(sigma_t^2 - (alpha_t floor)^2) z.

    D is the consistency function f(x_s, s) here. Where a network is preconditioned as in the paper, its boundary
    condition (f(x, floor) = x) is in how its output is read, see `hasten.predictions.Reading`.

    floor: sigma / alpha that f leaves in its answer, at least 0; the paper's epsilon.
    s_noise: a factor on the noise, at least 0.

    Source: Song et al. 2023, algorithm 1.
    """

    floor: float = 0.002
    s_noise: float = 1.0
    name = "consistency"
    paper = Paper("Consistency Models", 2023, "2303.01469")

    def __post_init__(self) -> None:
        for field in ("floor", "s_noise"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value >= 0):
                raise HastenError(f"{field}: {value} is not possible; give a number of at least 0")

    def fresh(self, process: Process, r: float, t: float) -> float:
        return self.s_noise * _root(process.sigma(t) ** 2 - (process.alpha(t) * self.floor) ** 2)


@SOLVERS.add
@dataclass(frozen=True)
class TCD(Jump):
    """Strategic stochastic sampling: to training step r = floor((1 - gamma) t) along the same noise, then up to t.

    x_r = alpha_r D + sigma_r eps, then x_t = (alpha_t / alpha_r) x_r + sqrt(1 - (alpha_t / alpha_r)^2) z where
    alpha^2 + sigma^2 is 1. No r is below the process's t_min, the first training step, so a run that ends on data
    returns the state there, as the authors' scheduler does. Without a table of training steps r is (1 - gamma) t.

    gamma: share of fresh noise, 0 (DDIM) to 1 (all); what diffusers calls eta.
    clean: whether a run that ends on data returns the data prediction instead.

    Source: Zheng et al. 2024, section 4 (strategic stochastic sampling).
    """

    gamma: float = 0.3
    clean: bool = False
    name = "tcd"
    paper = Paper("Trajectory Consistency Distillation", 2024, "2402.19159")

    def __post_init__(self) -> None:
        unit_interval("gamma", self.gamma)

    @property
    def convergence(self) -> int:
        return 0 if self.gamma else 1

    @property
    def stochastic(self) -> bool:
        return self.gamma > 0

    def target(self, process: Process, t: float) -> float:
        if t == 0 and self.clean:
            return 0.0
        if self.gamma == 0 or not process.discrete:
            return max((1 - self.gamma) * t, process.t_min)
        number = np.float32(1 - self.gamma) * np.float32(process.network_time(t))  # 32 bits: .1 times 10 is 1 there
        return max(float(process.from_network_time(np.floor(number))), process.t_min)


@SOLVERS.add
@dataclass(frozen=True)
class SCM(Jump):
    """sCM: x_t = alpha_t D + sigma_t z, on `hasten.processes.TrigFlow` x_t = cos(t) D + sin(t) sigma_data z.

    Source: Lu & Song 2024, sections 2 and 3; used by Sana-Sprint (Chen et al. 2025).
    """

    name = "scm"
    paper = Paper("Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models", 2024, "2410.11081")


SOLVERS.alias("flow-lcm", "lcm")


def _root(variance: Any) -> float:
    """Of a difference that rounding may take below 0."""
    return math.sqrt(max(0.0, float(variance)))


def _above_0(field: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise HastenError(f"{field}: {value} is not possible; give a number above 0")
