"""DPM-Solver-v3: the statistics of a model, measured on its data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hasten.core.console import tracked
from hasten.core.fitters import fitters
from hasten.denoisers import DenoiserLike
from hasten.fit.probe import Probe
from hasten.grids import start
from hasten.solvers import DPMSolverV3
from hasten.solvers.statistics import Statistics


@fitters.of(DPMSolverV3)
@torch.no_grad()
def fit(
    solver: DPMSolverV3, denoiser: DenoiserLike, data: Tensor, points: int = 120, elementwise: bool = True,
    seed: int = 0, batch: int = 256, delta: float | None = None,
) -> DPMSolverV3:  # fmt: skip
    """`DPMSolverV3().fit(denoiser, data)`: with statistics of this model.

    denoiser: the model.
    data: clean data or finished samples of it, (rows, ...).
    points: of the tables, between lam(t_max) and lam(t_min).
    elementwise: a table for every coordinate, as in the paper, or one for all.
    seed: of the noise that is added to the data.
    batch: how many rows the network sees at once.
    delta: for the central differences that stand in for the paper's forward-mode derivatives, five network calls a
        row and point. None takes the cube root of the data's precision; give about 0.05 for a network in half
        precision.

    Source: Zheng et al. 2023, section 3.1 and appendix C.1.1.
    """
    step = delta or torch.finfo(data.dtype).eps ** (1 / 3)
    probe = Probe(denoiser, data, step, seed, batch, (0,) if elementwise else tuple(range(data.ndim)))
    statistics = measured(probe, points)
    return replace(solver, span=statistics.span, statistics=statistics.tables)


def measured(probe: Probe, points: int) -> Statistics:
    """The statistics of the probe's model, from lam(t_max) to lam(t_min).

    probe: the model and its data.
    points: how many lams.

    Source: Zheng et al. 2023, section 3.1 and appendix C.1.1.
    """
    process, step = probe.denoiser.process, probe.step
    lam = np.linspace(start(process) + step, float(process.lam(process.t_min)) - step, points)
    l = torch.stack([probe.slope(at) for at in tracked(lam, "DPM-Solver-v3, linear part")])  # noqa: E741
    (turn,) = torch.gradient(l, spacing=float(lam[1] - lam[0]), dim=0)
    affine = [probe.affine(at, *of) for at, *of in tracked(list(zip(lam, l, turn)), "DPM-Solver-v3, affine part")]
    s, b = (torch.stack(table) for table in zip(*affine))
    return Statistics(torch.stack([l, s, b]), (float(lam[0]), float(lam[-1])))
