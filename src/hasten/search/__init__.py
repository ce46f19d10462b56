"""Searching a faster recipe under an error budget, and measuring given recipes: `hasten.tune`, `hasten.compare`."""

from hasten.search.tuning import compare, tune

__all__ = ["compare", "tune"]
