"""What fits share: converged states to aim at, a loss that sees flips, averages over data; searches."""

from hasten.fitting.aim import Aim
from hasten.fitting.course import Course
from hasten.fitting.probe import Probe
from hasten.fitting.runs import integrate, shown, solve

__all__ = ["Aim", "Course", "Probe", "integrate", "shown", "solve"]
