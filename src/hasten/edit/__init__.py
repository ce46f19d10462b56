"""Inversion and editing: loops that drive solvers from data to noise and back."""

from hasten.edit.inversion import Inverse, invert

__all__ = ["Inverse", "invert"]
