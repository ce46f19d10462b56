"""What a quantizer is."""

from __future__ import annotations

from hasten.caches import CACHES
from hasten.core.registry import Registry
from hasten.guidance import GUIDANCES
from hasten.runtime.acceleration import Acceleration


class Quantizer(Acceleration):
    """A change to the numbers that the network computes with."""

    before = tuple(cls.name for family in (GUIDANCES, CACHES) for cls in family)  # they see the network from outside


QUANTIZERS: Registry[Quantizer] = Registry("quantize", Quantizer)
