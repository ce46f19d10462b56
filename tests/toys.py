"""One made-up method a phase, listed as any other: `pytest -p toys` runs the behaviour matrix with them among it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from hasten.caches import CACHES
from hasten.caching.cache import Cache, Rule
from hasten.caching.gates import Every
from hasten.caching.sites import Whole
from hasten.compilers import COMPILERS, Compiler
from hasten.core.errors import UnsupportedModel
from hasten.core.registry import Paper, Span
from hasten.guidance import GUIDANCES
from hasten.guidance.base import GuidanceMethod
from hasten.prune import PRUNERS, Pruner
from hasten.quantize import QUANTIZERS, Quantizer
from hasten.quantize.cast import retype
from hasten.runtime.rows import mapped
from hasten.runtime.view import wrap

PAPER = Paper("A method that nobody wrote", 2026, "0000.00000")


def scaled(network: nn.Module, factor: float) -> None:
    """Let the view answer `factor` times what it would."""

    def forward(inner, *args, **kwargs):
        return mapped(inner(*args, **kwargs), lambda x: x * factor)

    if factor != 1:
        wrap(network, forward)


@GUIDANCES.add
@dataclass(frozen=True)
class ToyGuidance(GuidanceMethod):
    """Answers a little more than it was asked for."""

    strength: float = 0.1

    name = "toy-guidance"
    paper = PAPER
    off = {"strength": 0.0}  # noqa: RUF012
    search_space = {"strength": Span(0.1, 0.2)}  # noqa: RUF012

    def check(self, network):
        if not hasattr(network, "up_blocks"):
            raise UnsupportedModel(f"toy-guidance: {type(network).__name__} is no U-Net; give one")

    def attach(self, network, run):
        scaled(network, 1 + self.strength)


@CACHES.add
@dataclass(frozen=True)
class ToyCache(Cache):
    """Holds the network's whole answer on two of three steps."""

    interval: int = 3

    name = "toy-cache"
    paper = PAPER
    off = {"interval": 1}  # noqa: RUF012
    search_space = {"interval": Span(2, 3)}  # noqa: RUF012

    def rules(self, network):
        return [Rule(Whole(), Every(self.interval))]


@PRUNERS.add
@dataclass(frozen=True)
class ToyPruning(Pruner):
    """Leaves out the middle of a U-Net."""

    middle: bool = False

    name = "toy-pruning"
    paper = PAPER
    off = {"middle": True}  # noqa: RUF012
    search_space = {}  # noqa: RUF012

    def check(self, network):
        if getattr(network, "mid_block", None) is None:
            raise UnsupportedModel(f"toy-pruning: {type(network).__name__} has no middle; give a U-Net")

    def attach(self, network, run):
        if not self.middle:
            wrap(network.mid_block, lambda inner, hidden, *args, **kwargs: hidden)


@QUANTIZERS.add
@dataclass(frozen=True)
class ToyQuantizer(Quantizer):
    """Rounds weights to so many binary places."""

    places: int = 4

    name = "toy-quantizer"
    paper = PAPER
    off = {"places": 0}  # noqa: RUF012
    search_space = {"places": (4, 6)}  # noqa: RUF012

    def check(self, network): ...

    def attach(self, network, run):
        for module in network.modules() if self.places else ():
            retype(module, lambda x: torch.round(x * 2**self.places) / 2**self.places)


@COMPILERS.add
@dataclass(frozen=True)
class ToyCompiler(Compiler):
    """Rounds otherwise, as other code would."""

    rounding: float = 1e-2

    name = "toy-compiler"
    paper = PAPER
    off = {"rounding": 0.0}  # noqa: RUF012
    search_space = {}  # noqa: RUF012

    def check(self, network): ...

    def attach(self, network, run):
        scaled(network, 1 + self.rounding)
