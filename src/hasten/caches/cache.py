"""A cache: a site (what is not computed) x a gate (when it is) x a forecaster (what stands in for it)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from torch import nn

from hasten.acceleration import Acceleration, Run
from hasten.caches.forecasters import Forecaster, Hold
from hasten.caches.gates import Gate
from hasten.caches.memory import Memory
from hasten.caches.sites import Site
from hasten.catalog import Family
from hasten.guidance import GUIDANCES


class Cache(Acceleration):
    """A part of the network is computed on some steps only. Subclasses name the three parts."""

    before = tuple(cls.name for cls in GUIDANCES)  # they decide which rows there are

    @property
    @abstractmethod
    def site(self) -> Site:
        """Which part of the network."""

    @property
    @abstractmethod
    def gate(self) -> Gate:
        """On which steps it is computed."""

    @property
    def forecaster(self) -> Callable[[], Forecaster]:
        """Makes the forecaster of one tensor; one is made for each that is remembered."""
        return Hold

    def check(self, network: nn.Module) -> None:
        self.site.check(network)

    def attach(self, network: nn.Module, run: Run) -> None:
        memory = Memory(run, self.gate, self.forecaster)
        memory.watch(network)
        self.site.attach(network, memory)


CACHES: Family[Cache] = Family("caches", Cache)
