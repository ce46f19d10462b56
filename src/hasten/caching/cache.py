"""A cache: a site (what is not computed) x a gate (when it is) x a forecaster (what stands in for it)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import nn

from hasten.caching.forecasters import FORECASTERS, Forecaster, Hold
from hasten.caching.gates import GATES, Gate
from hasten.caching.memory import Memory
from hasten.caching.sites import SITES, Site
from hasten.core.frozen import set_fields
from hasten.core.registry import Paper, Registry
from hasten.runtime.acceleration import Acceleration, Phase
from hasten.runtime.anatomy import needs_plain_rows
from hasten.runtime.run import Run


class Rule(NamedTuple):
    """What is not computed, when it is, and what stands in for it.

    site: the part of the network.
    gate: on which steps, and for which rows, it is computed.
    forecaster: what is taken for its tensors where it is not computed.
    """

    site: Site
    gate: Gate
    forecaster: Forecaster = Hold()


class Cache(Acceleration):
    """Parts of the network are computed on some steps only. Subclasses say which, by what they return as `rules`."""

    phase = Phase.CACHE
    tells = True

    def rules(self, network: nn.Module) -> Sequence[Rule]:
        """What is done to this network; several rules have a memory each, the first outermost.

        Raises UnsupportedModel if the network lacks what they need.
        """
        raise NotImplementedError

    def check(self, network: nn.Module) -> None:
        for rule in self.rules(network):
            if rule.site.inside:
                needs_plain_rows(network)
            rule.site.check(network)
            if rule.gate.indicator is not None:
                rule.gate.indicator.check(network)

    def attach(self, network: nn.Module, run: Run) -> None:
        for site, gate, forecaster in self.rules(network):
            memory = Memory(run, gate, forecaster, self.name)
            memory.watch(network)
            site.attach(network, memory)


CACHES: Registry[Cache] = Registry("caches", Cache, needs=("rules", "attach"))


@CACHES.add
@dataclass(frozen=True)
class Composed(Cache):
    """Any site with any gate and any forecaster, as data: {"name": "cache", "site": {"name": "whole"}, ...}.

    Each is given as a name, as an object with a name and fields, or as an instance.

    site: what is not computed, of `SITES`.
    gate: when it is computed, of `GATES`.
    forecaster: what stands in for it, of `FORECASTERS`.
    """

    site: Any = "whole"
    gate: Any = "every"
    forecaster: Any = "hold"

    name = "cache"
    search_space: ClassVar[Mapping[str, Any]] = {"site": SITES, "gate": GATES, "forecaster": FORECASTERS}
    paper = Paper(
        "A Survey on Cache Methods in Diffusion Models: Toward Efficient Multi-Modal Generation", 2025, "2510.19755"
    )
    off: ClassVar[Mapping[str, Any]] = {"gate": {"name": "every", "interval": 1}}

    def __post_init__(self) -> None:
        for field, family in (("site", SITES), ("gate", GATES), ("forecaster", FORECASTERS)):
            set_fields(self, **{field: family.build(getattr(self, field))})

    @property
    def after(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.site.within

    def rules(self, network: nn.Module) -> Sequence[Rule]:
        return [Rule(self.site, self.gate, self.forecaster)]
