"""Caches that remember what a transformer's stack of blocks adds, and differ in how they tell when to compute it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import nn

from hasten.caching.blocks import Blocks
from hasten.caching.cache import CACHES, Cache, Rule
from hasten.caching.indicators import Added
from hasten.caching.online import Accumulated, Moved
from hasten.caching.planned import Magnitude
from hasten.core.errors import HastenError, natural, positive_int, unit_interval
from hasten.core.frozen import set_fields
from hasten.core.registry import Paper, Span

FLUX = (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861)
"""TeaCache's published polynomial for FLUX.1, highest power first; theirs go with thresholds of 0.25 to 0.8."""


@CACHES.add
@dataclass(frozen=True)
class FirstBlockCache(Cache):
    """Compute the middle of a transformer only where what its first blocks add has changed by `threshold`.

    threshold: relative L1 distance, image by image, from when it was last computed, at least 0, which is off.
    first: how many blocks before the middle run at every step, at least 1.
    last: how many blocks after it run at every step.
    warmup: how many first steps are computed in full.
    tail: how many last steps are computed in full.
    most: how many steps in a row may be skipped; None is no limit.
    compat: skip at exactly the threshold too, as diffusers does.

    Source: the first-block cache of ParaAttention (first=1, last=0); DBCache of cache-dit is first=8, warmup=8,
    threshold=0.08. It goes without TeaCache's polynomial.
    """

    threshold: float = 0.05
    first: int = 1
    last: int = 0
    warmup: int = 1
    tail: int = 0
    most: int | None = None
    compat: bool = False

    name = "first-block"
    search_space: ClassVar[Mapping[str, Any]] = {"threshold": Span(0.02, 0.5, log=True)}
    paper = Paper("Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model", 2024, "2411.19108")
    off: ClassVar[Mapping[str, Any]] = {"threshold": 0.0}

    def __post_init__(self) -> None:
        _ = self.gate
        positive_int("first", self.first)
        natural("last", self.last)

    @property
    def gate(self) -> Moved:
        """When the middle is computed."""
        return Moved(self.threshold, Added(self.first), self.warmup, self.tail, self.most, self.compat)

    def rules(self, network: nn.Module) -> Sequence[Rule]:
        return [Rule(Blocks(self.first, -self.last or None), self.gate)]


@CACHES.add
@dataclass(frozen=True)
class TeaCache(Cache):
    """Compute a transformer's blocks when its input, modulated by time, has changed by `threshold` in all.

    threshold: of the sum of estimated relative changes of the output since it was last computed, at least 0, which is
        off.
    coefficients: of the polynomial, highest power first, that estimates those from the changes of the input, as `fit`
        finds it for a model; estimates below 0 count as 0. If empty, the changes of the input count as they are.
    warmup: how many first steps are computed.
    tail: how many last steps are computed.
    most: how many steps in a row may be skipped; None is no limit.

    Source: Liu et al. 2024, section 3.3. `FLUX` is the authors' polynomial for that model.
    """

    threshold: float = 0.25
    coefficients: tuple[float, ...] = ()
    warmup: int = 1
    tail: int = 1
    most: int | None = None

    name = "teacache"
    search_space: ClassVar[Mapping[str, Any]] = {"threshold": Span(0.02, 0.5, log=True)}
    paper = Paper("Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model", 2024, "2411.19108")
    off: ClassVar[Mapping[str, Any]] = {"threshold": 0.0}

    def __post_init__(self) -> None:
        set_fields(self, coefficients=tuple(map(float, self.coefficients)))
        _ = self.gate

    @property
    def needs_fit(self) -> bool:
        """Whether its numbers are still those of no model."""
        return not self.coefficients

    @property
    def gate(self) -> Accumulated:
        """When the blocks are computed."""
        rule = Accumulated(self.threshold, coefficients=self.coefficients or (1.0, 0.0))
        return replace(rule, warmup=self.warmup, tail=self.tail, most=self.most)

    def rules(self, network: nn.Module) -> Sequence[Rule]:
        return [Rule(Blocks(), self.gate)]


@CACHES.add
@dataclass(frozen=True)
class MagCache(Cache):
    """Compute a transformer's blocks when what they add has, by a fitted table, changed its size by `threshold`.

    threshold: of the sum of errors over a stretch of skipped steps, at least 0 (see `planned.magnitude_steps`).
    most: how many steps in a row may be skipped, at least 0, which is off.
    retention: the share of steps at the beginning that is computed, 0 to 1.
    ratios: the table, as `fit` finds it, for as many steps as it has numbers; if empty, `most` alone decides.
    keep: steps that are computed in any case.

    Source: Ma et al. 2025, section 3.3; their setting for FLUX.1 is the default with keep=(11,), that of
    diffusers threshold=0.06, most=3, retention=0.2.
    """

    threshold: float = 0.24
    most: int = 5
    retention: float = 0.1
    ratios: tuple[float, ...] = ()
    keep: tuple[int, ...] = ()

    name = "magcache"
    search_space: ClassVar[Mapping[str, Any]] = {"threshold": Span(0.02, 0.5, log=True), "most": Span(1, 5)}
    paper = Paper("MagCache: Fast Video Generation with Magnitude-Aware Cache", 2025, "2506.09045")
    off: ClassVar[Mapping[str, Any]] = {"most": 0}

    def __post_init__(self) -> None:
        natural("most", self.most)
        unit_interval("retention", self.retention)
        if not self.threshold >= 0:
            raise HastenError(f"threshold: {self.threshold!r} is not possible; give a number of at least 0")
        set_fields(self, ratios=tuple(map(float, self.ratios)))
        set_fields(self, keep=tuple(self.keep))

    @property
    def needs_fit(self) -> bool:
        """Whether its numbers are still those of no model."""
        return not self.ratios

    @property
    def gate(self) -> Magnitude:
        """When the blocks are computed."""
        return Magnitude(self.ratios, self.threshold, self.most, self.retention, self.keep)

    def rules(self, network: nn.Module) -> Sequence[Rule]:
        return [Rule(Blocks(), self.gate)]
