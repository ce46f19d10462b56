"""Grids: at which times a run asks the network. One class a rule, listed in `GRIDS`."""

from hasten.grids.base import ENDS, GRIDS, Explicit, Grid, GridLike, resolve, schedule, start
from hasten.grids.distilled import ConsistencyLevels, LatentConsistency, SanaSprint
from hasten.grids.fitted import AlignYourSteps, FittedGrid
from hasten.grids.rules import Bent, FlowShifted, Karras, LogSNR, Power, Uniform, settling

__all__ = [
    "AlignYourSteps", "Bent", "ConsistencyLevels", "ENDS", "Explicit", "FittedGrid", "FlowShifted", "GRIDS", "Grid",
    "GridLike", "Karras", "LatentConsistency", "LogSNR", "Power", "SanaSprint", "Uniform", "resolve", "schedule",
    "settling", "start",
]  # fmt: skip
