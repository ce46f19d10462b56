"""Hosts of walks: `sample` runs one, `Walks` and `sample_many` run many with as few network calls as the longest."""

from hasten.sampling.loop import Asked, Callback, Following, sample, start
from hasten.sampling.noise import brownian_noise, seeded_noise
from hasten.sampling.walks import Batch, Walks, sample_many

__all__ = [
    "Asked",
    "Batch",
    "Callback",
    "Following",
    "Walks",
    "brownian_noise",
    "sample",
    "sample_many",
    "seeded_noise",
    "start",
]
