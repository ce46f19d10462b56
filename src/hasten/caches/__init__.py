"""Caches: one class a method, listed in `CACHES`; ours are a site x a gate x a forecaster, others are borrowed."""

from hasten.caches.borrowed import FirstBlock, MagCache
from hasten.caches.borrowed_attention import FasterCache, PyramidAttention, TaylorSeer
from hasten.caches.cache import CACHES, Cache
from hasten.caches.deepcache import DeepCache
from hasten.caches.merging import TokenMerging

__all__ = [
    "CACHES", "Cache", "DeepCache", "FasterCache", "FirstBlock", "MagCache", "PyramidAttention", "TaylorSeer",
    "TokenMerging",
]  # fmt: skip
