"""What several pipelines need: parts, and arguments of other shapes."""

from __future__ import annotations

import torch

from every.arguments import (
    EMBEDS,
    FRAMES,
    NEGATIVE,
    SIZE,
    TOKENS,
    WIDTH,
    Value,
    frames,
    half,
    normal,
    ones,
    pictures,
    words,
)

TEXT = {"tokenizer": {}, "text_encoder": {}}
VISION = {"image_encoder": {}, "feature_extractor": {}}
WORDS = {"prompt": words(), "prompt_embeds": Value.absent, "negative_prompt_embeds": Value.absent}
BOOLS = ones(TOKENS, dtype=torch.bool)
EMBEDDED = {"prompt": None, "prompt_embeds": EMBEDS, "negative_prompt_embeds": NEGATIVE}
EULER = {"of": "EulerDiscreteScheduler"}
SDXL_UNET = {
    "addition_embed_type": "text_time", "addition_time_embed_dim": 4, "transformer_layers_per_block": 1,
    "projection_class_embeddings_input_dim": 4 * 6 + WIDTH, "use_linear_projection": True,
}  # fmt: skip

ENCODER = {"of": "T5EncoderModel"}  # for pipelines that ask their encoder for no more than its dtype

VAE_OF_8 = {
    "block_out_channels": (4,) * 4, "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip
THREE_LEVELS = {
    "block_out_channels": (4, 8, 8), "down_block_types": ("CrossAttnDownBlock2D",) * 3,
    "up_block_types": ("CrossAttnUpBlock2D",) * 3,
}  # fmt: skip
KANDINSKY_UNET = {
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"), "norm_num_groups": 2,
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"), "resnet_time_scale_shift": "scale_shift",
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
}  # fmt: skip
RESNET_UNET = {
    "in_channels": 6, "down_block_types": ("ResnetDownsampleBlock2D",) * 2, "resnet_time_scale_shift": "scale_shift",
    "up_block_types": ("ResnetUpsampleBlock2D",) * 2, "add_attention": False,
}  # fmt: skip
LENGTHS = Value(lambda row, dtype: torch.tensor([row * TOKENS, row * TOKENS + TOKENS][row > 0 :], dtype=torch.int32))
VIDEO = Value(lambda row, dtype: frames()([row], dtype).transpose(1, 2))  # channels first
MASKED = Value(lambda row, dtype: half()([row], dtype)[:, None].expand(1, 1, FRAMES, SIZE, SIZE) * 255)
EXAMPLES = Value(lambda row, dtype: [pictures(count=2, salt=3)([row], dtype), [pictures()([row], dtype), None]])
LISTED = Value(EMBEDS.make, joined=lambda rows: [row[0] for row in rows])
NEGATIVE_LISTED = Value(NEGATIVE.make, joined=LISTED.joined)
NESTED = Value(EMBEDS.make, joined=lambda rows: [[row[0]] for row in rows])
NEGATIVE_NESTED = Value(NEGATIVE.make, joined=NESTED.joined)
LAYERS = Value(normal(2, TOKENS, WIDTH, salt=7).make, joined=lambda rows: torch.stack([row[0] for row in rows], 1))
NEGATIVE_LAYERS = Value(normal(2, TOKENS, WIDTH, salt=8).make, joined=LAYERS.joined)
ONE_POOLED, NEGATIVE_ONE_POOLED = normal(1, WIDTH, salt=2), normal(1, WIDTH, salt=6)
