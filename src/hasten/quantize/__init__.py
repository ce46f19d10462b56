"""Numbers of fewer bits: one class a method, listed in `QUANTIZERS`."""

from hasten.quantize.base import QUANTIZERS, Quantizer
from hasten.quantize.cast import Cast

__all__ = ["QUANTIZERS", "Cast", "Quantizer"]
