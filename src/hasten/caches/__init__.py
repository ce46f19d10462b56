"""Caches: one class a method, listed in `CACHES`; each is a site x a gate x a forecaster."""

from hasten.caches.cache import CACHES, Cache, Composed, Rule
from hasten.caches.deepcache import DeepCache
from hasten.caches.forecasters import FORECASTERS, Forecaster
from hasten.caches.gates import GATES, Gate
from hasten.caches.sites import SITES, Site

__all__ = [
    "CACHES", "FORECASTERS", "GATES", "SITES", "Cache", "Composed", "DeepCache", "Forecaster", "Gate", "Rule", "Site",
]  # fmt: skip
