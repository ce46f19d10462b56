"""How each class of network is called: what its pipeline encodes prompts to, and what the network is shown."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from hasten.core.errors import HastenError, UnsupportedModel, unknown
from hasten.runtime.conditions import Conditions

ENCODING = ("max_sequence_length", "clean_caption", "complex_human_instruction", "clip_skip")
"""Settings of `encode_prompt` that a pipeline's own call hands on, by default as there."""


@dataclass(frozen=True)
class Adapter:
    """How a network is called with prompts. Subclasses are kinds of networks; one line each in `ADAPTERS`.

    bound: where in the answer of the pipeline's `encode_prompt` prompts are, by the name of the network's argument.
    free: the same of negative prompts; as `bound` if it knows none.
    guided: whether the pipeline guides by a negative branch unless told otherwise.
    part: what pipelines call the network.
    scale: pixels a latent is wide.
    max_shift: of a flow's times at the largest picture, where the scheduler does not say.
    """

    bound: Mapping[str, int] = field(default_factory=dict)
    free: Mapping[str, int] = field(default_factory=dict)
    guided: bool = True
    part: str = "transformer"
    scale: int = 8
    max_shift: float = 1.15

    def check(self, network: nn.Module) -> None:
        """Raise UnsupportedModel, naming the field, if the network needs more than text."""
        config: Any = network.config
        channels, answered = config.get("in_channels"), config.get("out_channels") or config.get("in_channels")
        if answered not in (channels, 2 * channels):
            raise UnsupportedModel(
                f"model: {type(network).__name__} is shown {channels} channels and answers {answered}; "
                "text-to-image networks are shown what they answer"
            )

    def embeds(self, network: nn.Module) -> bool:
        """Whether the network is shown the scale of guidance, in place of a branch."""
        return False

    def tokens(self, network: nn.Module, height: int, width: int) -> int:
        """How many tokens latents of this size are: what flow models shift times by."""
        side = getattr(network, "config", {}).get("patch_size") or 1
        return (height // side) * (width // side)

    def encode(
        self, pipe: Any, prompts: Sequence[str], negative: bool = False, silent: bool = False, **options: Any
    ) -> Conditions:
        """Prompts through the pipeline's own encoders, one row each, as its own call has them encoded.

        negative: as negative prompts, which some pipelines treat differently.
        silent: as if the caller of the pipeline had given no negative prompt.
        options: of `ENCODING`, where the pipeline takes them.
        """
        takes = inspect.signature(pipe.encode_prompt).parameters
        for name in options:
            if name not in ENCODING or name not in takes:
                raise unknown(f"{type(pipe).__name__}.encode_prompt", name, [n for n in ENCODING if n in takes])
        own = inspect.signature(type(pipe).__call__).parameters
        given = {name: own[name].default for name in ENCODING if name in own} | options
        network = getattr(pipe, self.part)
        given |= {
            "prompt": list(prompts), "prompt_2": None, "prompt_3": None, "device": network.device,
            "num_images_per_prompt": 1, "do_classifier_free_guidance": negative,
        }  # fmt: skip
        if negative and not silent:
            given["negative_prompt"] = list(prompts)
        answer = pipe.encode_prompt(**{name: value for name, value in given.items() if name in takes})
        parts = answer if isinstance(answer, tuple) else (answer,)
        return Conditions({name: parts[i] for name, i in (self.free if negative else self.bound).items()})

    def call(
        self, network: nn.Module, x: Tensor, number: Tensor, conditions: Conditions, guidance: Tensor | None = None
    ) -> Tensor:
        """The network's answer, shaped like x.

        x: (rows, channels, height, width), in the dtype of the network.
        number: the process's network time, (rows,).
        conditions: one row a row.
        guidance: the scale that the network is shown if it `embeds` it, (rows,).
        """
        arguments = self.arguments(network, x, conditions, guidance)
        return network(x, timestep=number, **arguments, return_dict=False)[0][:, : x.shape[1]]

    def arguments(
        self, network: nn.Module, x: Tensor, conditions: Conditions, guidance: Tensor | None
    ) -> dict[str, Any]:
        """What the network takes besides the state and the time."""
        return dict(conditions.tensors)

    def pixels(self, x: Tensor) -> tuple[int, int]:
        """Height and width of the picture."""
        return x.shape[-2] * self.scale, x.shape[-1] * self.scale


@dataclass(frozen=True)
class Convolutional(Adapter):
    """`UNet2DConditionModel` of Stable Diffusion; with `time_cond_proj_dim` (LCM) it is shown the scale."""

    part: str = "unet"

    def check(self, network: nn.Module) -> None:
        super().check(network)
        config: Any = network.config
        for name, allowed in {"class_embed_type": (None,), "num_class_embeds": (None,),
                              "encoder_hid_dim_type": (None, "text_proj")}.items():  # fmt: skip
            if config.get(name) not in allowed:
                raise UnsupportedModel(f"model: {name}={config.get(name)!r}: this network is shown more than text")

    def embeds(self, network: nn.Module) -> bool:
        config: Any = network.config
        return config.get("time_cond_proj_dim") is not None

    def arguments(
        self, network: nn.Module, x: Tensor, conditions: Conditions, guidance: Tensor | None
    ) -> dict[str, Any]:
        if guidance is None:
            return dict(conditions.tensors)
        config: Any = network.config
        return {**conditions.tensors, "timestep_cond": waves(guidance - 1, config["time_cond_proj_dim"]).to(x.dtype)}


@dataclass(frozen=True)
class ConvolutionalXL(Convolutional):
    """The same of SDXL: with a pooled prompt, and sizes: conditions may hold `time_ids` (rows, 6) of their own."""

    def arguments(
        self, network: nn.Module, x: Tensor, conditions: Conditions, guidance: Tensor | None
    ) -> dict[str, Any]:
        taken = super().arguments(network, x, conditions, guidance)
        height, width = self.pixels(x)
        sizes = x.new_tensor([height, width, 0, 0, height, width]).expand(len(x), 6)  # original, crop, target
        added = {"text_embeds": taken.pop("text_embeds"), "time_ids": taken.pop("time_ids", sizes)}
        return taken | {"added_cond_kwargs": added}


@dataclass(frozen=True)
class ClassLabels(Adapter):
    """`UNet2DModel` with classes in place of text: the zoo's digits."""

    part: str = "unet"

    def check(self, network: nn.Module) -> None:
        super().check(network)
        config: Any = network.config
        if config.get("num_class_embeds") is None:
            raise UnsupportedModel("model: num_class_embeds=None: this network takes no conditions")


@dataclass(frozen=True)
class PixArt(Adapter):
    """`PixArtTransformer2DModel`; the Alpha of 1,024 pixels is shown the picture's size as well."""

    def arguments(
        self, network: nn.Module, x: Tensor, conditions: Conditions, guidance: Tensor | None
    ) -> dict[str, Any]:
        size: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if getattr(network, "use_additional_conditions", False):
            height, width = self.pixels(x)
            size = {"resolution": x.new_tensor([height, width]).expand(len(x), 2),
                    "aspect_ratio": x.new_tensor([height / width]).expand(len(x), 1)}  # fmt: skip
        return {**conditions.tensors, "added_cond_kwargs": size}


@dataclass(frozen=True)
class Sana(Adapter):
    """`SanaTransformer2DModel`, which is shown times by a scale of its own."""

    def check(self, network: nn.Module) -> None:
        super().check(network)
        config: Any = network.config
        if config.get("guidance_embeds"):
            raise UnsupportedModel("model: guidance_embeds=True: Sana-Sprint's process (TrigFlow) is not supported")

    def call(
        self, network: nn.Module, x: Tensor, number: Tensor, conditions: Conditions, guidance: Tensor | None = None
    ) -> Tensor:
        config: Any = network.config
        return super().call(network, x, number * config.get("timestep_scale", 1.0), conditions, guidance)


@dataclass(frozen=True)
class Flux(Adapter):
    """`FluxTransformer2DModel`: latents are tokens of 2x2, and times are divided by 1,000 in their dtype."""

    def embeds(self, network: nn.Module) -> bool:
        config: Any = network.config
        return bool(config.get("guidance_embeds"))

    def tokens(self, network: nn.Module, height: int, width: int) -> int:
        return (height // 2) * (width // 2)

    def call(
        self, network: nn.Module, x: Tensor, number: Tensor, conditions: Conditions, guidance: Tensor | None = None
    ) -> Tensor:
        height, width = x.shape[-2:]
        if height % 2 or width % 2:
            raise HastenError(f"x: {height}x{width} is not possible; this network sees patches of 2x2, give even sizes")
        rows, columns = height // 2, width // 2
        where = x.new_zeros(rows, columns, 3)
        where[..., 1] = torch.arange(rows, device=x.device, dtype=x.dtype)[:, None]
        where[..., 2] = torch.arange(columns, device=x.device, dtype=x.dtype)
        answer = network(
            hidden_states=packed(x), timestep=number.to(x.dtype) / 1000, guidance=guidance, **conditions.tensors,
            img_ids=where.flatten(0, 1), txt_ids=x.new_zeros(conditions["encoder_hidden_states"].shape[1], 3),
            return_dict=False,
        )[0]  # fmt: skip
        return unpacked(answer, height, width)


_TEXT = "encoder_hidden_states"
_MASKED: dict[str, Any] = {
    "bound": {_TEXT: 0, "encoder_attention_mask": 1}, "free": {_TEXT: 2, "encoder_attention_mask": 3},
}  # fmt: skip

ADAPTERS: dict[tuple[str, str | None], Adapter] = {
    ("UNet2DConditionModel", None): Convolutional({_TEXT: 0}, {_TEXT: 1}),
    ("UNet2DConditionModel", "text_time"): ConvolutionalXL({_TEXT: 0, "text_embeds": 2}, {_TEXT: 1, "text_embeds": 3}),
    ("UNet2DModel", None): ClassLabels({"class_labels": 0}, {"class_labels": 0}),
    ("SD3Transformer2DModel", None): Adapter(
        {_TEXT: 0, "pooled_projections": 2}, {_TEXT: 1, "pooled_projections": 3}, max_shift=1.16
    ),
    ("FluxTransformer2DModel", None): Flux(
        {_TEXT: 0, "pooled_projections": 1}, {_TEXT: 0, "pooled_projections": 1}, guided=False
    ),
    ("PixArtTransformer2DModel", None): PixArt(**_MASKED),
    ("SanaTransformer2DModel", None): Sana(**_MASKED),
}  # fmt: skip
"""By the class of the network (or one of its bases), and its `addition_embed_type`."""


def adapter_of(network: nn.Module, scale: int = 8) -> Adapter:
    """The adapter of a network.

    scale: pixels a latent is wide, for networks that are shown the picture's size.
    Raises UnsupportedModel, naming the class and what is supported.
    """
    added = getattr(network, "config", {}).get("addition_embed_type")
    for kind in type(network).__mro__:
        if (kind.__name__, added) in ADAPTERS:
            adapter = replace(ADAPTERS[kind.__name__, added], scale=scale)
            adapter.check(network)
            return adapter
    kinds = ", ".join(dict.fromkeys(kind for kind, _ in ADAPTERS))
    shown = type(network).__name__ + (f" with addition_embed_type={added!r}" if added else "")
    raise UnsupportedModel(f"model: {shown} is not supported here; supported networks are {kinds}")


class Adapted(nn.Module):
    """A network as objectives call it: `(x, number, **conditions) -> answer`, shaped like x.

    network: kept under the name pipelines have for it.
    scale: see `adapter_of`.
    """

    def __init__(self, network: nn.Module, scale: int = 8) -> None:
        super().__init__()
        self.adapter = adapter_of(network, scale)
        self.add_module(self.adapter.part, network)

    def forward(self, x: Tensor, number: Tensor, guidance: Tensor | None = None, **conditions: Tensor) -> Tensor:
        return self.adapter.call(getattr(self, self.adapter.part), x, number, Conditions(conditions), guidance)


def packed(x: Tensor) -> Tensor:
    """(rows, channels, height, width) as tokens of 2x2: (rows, height / 2 * width / 2, 4 * channels)."""
    rows, channels, height, width = x.shape
    patches = x.reshape(rows, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(rows, height * width // 4, 4 * channels)


def unpacked(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `packed`."""
    patches = tokens.reshape(len(tokens), height // 2, width // 2, -1, 2, 2)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, height, width)


def waves(scale: Tensor, size: int) -> Tensor:
    """Sines and cosines of 1000 * scale (rows,) at `size` / 2 frequencies from 1 to 1e-4: (rows, size).

    Source: Luo et al. 2023 (Latent Consistency Models, arXiv 2310.04378), as diffusers' pipelines embed guidance.
    """
    half = size // 2
    frequencies = torch.exp(torch.arange(half, device=scale.device) * (-math.log(10000.0) / (half - 1)))
    angles = 1000 * scale.float()[:, None] * frequencies
    return nn.functional.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, size % 2))
