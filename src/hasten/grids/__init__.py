"""Grids: at which times a run asks the network. One class a rule, listed in `GRIDS`."""

from hasten.grids.fitted import AlignYourSteps, FittedGrid
from hasten.grids.rules import (
    ENDS,
    GRIDS,
    Bent,
    Explicit,
    FlowShifted,
    Grid,
    GridLike,
    Karras,
    LogSNR,
    Power,
    Uniform,
    resolve,
    schedule,
    settling,
)

__all__ = [
    "AlignYourSteps", "Bent", "ENDS", "Explicit", "FittedGrid", "FlowShifted", "GRIDS", "Grid", "GridLike", "Karras",
    "LogSNR", "Power", "Uniform", "resolve", "schedule", "settling",
]  # fmt: skip
