"""A pipeline's pictures as states, and its network as a denoiser for one prompt: what editing loops work on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import UnsupportedModel
from hasten.runtime.anatomy import network_of
from hasten.runtime.denoiser import ConditionedDenoiser, conditioned


def denoiser_of(
    pipe: Any, prompt: str | Sequence[str], guidance: float = 1.0, negative: str | None = None
) -> ConditionedDenoiser:
    """The network of a pipeline, bound to prompts. Runs without gradients, in the dtype of the network.

    pipe: a diffusers pipeline.
    prompt: one for all rows of the states it will be asked about, or one a row.
    guidance: the classifier-free scale w of out = without + w (with - without); at 1 the network is asked with the
        prompt alone.
    negative: the prompt of "without"; what the pipeline takes for none if None.

    Raises UnsupportedModel for pipelines that `hasten.runtime.denoiser.conditioned` does not know.
    """
    try:
        return conditioned(pipe, prompt, guidance=guidance, negative=negative, gradients=False)
    except UnsupportedModel as error:
        reason = str(error).removeprefix("model: ")
        raise UnsupportedModel(f"model: {type(pipe).__name__} cannot be inverted; {reason}") from None


def pixels_of(pipe: Any, image: Any) -> Tensor:
    """A PIL picture, on white, as (1, channels, height, width) in [-1, 1], in the size the pipeline draws."""
    from PIL import Image

    network: Any = network_of(pipe)
    side = (network.config.get("sample_size") or pipe.default_sample_size) * getattr(pipe, "vae_scale_factor", 1)
    image = image.convert("RGBA")
    white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if not hasattr(pipe, "vae"):
        white = white.convert("L")
    levels = np.atleast_3d(np.asarray(white.resize((side, side)), np.float32))
    return torch.from_numpy(levels).permute(2, 0, 1)[None].to(network.device, network.dtype) / 127.5 - 1


def states_of(pipe: Any, image: Any) -> Tensor:
    """A PIL picture as the state (1, ...) the network works on: latents are the autoencoder's mode, shifted, scaled."""
    pixels = pixels_of(pipe, image)
    if not hasattr(pipe, "vae"):
        return pixels
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents

    with torch.no_grad():
        encoded = pipe.vae.encode(pixels.to(pipe.vae.dtype))
        latents = encoded.latent if hasattr(encoded, "latent") else retrieve_latents(encoded, sample_mode="argmax")
    shift, scale = _scaling(pipe.vae)
    return (latents - shift) * scale


def pictures_of(pipe: Any, states: Tensor) -> Tensor:
    """States as pictures (rows, channels, height, width) in [0, 1]."""
    pixels = states
    if hasattr(pipe, "vae"):
        shift, scale = _scaling(pipe.vae)
        with torch.no_grad():
            pixels = pipe.vae.decode(states.to(pipe.vae.dtype) / scale + shift).sample
    return (pixels.float() / 2 + 0.5).clamp(0, 1)


def _scaling(vae: Any) -> tuple[float, float]:
    """From the autoencoder's latents to those the network works on: what is taken away, then the factor."""
    return vae.config.get("shift_factor") or 0.0, vae.config.get("scaling_factor") or 1.0
