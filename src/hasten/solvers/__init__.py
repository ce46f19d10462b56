"""Solvers: one class a method, listed in `SOLVERS`. Each can be made with no arguments."""

from hasten.solvers.base import SOLVERS, Query, Solver
from hasten.solvers.compensated import DCSolver
from hasten.solvers.exponential import DDIM, DPMSolverPP, UniPC
from hasten.solvers.linear import Euler, Heun
from hasten.solvers.searched import USF
from hasten.solvers.v3 import DPMSolverV3

__all__ = [
    "DCSolver",
    "DDIM",
    "DPMSolverPP",
    "DPMSolverV3",
    "Euler",
    "Heun",
    "Query",
    "SOLVERS",
    "Solver",
    "USF",
    "UniPC",
    "all",
]


def all() -> list[type[Solver]]:
    """The solver classes."""
    return list(SOLVERS)
