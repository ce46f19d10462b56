"""Solvers: one class a method, listed in `SOLVERS`. Each can be made with no arguments."""

from hasten.solvers.adaptive import DPMAdaptive
from hasten.solvers.base import SOLVERS, Query, Solver
from hasten.solvers.bespoke import BNS
from hasten.solvers.compensated import DCSolver
from hasten.solvers.exponential import DDIM, DPMSolver, DPMSolverPP, UniPC
from hasten.solvers.filters import HeavyBall, Thresholded
from hasten.solvers.linear import Euler, Heun
from hasten.solvers.multistep import DEIS, GHVB, IPNDM, PNDM
from hasten.solvers.reversible import BDIA, EDICT, BDIAHeun
from hasten.solvers.searched import USF
from hasten.solvers.stochastic import EDM, EulerAncestral
from hasten.solvers.v3 import DPMSolverV3

__all__ = [
    "BDIA", "BDIAHeun", "BNS", "DCSolver", "DDIM", "DEIS", "DPMAdaptive", "DPMSolver", "DPMSolverPP", "DPMSolverV3",
    "EDICT", "EDM", "Euler", "EulerAncestral", "GHVB", "HeavyBall", "Heun", "IPNDM", "PNDM", "Query", "SOLVERS",
    "Solver", "Thresholded", "USF", "UniPC", "all",
]  # fmt: skip


def all() -> list[type[Solver]]:
    """The solver classes."""
    return list(SOLVERS)
