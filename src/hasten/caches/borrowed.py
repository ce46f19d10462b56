"""The caches that diffusers ships, as rows of a recipe: its own hooks, put on a view of the network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from hasten.caches.hooked import Call, Generations, Hooks, adopt, needs_no_residuals
from hasten.caching.cache import CACHES, Cache
from hasten.core.errors import HastenError, UnsupportedModel
from hasten.core.registry import Paper, Span
from hasten.runtime.acceleration import Acceleration
from hasten.runtime.run import Run

TEACACHE = Paper("Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model", 2024, "2411.19108")


class Borrowed(Cache):
    """A cache of another library, as it is there, but undone exactly and forgotten with each generation.

    Where a solver asks several times a step, all of these count the calls. Requests that share a call are asked one
    after the other.

    beside: names of caches it works together with; all others are refused.
    pools: whether it decides by a mean over all images of a request, so that an image depends on the others.
    """

    beside: ClassVar[tuple[str, ...]] = ("tome",)
    pools: ClassVar[bool] = False

    def refuses(self, other: Acceleration) -> bool:
        another = isinstance(other, Cache) and other.name not in (self.name, *self.beside)
        return another or super().refuses(other)

    @abstractmethod
    def put(self, network: nn.Module, run: Run) -> None:
        """Let the other library change the network.

        network: a view.
        run: what it is doing.
        """

    def prepare(self, hooks: Hooks, call: Call) -> None:
        """Tell the hooks what they have to know of a call before it.

        hooks: those on the network.
        call: of the network.
        """

    def attach(self, network: nn.Module, run: Run) -> None:
        if self.off and all(getattr(self, field) == value for field, value in self.off.items()):
            return
        hooks = Hooks()
        Generations(run, hooks).watch(network, lambda call: self.prepare(hooks, call))  # around what comes
        adopt(network, lambda view: self.put(view, run), lambda changed: run.act(self.name, changed))
        hooks.find(network)
        if not hooks.all:
            raise self.refuse(network, "has no part that these settings would change", "choose others, or leave it out")

    def refuse(self, network: nn.Module, what: str, right: str) -> UnsupportedModel:
        """The error for a network that lacks something.

        network: what cannot be used.
        what: is the matter with it.
        right: what would be right.
        """
        return UnsupportedModel(f"{self.name}: {type(network).__name__} {what}; {right}")


def stack(network: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a network in the order they run, as far as diffusers can tell."""
    from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS as NAMES

    lists = ((name, child) for name, child in network.named_children() if isinstance(child, nn.ModuleList))
    return [block for name, child in lists if name in NAMES for block in child]


class OnStack(Borrowed):
    """Replaces the whole stack of blocks of a transformer by what it added earlier."""

    def prepare(self, hooks: Hooks, call: Call) -> None:
        needs_no_residuals(self.name, call)

    def check(self, network: nn.Module) -> None:
        from diffusers.hooks._helpers import TransformerBlockRegistry

        right = "give a diffusers transformer with a stack of blocks, such as FluxTransformer2DModel"
        blocks = stack(network)
        if len(blocks) < 2:
            raise self.refuse(network, f"has {len(blocks)} transformer blocks in a row and needs two", right)
        for block in blocks:
            try:
                TransformerBlockRegistry.get(type(block))
            except ValueError:
                raise self.refuse(network, f"has {type(block).__name__}, unknown to diffusers' caches", right) from None


@CACHES.add
@dataclass(frozen=True)
class DiffusersFirstBlock(OnStack):
    """diffusers' FirstBlockCache: skip all blocks but the first while what that one adds hardly changes.

    It decides for all images of a request at once.

    threshold: of the mean change relative to the last computed step, at least 0, which is off.

    Source: `apply_first_block_cache` of diffusers, after ParaAttention and Liu et al. 2024 (TeaCache).
    """

    threshold: float = 0.05

    name = "diffusers-first-block"
    search_space: ClassVar[Mapping[str, Any]] = {"threshold": Span(0.02, 0.5, log=True)}
    paper = TEACACHE
    off: ClassVar[Mapping[str, Any]] = {"threshold": 0.0}
    pools = True

    def __post_init__(self) -> None:
        at_least("threshold", self.threshold, 0)

    def check(self, network: nn.Module) -> None:
        super().check(network)
        if getattr(stack(network)[-1], "context_pre_only", False):
            raise self.refuse(
                network, "hands no text on from its last block, which this cache subtracts", 'use "diffusers-magcache"'
            )

    def put(self, network: nn.Module, run: Run) -> None:
        from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache

        apply_first_block_cache(network, FirstBlockCacheConfig(self.threshold))


@CACHES.add
@dataclass(frozen=True)
class DiffusersMagCache(OnStack):
    """diffusers' MagCache: skip all blocks while the calibrated change of their sum stays small.

    threshold: of the accumulated error, at least 0.
    most: how many steps may be skipped in a row, at least 0, which is off.
    retain: share of the first steps that are computed, 0 to 1.
    ratios: how the magnitude of the sum changes from step to step, calibrated for a model by `fit`; read at the nearest
        place for another number of steps.

    Source: Ma et al. 2025 (MagCache); `apply_mag_cache` of diffusers.
    """

    threshold: float = 0.06
    most: int = 3
    retain: float = 0.2
    ratios: tuple[float, ...] = ()

    name = "diffusers-magcache"
    paper = Paper("MagCache: Fast Video Generation with Magnitude-Aware Cache", 2025, "2506.09045")
    off: ClassVar[Mapping[str, Any]] = {"most": 0}

    def __post_init__(self) -> None:
        at_least("threshold", self.threshold, 0)
        at_least("most", self.most, 0)
        if not 0 <= self.retain <= 1:
            raise HastenError(f"retain: {self.retain!r} is not possible; give a share from 0 to 1")
        for ratio in self.ratios:
            at_least("ratios", ratio, 0)

    def check(self, network: nn.Module) -> None:
        super().check(network)
        if self.most and not self.ratios:
            raise HastenError("ratios: none are given; calibrate them for this model with fit(pipe, ...)")

    def put(self, network: nn.Module, run: Run) -> None:
        from diffusers.hooks import apply_mag_cache

        apply_mag_cache(network, self._config(len(self.ratios)))

    def _config(self, steps: int) -> Any:
        from diffusers.hooks import MagCacheConfig

        return MagCacheConfig(self.threshold, self.most, self.retain, steps, list(self.ratios))

    def prepare(self, hooks: Hooks, call: Call) -> None:
        super().prepare(hooks, call)
        for hook in hooks.all:  # requests that take turns differ in their number of steps
            if call.part.steps and hook.config.num_inference_steps != call.part.steps:
                hook.config = self._config(call.part.steps)

    @property
    def needs_fit(self) -> bool:
        return not self.ratios


def at_least(field: str, value: Any, low: float) -> None:
    """Raise a HastenError unless a value is a finite number that is large enough.

    field: the name in the message.
    value: what was given.
    low: the smallest number that is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < float("inf"):
        raise HastenError(f"{field}: {value!r} is not possible; give a number of at least {low}")
