"""What is fitted to a model: one file a method, found by `method.fit(...)` through `hasten.core.fitters`.

`aim`, `trajectory`, `probe`, `observing`, `runs` and `least_squares` are what fits share: what to come near to, the
exact way there, averages over data, runs of a pipeline that are watched, and runs of a solver or of the exact ODE.
"""

from hasten.fit import bns, boundary, dc_solver, dpm_ot, dpm_v3, grid, magcache, teacache, teleport, usf
from hasten.fit.aim import Aim
from hasten.fit.learners import learning, learns
from hasten.fit.probe import Probe
from hasten.fit.runs import integrate, solve
from hasten.fit.trajectory import Trajectory, converged

__all__ = [
    "Aim", "Probe", "Trajectory", "bns", "boundary", "converged", "dc_solver", "dpm_ot", "dpm_v3", "grid", "integrate",
    "learning", "learns", "magcache", "solve", "teacache", "teleport", "usf",
]  # fmt: skip
