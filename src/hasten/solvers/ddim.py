"""DDIM: the first-order step, as an ODE or with the noise of ancestral sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hasten.core.errors import unit_interval
from hasten.core.registry import Paper
from hasten.solvers.base import SOLVERS
from hasten.solvers.exponential import Exponential


@SOLVERS.add
@dataclass(frozen=True)
class DDIM(Exponential):
    """First order; eta 0 is the ODE, eta 1 has the variance of ancestral (DDPM) sampling.

    eta: how much noise is drawn, 0 to 1.

    Source: Song et al. 2020, eq. (12) and (16).
    """

    eta: float = 0.0
    name = "ddim"
    paper = Paper("Denoising Diffusion Implicit Models", 2020, "2010.02502")

    def __post_init__(self) -> None:
        unit_interval("eta", self.eta)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def damping(self, h: float) -> float:
        return math.sqrt(1 + self.eta**2 * math.expm1(-2 * h))
