"""Measures: functions to numbers with an interval. Drift, distances of distributions, alignment, cost."""

from __future__ import annotations

from hasten.measure.alignment import alignment
from hasten.measure.cost import Calls, count_calls, macs, peak_memory, timed_ratio, weight_bytes
from hasten.measure.distribution import frechet_distance, kernel_distance, precision_recall
from hasten.measure.drift import Drift, drift, relative
from hasten.measure.extractors import extractor
from hasten.measure.features import features, nearest, perceptual_distance, signatures
from hasten.measure.intervals import Estimate, bootstrap, bootstrap_ratio, wilson

__all__ = [
    "Calls",
    "Drift",
    "Estimate",
    "alignment",
    "bootstrap",
    "bootstrap_ratio",
    "count_calls",
    "drift",
    "extractor",
    "features",
    "frechet_distance",
    "kernel_distance",
    "macs",
    "nearest",
    "peak_memory",
    "perceptual_distance",
    "precision_recall",
    "relative",
    "signatures",
    "timed_ratio",
    "weight_bytes",
    "wilson",
]
