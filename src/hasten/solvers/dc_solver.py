"""DC-Solver: the newest value is moved a little along the buffer before each step of UniPC."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hasten.core.errors import HastenError
from hasten.core.registry import Paper
from hasten.processes import Array
from hasten.solvers.base import SOLVERS
from hasten.solvers.exponential import Frame
from hasten.solvers.unipc import UniPC

NODES = 3  # how many values the compensation passes its parabola through
BOUNDS = (0.3, 2.5)  # of a ratio, where it is searched and where it is predicted
POWERS = (4, 3, 3)  # of the cascade: how many powers of step / NFE, guidance / GUIDANCE_UNIT and NFE / NFE_UNIT
COEFFICIENTS = math.prod(POWERS)
GUIDANCE_UNIT, NFE_UNIT = 12, 50  # what the cascade measures guidance scales and NFE in


@SOLVERS.add
@dataclass(frozen=True)
class DCSolver(UniPC):
    """UniPC whose stored values are compensated for having been asked at the predicted, not the corrected, state.

    Before step i the newest value is replaced by the parabola through it and the two before, read at the time
    ratio_i t_i + (1 - ratio_i) t_{i-1}; it stays replaced. Ratio 1 changes nothing, and the first two are 1.
    Without ratios and cascade it is UniPC; order 1 or 2 without corrector compensates DDIM or DPM-Solver++ 2M.
    Fitted by `fit`, see `hasten.fit.dc_solver`.

    ratios: one a step, above 0, for the steps and grid they were fitted on.
    cascade: 36 coefficients that give the ratios for any number of steps and `guidance` scale instead.
    guidance: the scale that the cascade is read at.
    order, variant, corrector, expand, lower_order_final: as in UniPC.

    Source: Zhao et al. 2024, section 3.
    """

    ratios: tuple[float, ...] = ()
    cascade: tuple[float, ...] = ()
    guidance: float = 7.5
    name = "dc-solver"
    paper = Paper(
        "DC-Solver: Improving Predictor-Corrector Diffusion Sampler via Dynamic Compensation", 2024, "2409.03755"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(ratio > 0 for ratio in self.ratios):
            raise HastenError(f"ratios: {self.ratios} is not possible; give one number above 0 a step")
        if len(self.cascade) not in (0, COEFFICIENTS):
            raise HastenError(f"cascade: {len(self.cascade)} numbers; give {COEFFICIENTS}")

    @property
    def needs_fit(self) -> bool:
        return not self.ratios and not self.cascade

    def ratios_for(self, steps: int) -> tuple[float, ...]:
        """The ratio of each step of a run of so many.

        Raises HastenError if the ratios belong to another number of steps.
        """
        if self.ratios and len(self.ratios) != steps:
            raise HastenError(f"ratios: fitted for {len(self.ratios)} steps, the run has {steps}; fit again or cascade")
        if self.cascade and not self.ratios:
            return cascaded(self.cascade, steps, self.guidance)
        return self.ratios or (1.0,) * steps

    def kept(self, frame: Frame, times: Array, i: int) -> tuple[float, ...]:
        return compensation(frame, times, i, self.ratios_for(len(times) - 1)[i])


def compensation(frame: Frame, times: Array, i: int, ratio: float) -> tuple[float, ...]:
    """Weights of the newest values (newest first) in the compensated value of a node; (1,) for none, as at first.

    frame: of the run.
    times: of the run, one a node.
    i: the node.
    ratio: of the step that starts there.
    """
    if ratio == 1 or i + 1 < NODES or frame.value(i + 1 - NODES) != frame.expand:
        return (1.0,)
    nodes = times[i : i - NODES if i >= NODES else None : -1]
    at = ratio * nodes[0] + (1 - ratio) * nodes[1]
    return tuple(float(math.prod((at - b) / (a - b) for b in nodes if b != a)) for a in nodes)


def cascaded(coefficients: tuple[float, ...], steps: int, guidance: float) -> tuple[float, ...]:
    """The ratios of a run, one a step, that a cascade gives; the first two are 1.

    coefficients: 36 numbers.
    steps: of the run.
    guidance: scale of the run.
    """
    ratios = cascade_powers(steps, guidance) @ np.array(coefficients)
    return (1.0, 1.0, *np.clip(ratios[2:], *BOUNDS).tolist())[:steps]


def cascade_powers(steps: int, guidance: float) -> Array:
    """(steps, 36): every product of powers of step / NFE, guidance / 12 and NFE / 50, for steps 1 .. NFE.

    steps: of the run, its NFE.
    guidance: scale of the run.
    """
    axes = (np.arange(1, steps + 1) / steps, guidance / GUIDANCE_UNIT, steps / NFE_UNIT)
    a, b, c = (np.power.outer(axis, np.arange(count, dtype=float)) for axis, count in zip(axes, POWERS))
    return np.einsum("si,j,k->sijk", a, b, c).reshape(steps, -1)
