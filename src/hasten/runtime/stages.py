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

OTHER_ROWS = frozenset({"HiDreamImageTransformer2DModel", "OmniGenTransformer2DModel"})
"""Networks with arguments that have the rows of the batch elsewhere than in front."""

LATENTS = {"MarigoldDepthPipeline": 1, "MarigoldNormalsPipeline": 1, "MarigoldIntrinsicsPipeline": 1}
"""Which of the things that `prepare_latents` returns are the states, where it is not the first."""


WHOLE_STEPS = frozenset({"CycleDiffusionPipeline", "KandinskyImg2ImgPipeline", "StableDiffusionSAGPipeline"})
"""Pipelines that look up numbers of steps in a table, so that their steps are whole ones."""

SEVERAL = "solver of several queries a step"
"""What a pipeline may refuse beside the phases of accelerations, "solver" and "seed"."""

_LOOKS = "looks at the attention inside of its network at every step, where caches and guidance leave parts out"
_DTYPE = "takes the dtype of its states from the weights of its network"
_MANY = "asks its network for many steps at once, of which each is at a time of its own"
_VIEWS = "asks its network for several views of one state in each step, which would share what is remembered"
_KIND = "asks of which class its scheduler is, and would run another loop"
_MIXED = "makes images that depend on the others of a call, so that only one a call can have it"
_ONCE = "keeps something for every step, which it looks up at every query; choose one of a query a step"
_GROWS = "steps one frame first and then all of them, with what its scheduler remembers of the first"
_LAST = "divides by the last time of its scheduler, which is 0 for a solver of hasten"
REFUSED: dict[str, dict[str, str]] = {
    "StableDiffusionPanoramaPipeline": {"guidance": _VIEWS, "cache": _VIEWS, "seed": _MIXED},
    "StableCascadePriorPipeline": {"solver": _LAST},
    "StableCascadeDecoderPipeline": {"solver": _LAST},
    "BriaPipeline": {"solver": _KIND},
    "EasyAnimatePipeline": {"solver": _KIND},
    "EasyAnimateInpaintPipeline": {"solver": _KIND},
    "EasyAnimateControlPipeline": {"solver": _KIND},
    "HiDreamImagePipeline": {"solver": _KIND},
    "StableDiffusionSAGPipeline": {"guidance": _LOOKS, "cache": _LOOKS},
    "TextToVideoZeroPipeline": {"solver": _GROWS},
    "TextToVideoZeroSDXLPipeline": {"solver": _GROWS},
    "StableDiffusionDiffEditPipeline": {SEVERAL: _ONCE},
    "SemanticStableDiffusionPipeline": {SEVERAL: _ONCE},
    "KandinskyV22InpaintPipeline": {"seed": _MIXED},
    "LongCatAudioDiTPipeline": {"seed": _MIXED},
    "StableDiffusionPix2PixZeroPipeline": {"guidance": _LOOKS, "cache": _LOOKS, "seed": _MIXED, SEVERAL: _ONCE},
    "StableDiffusionAttendAndExcitePipeline": {"guidance": _LOOKS, "cache": _LOOKS},
    "LEditsPPPipelineStableDiffusion": {"guidance": _LOOKS, "cache": _LOOKS},
    "LEditsPPPipelineStableDiffusionXL": {"guidance": _LOOKS, "cache": _LOOKS},
    "LDMSuperResolutionPipeline": {"quantize": _DTYPE},
    "StableDiffusionParadigmsPipeline": {"guidance": _MANY, "cache": _MANY, "solver": _MANY},
}
"""What cannot be applied to a pipeline class, by phase ("solver", "seed" and `SEVERAL` count), and why."""


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
        kind = next((k for k in type(self.pipe).__mro__ if "__call__" in vars(k)), object)
        return kind.__name__ not in CONDITIONAL_FIRST if kind.__module__.startswith(("diffusers.", "hasten.")) else None

    @property
    def needs_all_rows(self) -> bool:
        """Whether every row must be there in each call: for something put into the network, or rows that lie deeper."""
        looks = any(kind.__name__ == "PAGMixin" for kind in type(self.pipe).__mro__)
        return looks or any(type(network).__name__ in OTHER_ROWS for network in self.networks.values())

    @property
    def whole_steps(self) -> bool:
        """Whether the network's times have to be whole steps of the training."""
        return any(kind.__name__ in WHOLE_STEPS for kind in type(self.pipe).__mro__)

    def check(self, phase: str) -> None:
        """Raise UnsupportedModel if nothing of this phase (or "solver", "seed") can be applied to the pipeline."""
        for kind in type(self.pipe).__mro__:
            reason = REFUSED.get(kind.__name__, {}).get(phase)
            if reason:
                raise UnsupportedModel(f"{phase}: {kind.__name__} {reason}; leave it out")


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
