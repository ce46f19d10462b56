"""What fits share: converged states to aim at, a loss that sees flips, averages over data; searches."""

from hasten.fit.aim import Aim
from hasten.fit.probe import Probe
from hasten.fit.runs import integrate, shown, solve
from hasten.fit.trajectory import Course

__all__ = ["Aim", "Course", "Probe", "integrate", "shown", "solve"]
