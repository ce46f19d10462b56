"""The stages of a pipeline: each loop of network and scheduler that it runs, or that pipelines inside it run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from hasten.core.errors import UnsupportedModel
from hasten.runtime.anatomy import networks_of

CONDITIONAL_FIRST = frozenset({
    "LuminaPipeline", "LuminaText2ImgPipeline", "StableCascadePriorPipeline", "StableCascadeDecoderPipeline",
    "WuerstchenPriorPipeline", "WuerstchenDecoderPipeline",
})  # fmt: skip
"""Pipelines of diffusers that put the conditional branch of guidance first in a batch; all others put it last."""

LATENTS = {"MarigoldDepthPipeline": 1, "MarigoldNormalsPipeline": 1, "MarigoldIntrinsicsPipeline": 1}
"""Which of the things that `prepare_latents` returns are the states, where it is not the first."""


@dataclass
class Stage:
    """A pipeline that runs a loop of its own.

    pipe: the pipeline.
    name: under which an outer pipeline holds it; empty for the outer pipeline itself.
    networks: its denoising networks, by the attribute that holds them.
    """

    pipe: Any
    name: str
    networks: dict[str, nn.Module]

    @property
    def conditional_last(self) -> bool | None:
        """Whether the conditional branch comes last in a batch of two branches; None if that is not known."""
        kind = next((k for k in type(self.pipe).__mro__ if k.__module__.startswith("diffusers.")), None)
        return None if kind is None else kind.__name__ not in CONDITIONAL_FIRST

    @property
    def needs_all_rows(self) -> bool:
        """Whether the pipeline has put something into the network that counts on all branches being there."""
        return any(kind.__name__ == "PAGMixin" for kind in type(self.pipe).__mro__)


def stages_of(pipe: Any) -> list[Stage]:
    """The stages of a pipeline.

    A pipeline made of pipelines has those of the ones inside, and its own only if none of them has its network.

    pipe: a diffusers pipeline, or anything that holds networks and a scheduler as they do.
    Raises UnsupportedModel if there is none.
    """
    inside = [
        Stage(inner.pipe, f"{name}.{inner.name}".rstrip("."), inner.networks)
        for name, held in _pipelines(pipe)
        for inner in _stages(held)
    ]
    held = [network for stage in inside for network in stage.networks.values()]
    own = [stage for stage in _own(pipe) if not all(any(n is h for h in held) for n in stage.networks.values())]
    stages = [*own, *inside]
    if not stages:
        networks_of(pipe)  # says what is missing
        raise UnsupportedModel(f"model: {type(pipe).__name__} has no scheduler; give a diffusers pipeline with one")
    return stages


def _stages(pipe: Any) -> list[Stage]:
    try:
        return stages_of(pipe)
    except UnsupportedModel:
        return []


def _own(pipe: Any) -> list[Stage]:
    try:
        networks = networks_of(pipe)
    except UnsupportedModel:
        return []
    return [Stage(pipe, "", networks)] if getattr(pipe, "scheduler", None) is not None else []


def _pipelines(pipe: Any) -> Iterator[tuple[str, Any]]:
    """The pipelines that a pipeline holds: what has a scheduler and is called, and is no module."""
    for name, held in vars(pipe).items() if hasattr(pipe, "__dict__") else ():
        if not isinstance(held, nn.Module) and hasattr(held, "scheduler") and callable(held):
            yield name, held
