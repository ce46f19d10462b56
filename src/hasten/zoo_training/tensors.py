"""Captions and pictures as the tensors that the emoji models are trained on, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 64  # pictures that pass the autoencoder at a time


def tokens(words: Any, captions: list[str]) -> Tensor:
    """Captions as padded token ids (N, L), exactly as `StableDiffusionPipeline` makes them.

    words: the tokenizer, which knows the length L.
    captions: N texts.
    """
    length = words.model_max_length
    return words(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


@torch.no_grad()
def encode(vae: Any, pictures: Tensor) -> Tensor:
    """Scaled latents of images, (N, 4, 16, 16).

    vae: the autoencoder.
    pictures: in [-1, 1], (N, 3, 64, 64).
    """
    return torch.cat([vae.encode(part).latents for part in pictures.split(CHUNK)]) * vae.config.scaling_factor


@torch.no_grad()
def reconstruct(vae: Any, pictures: Tensor) -> Tensor:
    """Images through the autoencoder and back, not clamped.

    vae: the autoencoder.
    pictures: in [-1, 1], (N, 3, 64, 64).
    """
    return torch.cat([vae.decode(vae.encode(part).latents).sample for part in pictures.split(CHUNK)])


def to_pil(pictures: Tensor) -> list[Any]:
    """Images as PIL images.

    pictures: in [-1, 1], (N, 3, H, W); values outside are clamped.
    """
    from PIL import Image

    pixels = ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(one) for one in pixels]
