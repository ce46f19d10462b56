"""What fits share: converged states to aim at, a loss that sees flips, averages over data; searches."""

from hasten.fit.aim import Aim
from hasten.fit.probe import Probe
from hasten.fit.runs import integrate, shown, solve
from hasten.fit.trajectory import Trajectory

__all__ = ["Aim", "Trajectory", "Probe", "integrate", "shown", "solve"]
