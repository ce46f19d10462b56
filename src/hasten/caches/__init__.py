"""Caches: one class a method, listed in `CACHES`; ours are a site x a gate x a forecaster, others are borrowed."""

import hasten.caches.blocks
import hasten.caches.online
import hasten.caches.unet  # noqa: F401 they list their parts
from hasten.caches.borrowed import FirstBlock, MagCache
from hasten.caches.borrowed_attention import FasterCache, PyramidAttention, TaylorSeer
from hasten.caches.cache import CACHES, Cache, Composed, Rule
from hasten.caches.cachedit import DBCache
from hasten.caches.deepcache import DeepCache
from hasten.caches.eyes import EYES, Eye
from hasten.caches.forecasters import FORECASTERS, Forecaster
from hasten.caches.gates import GATES, Gate
from hasten.caches.merging import TokenMerging
from hasten.caches.sites import SITES, Site

__all__ = [
    "CACHES", "EYES", "FORECASTERS", "GATES", "SITES", "Cache", "Composed", "DBCache", "DeepCache", "Eye",
    "FasterCache", "FirstBlock", "Forecaster", "Gate", "MagCache", "PyramidAttention", "Rule", "Site", "TaylorSeer",
    "TokenMerging",
]  # fmt: skip
