"""Caches: one class a method, listed in `CACHES`; each is a site x a gate x a forecaster."""
# ruff: noqa: F401 - modules are imported so that they list their parts

import hasten.caches.stability
import hasten.caches.tokens
import hasten.caching.blocks
import hasten.caching.online
import hasten.caching.unet
import hasten.caching.units
from hasten.caches.borrowed import DiffusersFirstBlock, DiffusersMagCache
from hasten.caches.borrowed_attention import DiffusersFasterCache, DiffusersPAB, DiffusersTaylorSeer
from hasten.caches.cachedit import DBCache
from hasten.caches.deepcache import DeepCache
from hasten.caches.faster import FasterDiffusion
from hasten.caches.inheritance import FeatureInheritance
from hasten.caches.merging import TokenMerging
from hasten.caches.sada import SADA
from hasten.caches.scheduled import FORA, DeltaDiT, TaylorSeer
from hasten.caches.stacks import FirstBlockCache, MagCache, TeaCache
from hasten.caching.cache import CACHES, Cache, Composed, Rule
from hasten.caching.forecasters import FORECASTERS, Forecaster
from hasten.caching.gates import GATES, Gate
from hasten.caching.indicators import INDICATORS, Indicator
from hasten.caching.sites import SITES, Site

__all__ = [
    "CACHES", "Cache", "Composed", "DBCache", "DeepCache", "DeltaDiT", "DiffusersFasterCache", "DiffusersFirstBlock",
    "DiffusersMagCache", "DiffusersPAB", "DiffusersTaylorSeer", "INDICATORS", "Indicator", "FORA", "FORECASTERS",
    "FasterDiffusion", "FeatureInheritance", "FirstBlockCache", "Forecaster", "GATES", "Gate", "MagCache", "Rule",
    "SADA", "SITES", "Site", "TaylorSeer", "TeaCache", "TokenMerging",
]  # fmt: skip
