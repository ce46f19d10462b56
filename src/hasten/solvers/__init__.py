"""Solvers: one class a method, listed in `SOLVERS`. Each can be made with no arguments."""

from hasten.solvers.base import SOLVERS, Query, Solver
from hasten.solvers.exponential import DDIM, DPMSolverPP, UniPC
from hasten.solvers.linear import Euler, Heun
from hasten.solvers.reversible import BDIA, EDICT, BDIAHeun

__all__ = [
    "BDIA", "BDIAHeun", "DDIM", "DPMSolverPP", "EDICT", "Euler", "Heun", "Query", "SOLVERS", "Solver", "UniPC", "all",
]  # fmt: skip


def all() -> list[type[Solver]]:
    """The solver classes."""
    return list(SOLVERS)
