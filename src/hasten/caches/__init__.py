"""Caches: one class a method, listed in `CACHES`; each is a site x a gate x a forecaster."""

import hasten.caches.blocks
import hasten.caches.online
import hasten.caches.stability
import hasten.caches.tokens
import hasten.caches.unet  # noqa: F401 they list their parts
from hasten.caches.cache import CACHES, Cache, Composed, Rule
from hasten.caches.deepcache import DeepCache
from hasten.caches.eyes import EYES, Eye
from hasten.caches.forecasters import FORECASTERS, Forecaster
from hasten.caches.gates import GATES, Gate
from hasten.caches.sada import SADA
from hasten.caches.sites import SITES, Site

__all__ = [
    "CACHES", "EYES", "FORECASTERS", "GATES", "SADA", "SITES", "Cache", "Composed", "DeepCache", "Eye", "Forecaster",
    "Gate", "Rule", "Site",
]  # fmt: skip
