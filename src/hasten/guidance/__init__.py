"""Ways of guiding: one class a method, listed in `GUIDANCES`."""

from hasten.guidance.base import GUIDANCES, Guidance
from hasten.guidance.interval import GuidanceInterval

__all__ = ["GUIDANCES", "Guidance", "GuidanceInterval"]
