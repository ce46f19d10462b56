"""Ways of guiding: one class a method, listed in `GUIDANCES`."""

from hasten.guidance.base import GUIDANCES, GuidanceMethod
from hasten.guidance.interval import GuidanceInterval
from hasten.guidance.reuse import DifferenceReuse, FrequencyReuse
from hasten.guidance.schedule import ScaleSchedule

__all__ = ["GUIDANCES", "DifferenceReuse", "FrequencyReuse", "GuidanceMethod", "GuidanceInterval", "ScaleSchedule"]
