"""Numbers of fewer bits: one class a method, listed in `QUANTIZERS`."""

from hasten.quantize.base import QUANTIZERS, Quantizer
from hasten.quantize.cast import BFloat16, Float16

__all__ = ["QUANTIZERS", "BFloat16", "Float16", "Quantizer"]
