"""A pipeline's pictures as states, and its network as a denoiser for one prompt: what editing loops work on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError, UnsupportedModel
from hasten.denoisers import Denoiser
from hasten.processes import from_config


def denoiser_of(pipe: Any, prompt: str | Sequence[str], guidance: float = 1.0, negative: str = "") -> Denoiser:
    """The network of a pipeline, bound to prompts, one a row of the states it will be asked about.

    guidance: the classifier-free scale w of out = without + w (with - without); at 1 the network is asked with
    the prompt alone. negative: the prompt of "without". Runs without gradients, in the dtype of the network.
    Raises UnsupportedModel for pipelines other than Stable Diffusion 1 and 2 and the zoo's digits.
    """
    if guidance < 0:
        raise HastenError(f"guidance: {guidance} is not possible; give a scale of at least 0 (1 is none)")
    bound = conditions(pipe, prompt)
    free = conditions(pipe, negative) if guidance != 1 else {}
    config = pipe.scheduler.config

    @torch.no_grad()
    def network(x: Tensor, number: Tensor) -> Tensor:
        if guidance == 1:
            return pipe.unet(x, number, **bound).sample
        both = {key: torch.cat([_rows(free[key], len(x)), _rows(bound[key], len(x))]) for key in bound}
        without, with_prompt = pipe.unet(torch.cat([x, x]), torch.cat([number, number]), **both).sample.chunk(2)
        return torch.lerp(without, with_prompt, guidance)

    return Denoiser(network, from_config(config), config.get("prediction_type", "epsilon"), pipe.unet.dtype)


def conditions(pipe: Any, prompt: str | Sequence[str]) -> dict[str, Tensor]:
    """What the network is given for prompts, by the name of its argument."""
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    if type(pipe).__name__ == "DigitsPipeline":
        return {"class_labels": pipe.encode_prompt(prompts)}
    if not (hasattr(pipe, "vae") and _reads_text_only(getattr(pipe, "unet", None))):
        raise UnsupportedModel(
            f"model: {type(pipe).__name__} cannot be inverted; give a Stable Diffusion 1 or 2 pipeline, or digits"
        )
    with torch.no_grad():
        embedded, _ = pipe.encode_prompt(prompts, pipe.unet.device, 1, False)
    return {"encoder_hidden_states": embedded}


def pixels_of(pipe: Any, image: Any) -> Tensor:
    """A PIL picture, on white, as (1, channels, height, width) in [-1, 1], in the size the pipeline draws."""
    from PIL import Image

    side = pipe.unet.config.sample_size * getattr(pipe, "vae_scale_factor", 1)
    image = image.convert("RGBA")
    white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if not hasattr(pipe, "vae"):
        white = white.convert("L")
    levels = np.atleast_3d(np.asarray(white.resize((side, side)), np.float32))
    return torch.from_numpy(levels).permute(2, 0, 1)[None].to(pipe.unet.device, pipe.unet.dtype) / 127.5 - 1


def states_of(pipe: Any, image: Any) -> Tensor:
    """A PIL picture as the state (1, ...) the network works on: latents are the autoencoder's mode, scaled."""
    pixels = pixels_of(pipe, image)
    if not hasattr(pipe, "vae"):
        return pixels
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents

    with torch.no_grad():
        found = retrieve_latents(pipe.vae.encode(pixels.to(pipe.vae.dtype)), sample_mode="argmax")
    return found * pipe.vae.config.scaling_factor


def pictures_of(pipe: Any, states: Tensor) -> Tensor:
    """States as pictures (rows, channels, height, width) in [0, 1]."""
    pixels = states
    if hasattr(pipe, "vae"):
        with torch.no_grad():
            pixels = pipe.vae.decode(states.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor).sample
    return (pixels.float() / 2 + 0.5).clamp(0, 1)


def _rows(condition: Tensor, rows: int) -> Tensor:
    return condition if len(condition) == rows else condition.expand(rows, *condition.shape[1:])


def _reads_text_only(unet: Any) -> bool:
    config = getattr(unet, "config", {})
    return config.get("cross_attention_dim") is not None and config.get("addition_embed_type") is None
