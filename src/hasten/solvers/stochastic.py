"""Solvers that add noise as they go: EDM's churn, and Euler ancestral."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from hasten.core.errors import HastenError
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS
from hasten.solvers.ddim import DDIM
from hasten.solvers.linear import Coordinates, Heun
from hasten.solvers.table import Update

MOST_RAISED = math.sqrt(2) - 1  # of its noise level, by how much EDM raises a step at most


@SOLVERS.add
@dataclass(frozen=True)
class EulerAncestral(DDIM):
    """Euler down to a level below the next one, and fresh noise up to it: DDIM with this eta, in k-diffusion's words.

    eta: how much noise is drawn, 0 to 1.
    s_noise: a factor on the noise.

    Source: k-diffusion, sample_euler_ancestral (Katherine Crowson, 2022); the same as Song et al. 2020, eq. (16).
    """

    eta: float = 1.0
    s_noise: float = 1.0
    name = "euler-ancestral"

    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        value, updates = super().table(process, times)
        return value, [replace(update, noise=update.noise * self.s_noise) for update in updates]


@SOLVERS.add
@dataclass(frozen=True)
class EDM(Heun):
    """Heun's method that first raises the noise: EDM's stochastic sampler, on any process.

    The start state is noise already and stays as it is, whatever s_max (the paper raises it, if that reaches so high).

    a, space: as in Heun.
    churn: how much noise is added over the whole run (S_churn), at least 0; a step raises sigma / alpha by at most
        sqrt(2) - 1 of itself, and not past the highest level of the process.
    s_min, s_max: the range of sigma / alpha where it is raised.
    s_noise: a factor on the noise, at least 0.

    Source: Karras et al. 2022, algorithm 2; churn, s_min and s_max as for ImageNet-64.
    """

    churn: float = 40.0
    s_min: float = 0.05
    s_max: float = 50.0
    s_noise: float = 1.0
    name = "edm"
    warning = "unstable at few evaluations under guidance, as Heun; image to image cannot start at a raised level"

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("churn", "s_min", "s_noise"):
            if not getattr(self, field) >= 0:
                raise HastenError(f"{field}: {getattr(self, field)} is not possible; give a number of at least 0")

    @property
    def stochastic(self) -> bool:
        return self.churn > 0

    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        at = Coordinates.of(process, times, self.space)
        heun, updates = Heun(self.a, at.space), []
        begins = [float(times[0]), *(self._raised(process, float(t), len(times) - 1) for t in times[1:-1])]
        for i, (s, t) in enumerate(zip(begins, times[1:])):
            if s > times[i]:  # the step before ends higher up
                kept = float(process.alpha(s) / process.alpha(times[i]))
                more = math.sqrt(process.sigma(s) ** 2 - (kept * process.sigma(times[i])) ** 2)
                a, b = kept * updates[-1].a, tuple(kept * weight for weight in updates[-1].b)
                updates[-1] = replace(updates[-1], a=a, b=b, noise=self.s_noise * more)
            updates += [replace(update, step=i) for update in heun.table(process, np.array([s, t]))[1]]
        return at.value, updates

    def _raised(self, process: Process, t: float, steps: int) -> float:
        """The time to which step from t first goes back up."""
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        if self.churn == 0 or not self.s_min * alpha <= sigma <= self.s_max * alpha:
            return t
        gamma = min(self.churn / steps, MOST_RAISED)
        return max(t, float(process.time(math.log(alpha / sigma) - math.log1p(gamma))))
