"""Grids: at which times a run asks the network. One class a rule, listed in `GRIDS`."""

from hasten.grids.base import ENDS, GRIDS, Explicit, Grid, GridLike, resolve, schedule, start
from hasten.grids.fitted import AlignYourSteps, FittedGrid
from hasten.grids.rules import Bent, FlowShifted, Karras, LogSNR, Power, Uniform, settling

__all__ = [
    "AlignYourSteps", "Bent", "ENDS", "Explicit", "FittedGrid", "FlowShifted", "GRIDS", "Grid", "GridLike", "Karras",
    "LogSNR", "Power", "Uniform", "resolve", "schedule", "settling", "start",
]  # fmt: skip
