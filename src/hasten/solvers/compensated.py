"""DC-Solver: the newest value is moved a little along the buffer before each step of UniPC."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.core.registry import Paper
from hasten.denoisers import DenoiserLike
from hasten.fit import integrate, shown
from hasten.fit.ratios import COEFFICIENTS, best_ratio, cascade_of, cascaded
from hasten.grids import GridLike, schedule
from hasten.processes import Array
from hasten.solvers.base import SOLVERS, weighed
from hasten.solvers.exponential import Frame, UniPC

NODES = 3  # how many values the compensation passes its parabola through


@SOLVERS.add
@dataclass(frozen=True)
class DCSolver(UniPC):
    """UniPC whose stored values are compensated for having been asked at the predicted, not the corrected, state.

    Before step i the newest value is replaced by the parabola through it and the two before, read at the time
    ratio_i t_i + (1 - ratio_i) t_{i-1}; it stays replaced. Ratio 1 changes nothing, and the first two are 1.

    ratios: one a step, above 0, for the steps and grid they were fitted on. cascade: 36 coefficients that give
    the ratios for any number of steps and `guidance` scale instead. Without either it is UniPC. Other fields: see
    UniPC; order 1 or 2 without corrector compensates DDIM or DPM-Solver++ 2M. Source: Zhao et al. 2024, section 3.
    """

    ratios: tuple[float, ...] = ()
    cascade: tuple[float, ...] = ()
    guidance: float = 7.5
    name = "dc-solver"
    paper = Paper(
        "DC-Solver: Improving Predictor-Corrector Diffusion Sampler via Dynamic Compensation", 2024, "2409.03755"
    )
    needs_fit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(ratio > 0 for ratio in self.ratios):
            raise HastenError(f"ratios: {self.ratios} is not possible; give one number above 0 a step")
        if len(self.cascade) not in (0, COEFFICIENTS):
            raise HastenError(f"cascade: {len(self.cascade)} numbers; give {COEFFICIENTS}")

    def ratios_for(self, steps: int) -> tuple[float, ...]:
        """The ratio of each step. Raises HastenError if the ratios belong to another number of steps."""
        if self.ratios and len(self.ratios) != steps:
            raise HastenError(f"ratios: fitted for {len(self.ratios)} steps, the run has {steps}; fit again or cascade")
        if self.cascade and not self.ratios:
            return cascaded(self.cascade, steps, self.guidance)
        return self.ratios or (1.0,) * steps

    def _kept(self, frame: Frame, times: Array, i: int) -> tuple[float, ...]:
        return _mix(frame, times, i, self.ratios_for(len(times) - 1)[i])

    @torch.no_grad()
    def fit(
        self, denoiser: DenoiserLike, noises: Tensor, steps: int = 10, grid: GridLike = "trailing", end: str = "data",
        substeps: int = 12,
    ) -> DCSolver:  # fmt: skip
        """The solver with ratios searched for this model, number of steps and grid.

        noises: a few start states (the paper uses 10), (rows, ...). Step by step, the ratio is the one that
        brings the state after the next step and its correction nearest to the ODE's own state at that time
        (Runge-Kutta with `substeps` a step), found by Brent's method. Source: Zhao et al. 2024, section 3.
        """
        times = schedule(grid, denoiser.process, steps, end)
        frame, steps = Frame.of(denoiser.process, times, self.expand), len(times) - 1
        aims = integrate(denoiser, noises, times, substeps)
        x, values, ratios = noises, [getattr(denoiser(noises, times[0]), frame.value(0))], []
        for i in shown("DC-Solver", range(steps)):
            step = functools.partial(self._after, denoiser, frame, times, x, values)
            ratios.append(1.0 if i + 1 < NODES else best_ratio(step, aims[i + 1]))
            x, values = step(ratios[-1])
        return replace(self, ratios=tuple(ratios), cascade=())

    def fit_cascade(
        self, denoisers: Mapping[float, DenoiserLike], noises: Tensor, steps: Sequence[int],
        grid: GridLike = "trailing", end: str = "data",
    ) -> DCSolver:  # fmt: skip
        """The solver with ratios for any number of steps and guidance: cascade polynomial regression.

        denoisers: guidance scale -> denoiser at that scale. steps: the numbers of steps to search at.
        Source: Zhao et al. 2024, section 3.
        """
        found = {
            (count, guidance): self.fit(denoiser, noises, count, grid, end).ratios
            for guidance, denoiser in denoisers.items() for count in steps
        }  # fmt: skip
        return replace(self, cascade=cascade_of(found), ratios=())

    def _after(
        self, denoiser: DenoiserLike, frame: Frame, times: Array, x: Tensor, values: list[Tensor], ratio: float
    ) -> tuple[Tensor, list[Tensor]]:
        """The next state, corrected, and the values with its own, from a state x and values, the last as asked."""
        i, steps = len(values) - 1, len(times) - 1
        share, *rest = _mix(frame, times, i, ratio)
        kept = [*values[:-1], weighed(values[-1], share, values[-2::-1], rest)] if rest else values
        following = self._step(frame, x, kept, i)
        if i + 1 == steps:
            return following, kept
        values = [*kept, getattr(denoiser(following, times[i + 1]), self.expand)]
        return self._step(frame, x, values, i) if self.corrector else following, values

    def _step(self, frame: Frame, x: Tensor, values: list[Tensor], i: int) -> Tensor:
        """The state after step i, predicted from values 0 .. i, or corrected with value i + 1 as well."""
        nodes = [*self._nodes(i, len(frame.lam) - 1), *range(i + 1, len(values))]
        return frame.step(x, i, i + 1, nodes, values, self._rule)


def _mix(frame: Frame, times: Array, i: int, ratio: float) -> tuple[float, ...]:
    """Weights of the newest values (newest first) in the compensated value of node i; [1] for none, as at first."""
    if ratio == 1 or i + 1 < NODES or frame.value(i + 1 - NODES) != frame.expand:
        return (1.0,)
    nodes = times[i : i - NODES if i >= NODES else None : -1]
    at = ratio * nodes[0] + (1 - ratio) * nodes[1]
    return tuple(float(math.prod((at - b) / (a - b) for b in nodes if b != a)) for a in nodes)
