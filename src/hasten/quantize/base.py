"""What a quantizer is."""

from __future__ import annotations

from hasten.core.registry import Registry
from hasten.runtime.acceleration import Acceleration, Phase


class Quantizer(Acceleration):
    """A change to the numbers that the network computes with. Listed in `QUANTIZERS`."""

    phase = Phase.QUANTIZE


QUANTIZERS: Registry[Quantizer] = Registry("quantize", Quantizer)
