"""Filters around another solver: on what it is told (thresholding) or on the slope it follows (momentum)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from hasten.core.errors import HastenError, positive_share, unit_interval
from hasten.core.frozen import set_fields
from hasten.core.registry import Paper
from hasten.predictions import thresholded
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS, Noise, Query, Solver, Walk, told
from hasten.solvers.table import Tabular, Update, program, weighed


@dataclass(frozen=True)
class _Around(Solver):
    """A filter around another solver.

    solver: a name, a mapping with fields, or an instance (kept as its mapping).
    """

    solver: Any = "dpm++"

    def __post_init__(self) -> None:
        inner = SOLVERS.build(self.solver)
        if isinstance(self.solver, Solver):
            set_fields(self, solver=SOLVERS.describe(inner))

    @cached_property
    def inner(self) -> Solver:
        """The solver that is filtered."""
        return SOLVERS.build(self.solver)

    @property
    def evaluations(self) -> int:
        return self.inner.evaluations

    @property
    def convergence(self) -> int:
        return self.inner.convergence

    @property
    def stochastic(self) -> bool:
        return self.inner.stochastic

    @property
    def adaptive(self) -> bool:
        return self.inner.adaptive

    def query_times(self, process: Process, times: Array) -> list[Query]:
        return self.inner.query_times(process, times)


@SOLVERS.add
@dataclass(frozen=True)
class Thresholded(_Around):
    """Dynamic thresholding: every data prediction is clipped to its own quantile and scaled back to [-1, 1].

    For models of pixels in [-1, 1]; latents have no such range.

    solver: which one is told the clipped data, and the noise that goes with it.
    quantile: of the absolute values of a row, 0 to 1; where the value there is below 1 nothing but clipping to [-1, 1]
        is done.

    Source: Saharia et al. 2022, section 2.3; Lu et al. 2022 (DPM-Solver++), section on thresholding.
    """

    quantile: float = 0.995
    name = "thresholded"
    warning = "for pixels in [-1, 1] only: latents are cut off"
    paper = Paper("Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding", 2022, "2205.11487")

    def __post_init__(self) -> None:
        super().__post_init__()
        unit_interval("quantile", self.quantile)

    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        walk = self.inner.walk(process, times, x, noise)
        return told(walk, lambda _, p: p.with_data(thresholded(p.data, self.quantile)))


@SOLVERS.add
@dataclass(frozen=True)
class HeavyBall(_Around):
    """Heavy-ball momentum: every step follows an average of the slopes that a multistep solver would follow.

    Stable at larger steps, and first order.

    solver: one that makes one query a step, such as "ipndm" (the paper's PLMS) or "dpm++" (the paper's HB on 2M).
    beta: the share of the newest slope, above 0 up to 1 (then nothing changes).
    nesterov: average twice.

    Source: Wizadwongsa et al. 2024, heavy ball and Nesterov forms.
    """

    solver: Any = "ipndm"
    beta: float = 0.8
    nesterov: bool = False
    name = "heavy-ball"
    warning = "first order, whatever it is around: more drift than the solver itself where that is stable"
    paper = Paper("Diffusion Sampling with Momentum for Mitigating Divergence Artifacts", 2024, "2307.11118")

    def __post_init__(self) -> None:
        super().__post_init__()
        inner = self.inner
        inside = inner.evaluations > 1 or getattr(inner, "method", "multistep") != "multistep" or not inner.convergence
        if inside or not isinstance(inner, Tabular):
            raise HastenError(f"solver: {inner.name!r} has no slope of a step; choose a multistep solver")
        positive_share("beta", self.beta)

    @property
    def convergence(self) -> int:
        return 1

    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        inner = self.inner
        assert isinstance(inner, Tabular)
        value, updates, _ = program(inner, process, times)
        if " " in value or any(u.stage or u.value not in ("", value) or not sum(u.b) for u in updates):
            raise HastenError(
                f"solver: the steps of {inner.name!r} here have no one kind of slope to average; choose 'ipndm'"
            )
        average: Tensor | None = None

        def averaged(update: Update, x: Tensor, values: list[Tensor]) -> Tensor:
            nonlocal average
            total = sum(update.b)
            slope = weighed(x, 0.0, values, [weight / total for weight in update.b])
            average = slope if average is None else torch.lerp(average, slope, self.beta)
            followed = torch.lerp(average, slope, self.beta) if self.nesterov else average
            return x * update.a + followed * total

        return inner.follow(process, times, x, noise, averaged)
