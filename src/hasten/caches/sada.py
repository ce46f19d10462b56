"""SADA: the network is skipped where a test finds the solver stable, and late in the run on most steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from hasten.caches.stability import Extrapolated, Stable
from hasten.caches.tokens import Refresh, Tokens
from hasten.caching.cache import CACHES, Cache, Rule
from hasten.caching.forecasters import Forecaster, SwitchedForecaster, Taylor
from hasten.caching.gates import Every, Gate, SwitchedGate, Within
from hasten.caching.sites import Whole
from hasten.core.errors import HastenError, one_of, positive_int, unit_interval
from hasten.core.registry import Paper


@CACHES.add
@dataclass(frozen=True)
class SADA(Cache):
    """Skip the whole network where the solver is stable, and forecast the data prediction along its ODE.

    Images of a batch are skipped one by one. Which steps an image did without is in `run.skipped("sada")` of the
    pipeline's scheduler. From `lagrange_step` on there is no test: steps that are 1 modulo `lagrange_int` are computed,
    and the others forecast by a polynomial. The paper has 0.48 and 4 terms for Stable Diffusion, 0.4 and 3 for Flux.

    variant: "paper", or "official" for what the authors' code computes (see `stability.Official`).
    acc_range: the two fractions of the run between which steps may be skipped; the paper has 10 to 47 of 50 steps.
    tail: how many last steps are computed at least.
    max_interval: how many steps in a row may be skipped because of the test (`stability.Stable`); 0 is "never stable".
    lagrange_step: the fraction of the run, 0 to 1, from which on there is no test.
    lagrange_int: every so many steps are computed there, at least 1; with 1 the test goes on to the end.
    lagrange_term: how many computed steps, lagrange_int or more apart, the polynomial goes through, at least 1.
    variable: what it is a polynomial in: "step" as in the paper, "time" or "logsnr".
    max_downsample: at steps that are not skipped, U-Net blocks with tokens of up to so many latent pixels a side
        compute some of them only (see `tokens.Tokens`), and all on the first step after a skip and every max_interval
        steps. 0 computes all always. The paper has 1 for Stable Diffusion, 2 for SDXL and 0 for Flux.
    sx: width of the windows of tokens, see `tokens.Tokens`.
    sy: height of the windows.
    max_fix: how many unstable tokens are computed at most; the paper has 10 * 1024 for SDXL.
    seed: of the random tokens.

    Source: Jiang et al. 2025, section 3; defaults of its code for 50 steps. Unlike there, the polynomial never goes
    through forecasts, and flows have it too.
    """

    variant: str = "paper"
    acc_range: tuple[float, float] = (0.2, 0.94)
    tail: int = 3
    max_interval: int = 4
    lagrange_step: float = 0.48
    lagrange_int: int = 4
    lagrange_term: int = 4
    variable: str = "step"
    max_downsample: int = 0
    sx: int = 3
    sy: int = 3
    max_fix: int = 5 * 1024
    seed: int = 0

    name = "sada"
    search_space: ClassVar[Mapping[str, Any]] = {"variable": ("step", "logsnr"), "lagrange_int": (1, 4)}
    paper = Paper("SADA: Stability-guided Adaptive Diffusion Acceleration", 2025, "2507.17135")
    off: ClassVar[Mapping[str, Any]] = {"max_interval": 0, "lagrange_int": 1}

    def __post_init__(self) -> None:
        one_of("variant", self.variant, ("paper", "official"))
        unit_interval("lagrange_step", self.lagrange_step)
        positive_int("lagrange_int", self.lagrange_int)
        positive_int("lagrange_term", self.lagrange_term)
        if len(self.acc_range) != 2 or not 0 <= self.acc_range[0] <= self.acc_range[1] <= 1:
            raise HastenError(f"acc_range: {self.acc_range} is not possible; give two rising fractions of the run")
        self.parts()

    def parts(self) -> tuple[Gate, Forecaster]:
        """When the network is computed, and what stands in for it otherwise."""
        gate: Gate = Stable(self.variant, self.max_interval, self.tail)
        forecaster: Forecaster = Extrapolated(self.variant)
        if self.lagrange_int > 1:
            gate = SwitchedGate(gate, Every(self.lagrange_int, offset=1, tail=self.tail), self.lagrange_step)
            through = Taylor(self.lagrange_term - 1, self.variable, apart=self.lagrange_int)
            forecaster = SwitchedForecaster(forecaster, through, self.lagrange_step)
        return Within(gate, *self.acc_range), forecaster

    def rules(self, network: nn.Module) -> Sequence[Rule]:
        gate, forecaster = self.parts()
        rules = [Rule(Whole("data"), gate, forecaster)]
        if self.max_downsample and self.max_interval > 1:
            tokens = Tokens(self.sx, self.sy, self.max_downsample, self.max_fix, self.variant, self.seed)
            rules.append(
                Rule(tokens, Within(Refresh(self.max_interval, self.acc_range[0], self.tail), *self.acc_range))
            )
        return rules
