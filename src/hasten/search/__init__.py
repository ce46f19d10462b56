"""Searching a faster recipe under an error budget, and measuring given recipes: `hasten.tune`, `hasten.compare`."""

from hasten.search.comparing import compare
from hasten.search.tuning import tune

__all__ = ["compare", "tune"]
