"""Inversion and editing: loops that drive solvers from data to noise and back."""

from hasten.edit.inversion import Inverse, invert
from hasten.edit.pictures import denoiser_of, pictures_of, states_of
from hasten.edit.roundtrip import RoundTrip, round_trip

__all__ = ["Inverse", "RoundTrip", "denoiser_of", "invert", "pictures_of", "round_trip", "states_of"]
