"""Solvers that add noise as they go: EDM's churn, and Euler ancestral."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from hasten.catalog import Paper
from hasten.errors import HastenError, one_of
from hasten.predictions import combine
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS, Noise, Query, Row, Solver, Walk
from hasten.solvers.exponential import DDIM
from hasten.solvers.linear import SPACES, Coordinates


@SOLVERS.add
@dataclass(frozen=True)
class EulerAncestral(DDIM):
    """Euler down to a level below the next one, and fresh noise up to it: DDIM with this eta, in k-diffusion's words.

    eta: 0 to 1. s_noise: a factor on the noise. Source: k-diffusion, sample_euler_ancestral (Katherine Crowson,
    2022); the same as Song et al. 2020, eq. (16).
    """

    eta: float = 1.0
    s_noise: float = 1.0
    name = "euler-ancestral"

    def table(self, process: Process, times: Array) -> tuple[str, list[Row]]:
        value, rows = super().table(process, times)
        return value, [replace(row, noise=row.noise * self.s_noise) for row in rows]


@SOLVERS.add
@dataclass(frozen=True)
class EDM(Solver):
    """Heun's method that first raises the noise: EDM's stochastic sampler, on any process.

    churn: how much noise is added over the whole run (S_churn); a step raises sigma / alpha by at most
    sqrt(2) - 1 of itself, and not past the highest level of the process. s_min, s_max: the range of
    sigma / alpha where it is raised. s_noise: a factor on the noise. space: as in Heun. The start state is noise
    already and stays as it is, whatever s_max (the paper raises it, if that reaches so high).
    Source: Karras et al. 2022, algorithm 2; churn, s_min and s_max as for ImageNet-64.
    """

    churn: float = 40.0
    s_min: float = 0.05
    s_max: float = 50.0
    s_noise: float = 1.0
    space: str = "auto"
    name = "edm"
    evaluations = 2
    convergence = 2
    caution = "unstable at few evaluations under guidance, as Heun; image to image cannot start at a raised level"
    paper = Paper("Elucidating the Design Space of Diffusion-Based Generative Models", 2022, "2206.00364")

    def __post_init__(self) -> None:
        one_of("space", self.space, SPACES)
        for field in ("churn", "s_min", "s_noise"):
            if not getattr(self, field) >= 0:
                raise HastenError(f"{field}: {getattr(self, field)} is not possible; give a number of at least 0")
        object.__setattr__(self, "stochastic", self.churn > 0)

    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        steps = len(times) - 1
        space = Coordinates.of(process, times, self.space).space
        for i in range(steps):
            raised = self._raised(process, float(times[i]), steps) if i else float(times[0])
            if raised > times[i]:
                kept = float(process.alpha(raised) / process.alpha(times[i]))
                more = math.sqrt(process.sigma(raised) ** 2 - (kept * process.sigma(times[i])) ** 2)
                x = combine(x, kept, noise(i), self.s_noise * more)
            step = Coordinates.of(process, np.array([raised, times[i + 1]]), space)
            a, weights = step.update(0, 1, np.ones(1))
            p = yield Query(x, raised, i, steps)
            slope = getattr(p, step.value)
            x = combine(p.state, a, slope, weights[0])
            if step.r[1] > 0:
                p = yield Query(x, float(times[i + 1]), i, steps, 1)
                x = combine(p.state, 1.0, getattr(p, step.value) - slope, weights[0] / 2)
        return x

    def _raised(self, process: Process, t: float, steps: int) -> float:
        """The time to which step from t first goes back up."""
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        if self.churn == 0 or not self.s_min * alpha <= sigma <= self.s_max * alpha:
            return t
        gamma = min(self.churn / steps, math.sqrt(2) - 1)
        return max(t, float(process.time(math.log(alpha / sigma) - math.log1p(gamma))))
