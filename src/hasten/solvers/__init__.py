"""Solvers: one class a method, listed in `SOLVERS`. Each can be made with no arguments."""
# ruff: noqa: I001 - imported in the order in which methods are listed and searched

from hasten.solvers.base import SOLVERS, Query, Solver
from hasten.solvers.ddim import DDIM
from hasten.solvers.dpm_solver import DPMSolver, DPMSolverPP
from hasten.solvers.unipc import UniPC
from hasten.solvers.dpm_adaptive import DPMAdaptive
from hasten.solvers.bns import BNS
from hasten.solvers.dc_solver import DCSolver
from hasten.solvers.filters import HeavyBall, Thresholded
from hasten.solvers.linear import Euler, Heun
from hasten.solvers.multistep import DEIS, GHVB, IPNDM, PNDM
from hasten.solvers.edict import EDICT
from hasten.solvers.bdia import BDIA, BDIAHeun
from hasten.solvers.usf import USF
from hasten.solvers.stochastic import EDM, EulerAncestral
from hasten.solvers.dpm_v3 import DPMSolverV3
from hasten.solvers.jumps import LCM, SCM, TCD, Consistency

__all__ = [
    "BDIA", "BDIAHeun", "BNS", "Consistency", "DCSolver", "DDIM", "DEIS", "DPMAdaptive", "DPMSolver", "DPMSolverPP",
    "DPMSolverV3", "EDICT", "EDM", "Euler", "EulerAncestral", "GHVB", "HeavyBall", "Heun", "IPNDM", "LCM", "PNDM",
    "Query", "SCM", "SOLVERS", "Solver", "TCD", "Thresholded", "USF", "UniPC", "all",
]  # fmt: skip


def all() -> list[type[Solver]]:
    """The solver classes."""
    return list(SOLVERS)
