"""Autoencoders, by class: two levels each, so that a side of latents is half of a side of the picture."""

from __future__ import annotations

from typing import Any

CODECS: dict[str, Any] = {
    "AutoencoderKL": {
        "block_out_channels": (4, 4), "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    },
}  # fmt: skip
