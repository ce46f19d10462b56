"""Caches: one class a method, listed in `CACHES`; each is a site x a gate x a forecaster."""

import hasten.caches.blocks
import hasten.caches.online
import hasten.caches.stability
import hasten.caches.tokens
import hasten.caches.unet
import hasten.caches.units  # noqa: F401 they list their parts
from hasten.caches.borrowed import DiffusersFirstBlock, DiffusersMagCache
from hasten.caches.borrowed_attention import DiffusersFasterCache, DiffusersPAB, DiffusersTaylorSeer
from hasten.caches.cache import CACHES, Cache, Composed, Rule
from hasten.caches.cachedit import DBCache
from hasten.caches.deepcache import DeepCache
from hasten.caches.eyes import EYES, Eye
from hasten.caches.faster import FasterDiffusion
from hasten.caches.forecasters import FORECASTERS, Forecaster
from hasten.caches.gates import GATES, Gate
from hasten.caches.inheritance import FeatureInheritance
from hasten.caches.merging import TokenMerging
from hasten.caches.sada import SADA
from hasten.caches.scheduled import FORA, DeltaDiT, TaylorSeer
from hasten.caches.sites import SITES, Site
from hasten.caches.stacks import FirstBlockCache, MagCache, TeaCache

__all__ = [
    "CACHES", "Cache", "Composed", "DBCache", "DeepCache", "DeltaDiT", "DiffusersFasterCache", "DiffusersFirstBlock",
    "DiffusersMagCache", "DiffusersPAB", "DiffusersTaylorSeer", "EYES", "Eye", "FORA", "FORECASTERS",
    "FasterDiffusion", "FeatureInheritance", "FirstBlockCache", "Forecaster", "GATES", "Gate", "MagCache", "Rule",
    "SADA", "SITES", "Site", "TaylorSeer", "TeaCache", "TokenMerging",
]  # fmt: skip
