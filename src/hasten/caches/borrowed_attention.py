"""The caches that diffusers ships for attention modules, as rows of a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hasten.caches.borrowed import Borrowed, at_least
from hasten.caches.hooked import Call, Hooks
from hasten.caching.cache import CACHES
from hasten.core.errors import HastenError, one_of, positive_int
from hasten.core.registry import Paper, Span
from hasten.runtime.run import Run


def timestep(run: Run) -> float:
    """The number that the network is shown for the time of the query that `run` is at."""
    return float(run.process.network_time(run.time))


def attentions(network: nn.Module, *patterns: str) -> Iterator[Any]:
    """The attention modules of a network whose names match.

    network: a view.
    patterns: regular expressions, one of which is found in the name.
    """
    from diffusers.hooks._common import _ATTENTION_CLASSES

    for name, module in network.named_modules():
        if isinstance(module, _ATTENTION_CLASSES) and any(re.search(pattern, name) for pattern in patterns):
            yield module


@CACHES.add
@dataclass(frozen=True)
class DiffusersPAB(Borrowed):
    """diffusers' PyramidAttentionBroadcast: each attention is computed on every N-th call and held in between.

    spatial: N of spatial self-attention, at least 1, which is off.
    temporal: N of temporal self-attention, at least 1, which is off.
    cross: N of cross-attention, at least 1, which is off.
    low: the network's time, usually of 1,000, above which attention is held.
    high: the network's time below which attention is held.

    Source: Zhao et al. 2024 (PAB); `apply_pyramid_attention_broadcast` of diffusers.
    """

    spatial: int = 2
    temporal: int = 1
    cross: int = 1
    low: float = 100.0
    high: float = 800.0

    name = "diffusers-pab"
    search_space: ClassVar[Mapping[str, Any]] = {"spatial": Span(1, 3), "cross": Span(1, 4)}
    paper = Paper("Real-Time Video Generation with Pyramid Attention Broadcast", 2024, "2408.12588")
    off: ClassVar[Mapping[str, Any]] = {"spatial": 1, "temporal": 1, "cross": 1}
    beside = ("deepcache", "tome")

    def __post_init__(self) -> None:
        for field in ("spatial", "temporal", "cross"):
            positive_int(field, getattr(self, field))

    def check(self, network: nn.Module) -> None:
        attended = list(attentions(network, "blocks", "layers"))
        if not attended:
            raise self.refuse(network, "has no attention in its blocks", "give a transformer or a U-Net with attention")
        if self.spatial == self.temporal == 1 < self.cross and not any(_crosses(a) for a in attended):
            raise self.refuse(network, "has no cross-attention", "set `spatial` as well")

    def put(self, network: nn.Module, run: Run) -> None:
        from diffusers.hooks import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast

        settings: dict[str, Any] = {"current_timestep_callback": lambda: timestep(run.parts[0])}
        for kind in ("spatial", "temporal", "cross"):
            every = getattr(self, kind)
            settings[f"{kind}_attention_block_skip_range"] = None if every == 1 else every
            settings[f"{kind}_attention_timestep_skip_range"] = (self.low, self.high)
        apply_pyramid_attention_broadcast(network, PyramidAttentionBroadcastConfig(**settings))


@CACHES.add
@dataclass(frozen=True)
class DiffusersFasterCache(Borrowed):
    """diffusers' FasterCache: attention is extrapolated, and so is the unconditional branch from the conditional.

    Attention is computed wherever both branches run; `attention` and `unconditional` both 1 are off. Times are those
    the network is shown, usually of 1,000. Where guidance is not two branches in one batch of pictures, attention
    alone is skipped.

    attention: N, attention is computed on every N-th call; at least 1.
    attention_below: the time below which attention is skipped.
    weight: of the extrapolation, at least 0.
    unconditional: N, both branches of guidance run on every N-th call; at least 1.
    unconditional_below: the time below which the unconditional branch is skipped.
    low: factor on low frequencies of the difference of the branches, anew on each call, at least 0.
    high: factor on its high frequencies, at least 0.
    low_between: the two times between which `low` is used.
    high_between: the two times between which `high` is used.

    Source: Lv et al. 2024 (FasterCache), eq. (9)-(11); `apply_faster_cache` of diffusers.
    """

    attention: int = 2
    attention_below: float = 681.0
    weight: float = 0.5
    unconditional: int = 5
    unconditional_below: float = 641.0
    low: float = 1.1
    high: float = 1.1
    low_between: tuple[float, float] = (99.0, 901.0)
    high_between: tuple[float, float] = (-1.0, 301.0)

    name = "diffusers-fastercache"
    paper = Paper("FasterCache: Training-Free Video Diffusion Model Acceleration with High Quality", 2024, "2410.19355")
    off: ClassVar[Mapping[str, Any]] = {"attention": 1, "unconditional": 1}
    conflicts = ("reuse", "reuse-frequencies")

    def __post_init__(self) -> None:
        for field in ("attention", "unconditional"):
            positive_int(field, getattr(self, field))
        for field in ("weight", "low", "high"):
            at_least(field, getattr(self, field), 0)
        for field in ("low_between", "high_between"):
            if len(getattr(self, field)) != 2:
                raise HastenError(f"{field}: {getattr(self, field)!r} is not possible; give two numbers")

    def check(self, network: nn.Module) -> None:
        from diffusers.hooks.faster_cache import _TRANSFORMER_BLOCK_IDENTIFIERS as NAMES

        if not any(attentions(network, *NAMES)):
            raise self.refuse(
                network, "has no attention in `blocks` or `transformer_blocks`", "give a transformer of diffusers"
            )

    def put(self, network: nn.Module, run: Run) -> None:
        from diffusers.hooks import FasterCacheConfig, apply_faster_cache

        settings: dict[str, Any] = {
            "spatial_attention_block_skip_range": self.attention,
            "spatial_attention_timestep_skip_range": (-1, self.attention_below),
            "unconditional_batch_skip_range": self.unconditional,
            "unconditional_batch_timestep_skip_range": (-1, self.unconditional_below),
            "low_frequency_weight_update_timestep_range": self.low_between,
            "high_frequency_weight_update_timestep_range": self.high_between,
            "alpha_low_frequency": self.low,
            "alpha_high_frequency": self.high,
            "attention_weight_callback": lambda _: self.weight,
            "current_timestep_callback": lambda: timestep(run.parts[0]),
            "tensor_format": "BCHW",
        }
        apply_faster_cache(network, FasterCacheConfig(**settings))

    def prepare(self, hooks: Hooks, call: Call) -> None:
        rows, kwargs = len(call.x), call.kwargs
        branched = [k for k, v in kwargs.items() if isinstance(v, Tensor) and v.ndim and len(v) == rows]
        guided = call.part.branches(rows) == 2 and call.x.ndim in (4, 5) and bool(branched)
        for hook in hooks.all:
            if not hasattr(hook, "is_guidance_distilled"):
                continue
            if call.first or not guided:
                hook.is_guidance_distilled = not guided
            # it reads what it has not stored yet if its first call may already skip
            hook.current_timestep_callback = (lambda: float("inf")) if call.first else (lambda: timestep(call.part))
        for hook in hooks.named("FasterCacheDenoiserHook"):
            hook.uncond_cond_input_kwargs_identifiers = branched
            hook.tensor_format = "BCHW" if call.x.ndim == 4 else "BCFHW"


@CACHES.add
@dataclass(frozen=True)
class DiffusersTaylorSeer(Borrowed):
    """diffusers' TaylorSeer: outputs of modules are computed on every N-th step and else on their Taylor series.

    interval: N, at least 1, which is off.
    warmup: how many first steps are computed, at least 1; the one after them is not.
    tail: the step from which all are computed, or None.
    order: of the series, at least 0.
    dtype: of what is kept: "bfloat16", "float16" or "float32".
    modules: regular expressions of the full names of the modules; if empty those of diffusers, which are attentions
        called "attn".
    lite: put only the output projection on a series, and run no block in between.

    Source: Liu et al. 2025 (TaylorSeer), eq. (4)-(6); `apply_taylorseer_cache` of diffusers.
    """

    interval: int = 5
    warmup: int = 3
    tail: int | None = None
    order: int = 1
    dtype: str = "bfloat16"
    modules: tuple[str, ...] = ()
    lite: bool = False

    name = "diffusers-taylorseer"
    search_space: ClassVar[Mapping[str, Any]] = {"interval": Span(2, 4), "dtype": ("float32",)}
    paper = Paper("From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers", 2025, "2503.06923")
    off: ClassVar[Mapping[str, Any]] = {"interval": 1}

    def __post_init__(self) -> None:
        positive_int("interval", self.interval)
        positive_int("warmup", self.warmup)  # without a first full step there is no series
        at_least("order", self.order, 0)
        one_of("dtype", self.dtype, ("bfloat16", "float16", "float32"))
        for pattern in self.modules:
            try:
                re.compile(pattern)
            except re.error as error:
                raise HastenError(f"modules: {pattern!r} is not a regular expression: {error}") from None

    def check(self, network: nn.Module) -> None:
        from diffusers.hooks import taylorseer_cache as theirs

        patterns = theirs._PROJ_OUT_IDENTIFIERS if self.lite else self.modules or theirs._TRANSFORMER_BLOCK_IDENTIFIERS
        if not any(re.fullmatch(pattern, name) for name, _ in network.named_modules() for pattern in patterns):
            raise self.refuse(
                network, f"has no module called {' or '.join(patterns)}", "name some in `modules`, such as .*attn1"
            )

    def put(self, network: nn.Module, run: Run) -> None:
        from diffusers.hooks import TaylorSeerCacheConfig, apply_taylorseer_cache

        config = TaylorSeerCacheConfig(
            self.interval, self.warmup, self.tail, self.order, getattr(torch, self.dtype),
            cache_identifiers=list(self.modules) or None, use_lite_mode=self.lite,
        )  # fmt: skip
        apply_taylorseer_cache(network, config)


def _crosses(attention: Any) -> bool:
    return bool(getattr(attention, "is_cross_attention", False))
