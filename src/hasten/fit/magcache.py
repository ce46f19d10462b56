"""MagCache, ours and diffusers': how the size of what the blocks add changes from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from hasten.caches.borrowed import DiffusersMagCache, OnStack
from hasten.caches.hooked import Call, Hooks
from hasten.caches.stacks import MagCache
from hasten.caching.indicators import Added, Indicator, Watcher
from hasten.core.errors import HastenError
from hasten.core.fitters import fitters
from hasten.fit.observing import asked_for, watched
from hasten.runtime.anatomy import blocks_of
from hasten.runtime.run import Run
from hasten.runtime.samples import Samples

NO_SIZE = 1e-8  # added to sizes that are divided by
ENDLESS = 1 << 30  # steps of a calibration that is never full, since diffusers then prints and forgets what it saw


@fitters.of(MagCache)
def fit(
    cache: MagCache, pipe: Any, samples: Samples | Sequence[str] | None = None, *, steps: int | None = None, **call: Any
) -> MagCache:
    """`MagCache().fit(pipe, samples)`: with the ratios of this model, the mean over images, branches and tokens.

    pipe: a diffusers pipeline with a transformer; left as it was.
    samples: which images are drawn for it, or prompts alone, one image each.
    steps: of each run; None for the pipeline's default.
    call: further arguments of the pipeline.

    Raises HastenError for runs of one step, UnsupportedModel for other networks.
    Source: Ma et al. 2025, section 3.3.
    """
    (changes,) = watched(cache, pipe, [(_Stack(), _ratio)], call | asked_for(samples, steps))
    if not changes:
        raise HastenError("steps: nothing changes in a run of one step; give at least 2")
    last = max(at.step for at in changes)
    means = [np.mean([change for at, change in changes.items() if at.step == step]) for step in range(1, last + 1)]
    return replace(cache, ratios=(1.0, *(float(mean) for mean in means)))


@fitters.of(DiffusersMagCache)
def fit_diffusers(
    cache: DiffusersMagCache, pipe: Any, samples: Samples | Sequence[str] | None = None, *, steps: int | None = None,
    **call: Any,
) -> DiffusersMagCache:  # fmt: skip
    """`DiffusersMagCache().fit(pipe, samples)`: with the ratios that diffusers' own calibration sees in one run.

    With guidance in two calls the ratios are those of the first.

    pipe: a diffusers pipeline with a transformer; left as it was.
    samples: which images are drawn for it, or prompts alone, one image each.
    steps: of the run; None for the pipeline's default.
    call: further arguments of the pipeline.

    Raises UnsupportedModel for other networks.
    """
    calibration = _Calibration()
    with calibration.applied(pipe):
        pipe(**call | asked_for(samples, steps))
    return replace(cache, ratios=tuple(calibration.seen))


class _Stack(Indicator):
    """What all blocks together add to the image tokens; too late for a gate."""

    name = "stack"

    def check(self, network: nn.Module) -> None:
        blocks_of(network)

    def attach(self, network: nn.Module, watcher: Watcher) -> None:
        Added(len(blocks_of(network))).attach(network, watcher)


def _ratio(now: Tensor, before: Tensor) -> Tensor:
    """The mean over tokens of |now| / |before|."""
    sizes = [x.float().norm(dim=-1) for x in (now, before)]
    return (sizes[0] / (sizes[1] + NO_SIZE)).flatten(1).mean(1)


class _Calibration(OnStack):
    """Computes everything, and keeps the ratios that it sees."""

    name = "diffusers-magcache calibration"
    conflicts = ()

    def __init__(self) -> None:
        self.seen: list[float] = []

    def put(self, network: nn.Module, run: Run) -> None:
        from diffusers.hooks import MagCacheConfig, apply_mag_cache

        apply_mag_cache(network, MagCacheConfig(num_inference_steps=ENDLESS, calibrate=True))

    def prepare(self, hooks: Hooks, call: Call) -> None:
        if call.first and not self.seen:
            self.seen = hooks.named("MagCacheHeadHook")[0].state_manager.get_state().calibration_ratios
