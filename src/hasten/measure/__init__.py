"""Measures: functions to numbers with an interval. Drift, distances of distributions, alignment, cost."""

from __future__ import annotations

from hasten.core.estimates import Estimate, bootstrap, bootstrap_ratio, wilson
from hasten.measure.alignment import alignment
from hasten.measure.cost import Calls, count_calls, macs, peak_memory, weight_bytes
from hasten.measure.distribution import frechet_distance, kernel_distance, precision_recall
from hasten.measure.drift import Drift, drift, relative
from hasten.measure.extractors import extractor
from hasten.measure.features import features, nearest, perceptual_distance, signatures
from hasten.measure.fields import asymmetry, divergence, fokker_planck_residual, gauge_residual
from hasten.measure.paths import bits_per_dimension, intrinsic_dimension, log_likelihood
from hasten.measure.pixels import psnr
from hasten.measure.timing import Speed, timed_ratio

__all__ = [
    "Calls",
    "Drift",
    "Estimate",
    "Speed",
    "alignment",
    "asymmetry",
    "bits_per_dimension",
    "bootstrap",
    "bootstrap_ratio",
    "count_calls",
    "divergence",
    "drift",
    "extractor",
    "features",
    "fokker_planck_residual",
    "frechet_distance",
    "gauge_residual",
    "intrinsic_dimension",
    "kernel_distance",
    "log_likelihood",
    "macs",
    "nearest",
    "peak_memory",
    "perceptual_distance",
    "precision_recall",
    "psnr",
    "relative",
    "signatures",
    "timed_ratio",
    "weight_bytes",
    "wilson",
]
