"""What a network says about a state, in whichever of six ways it was trained to say it.

Every kind of output is an affine function of the state and of the data (or noise) it implies, so one small
table converts any kind to any other. The data prediction and the direction of re-noising are kept apart:
guidance and editing may change one and not the other.
"""

from hasten.predictions.prediction import KINDS, Coefficient, Pair, Prediction, combine
from hasten.predictions.reading import SIGMA_DATA, Limit, Reading, common, reading_of, thresholded

__all__ = [
    "KINDS", "SIGMA_DATA", "Coefficient", "Limit", "Pair", "Prediction", "Reading", "combine", "common", "reading_of",
    "thresholded",
]  # fmt: skip
