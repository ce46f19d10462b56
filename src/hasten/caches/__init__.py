"""Caches: one class a method, listed in `CACHES`; each is a site x a gate x a forecaster."""

from hasten.caches.cache import CACHES, Cache
from hasten.caches.deepcache import DeepCache

__all__ = ["CACHES", "Cache", "DeepCache"]
