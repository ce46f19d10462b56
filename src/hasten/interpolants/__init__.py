"""Stochastic interpolants between two data sets: x_t = alpha x_data + beta x_base + gamma z, t from 0 to 1.

Time runs as everywhere here, data at 0 and base at 1; a velocity is the slope of the state in t (minus the
paper's b). With a Gaussian base the one-sided paths are plain processes: `hasten.processes.OneSided`.
Source: Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797.
"""

from hasten.interpolants.mixture import MixtureBridge
from hasten.interpolants.paths import GAMMAS, PATHS, Fields, FieldsLike, TwoSided, Weights
from hasten.interpolants.transport import transport

__all__ = ["GAMMAS", "PATHS", "Fields", "FieldsLike", "MixtureBridge", "TwoSided", "Weights", "transport"]
