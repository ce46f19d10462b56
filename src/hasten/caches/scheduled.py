"""Caches of transformers whose full steps are laid out beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from hasten.caching.blocks import Blocks
from hasten.caching.cache import CACHES, Cache, Rule
from hasten.caching.forecasters import Taylor
from hasten.caching.gates import Countdown, Every, Within
from hasten.caching.units import Units
from hasten.core.errors import natural, positive_int, positive_share, unit_interval
from hasten.core.registry import Paper, Span
from hasten.runtime.anatomy import blocks_of


@CACHES.add
@dataclass(frozen=True)
class FORA(Cache):
    """Compute attention and MLP units on every `interval`-th step, counted from the end, and on the first.

    Their outputs are held in between; the gates and shifts that time sets are those of the current step.

    interval: at least 1, which is off.

    Source: Selvaraju et al. 2024, section 3, and its code.
    """

    interval: int = 3

    name = "fora"
    search_space: ClassVar[Mapping[str, Any]] = {"interval": Span(2, 3)}
    paper = Paper("FORA: Fast-Forward Caching in Diffusion Transformer Acceleration", 2024, "2407.01425")
    off: ClassVar[Mapping[str, Any]] = {"interval": 1}

    def __post_init__(self) -> None:
        positive_int("interval", self.interval)

    def rules(self, network: nn.Module) -> Sequence[Rule]:
        return [Rule(Units("all"), Countdown(self.interval))]


@CACHES.add
@dataclass(frozen=True)
class DeltaDiT(Cache):
    """Hold what the rear blocks of a transformer add in early steps, and what its front blocks add in late ones.

    interval: every so many steps are full, at least 1, which is off.
    boundary: the share of steps that is early, 0 to 1.
    share: of the blocks, how many are held, above 0 to 1; at least one, to the nearest whole number.

    Source: Chen et al. 2024, section 4; the authors published no code, and their settings differ by model.
    """

    interval: int = 2
    boundary: float = 0.5
    share: float = 0.5

    name = "delta-dit"
    search_space: ClassVar[Mapping[str, Any]] = {"interval": Span(2, 3)}
    paper = Paper(
        "Delta-DiT: A Training-Free Acceleration Method Tailored for Diffusion Transformers", 2024, "2406.01125"
    )
    off: ClassVar[Mapping[str, Any]] = {"interval": 1}

    def __post_init__(self) -> None:
        positive_int("interval", self.interval)
        unit_interval("boundary", self.boundary)
        positive_share("share", self.share)

    def rules(self, network: nn.Module) -> Sequence[Rule]:
        held = max(1, round(self.share * len(blocks_of(network))))
        every = Every(self.interval)
        return [
            Rule(Blocks(-held, None), Within(every, stop=self.boundary)),
            Rule(Blocks(0, held), Within(every, start=self.boundary)),
        ]


@CACHES.add
@dataclass(frozen=True)
class TaylorSeer(Cache):
    """Compute attention and MLP units on every `interval`-th step, and extend polynomials through them in between.

    order: of the polynomials, at least 0.
    interval: every so many steps are full, at least 1, which is off.
    warmup: how many first steps are full, at least 1.
    offset: after those, steps are full where step - offset is a multiple of interval; warmup - 1 if None.
    tail: how many last steps are full.
    units: "all", or one of the kinds of `units.UNITS`.
    compat: the powers of the published code instead of Newton's form, the same up to order 1, see `forecasters.Taylor`.

    Source: Liu et al. 2025, section 3.3. Their DiT code has warmup=2, for FLUX.1 warmup=3, interval=6; diffusers
    warmup=3, interval=5, offset=4, units="attention", compat=True.
    """

    order: int = 1
    interval: int = 4
    warmup: int = 2
    offset: int | None = None
    tail: int = 0
    units: str = "all"
    compat: bool = False

    name = "taylorseer"
    search_space: ClassVar[Mapping[str, Any]] = {"interval": Span(2, 4), "order": Span(1, 2)}
    paper = Paper("From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers", 2025, "2503.06923")
    off: ClassVar[Mapping[str, Any]] = {"interval": 1}

    def __post_init__(self) -> None:
        positive_int("interval", self.interval)
        positive_int("warmup", self.warmup)
        natural("tail", self.tail)
        _ = Units(self.units), Taylor(self.order)

    @property
    def gate(self) -> Every:
        """When the units are computed."""
        offset = self.warmup - 1 if self.offset is None else self.offset
        return Every(self.interval, self.warmup, offset, self.tail)

    def rules(self, network: nn.Module) -> Sequence[Rule]:
        return [Rule(Units(self.units), self.gate, Taylor(self.order, compat=self.compat))]
