"""Denoising networks, ControlNets and adapters, by class: two blocks or more each, a few channels wide."""

from __future__ import annotations

from typing import Any

from every.arguments import SIZE, WIDTH

_LEVELS = {"block_out_channels": (4, 8), "layers_per_block": 1, "norm_num_groups": 2}
_DOWN, _UP = ("CrossAttnDownBlock2D",) * 2, ("CrossAttnUpBlock2D",) * 2
_CONTROL = _LEVELS | {
    "in_channels": 4, "attention_head_dim": 2, "down_block_types": _DOWN, "cross_attention_dim": WIDTH,
    "conditioning_embedding_out_channels": (4, 4),
}  # fmt: skip
_SD3 = {
    "sample_size": SIZE // 2, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3,
    "attention_head_dim": 4, "num_attention_heads": 2, "joint_attention_dim": WIDTH, "caption_projection_dim": 8,
    "pooled_projection_dim": WIDTH, "pos_embed_max_size": 8,
}  # fmt: skip

NETWORKS: dict[str, Any] = {
    "UNet2DConditionModel": _LEVELS | {
        "sample_size": SIZE // 2, "in_channels": 4, "out_channels": 4, "down_block_types": _DOWN,
        "up_block_types": _UP, "cross_attention_dim": WIDTH, "attention_head_dim": 2,
    },
    "ControlNetModel": _CONTROL,
    "ControlNetUnionModel": _CONTROL | {"num_trans_channel": 4, "num_trans_head": 2, "num_proj_channel": 4},
    "ControlNetXSAdapter": {
        "conditioning_embedding_out_channels": (2, 2), "num_attention_heads": 1, "block_out_channels": (2, 4),
        "base_block_out_channels": (4, 8), "cross_attention_dim": WIDTH, "down_block_types": _DOWN,
        "sample_size": SIZE // 2, "max_norm_num_groups": 2, "use_linear_projection": False,
        "learn_time_embedding": True,
    },
    "T2IAdapter": {"channels": [4, 8], "num_res_blocks": 1, "downscale_factor": 2},
    "CLIPImageProjection": {"hidden_size": WIDTH},
    "SD3Transformer2DModel": _SD3,
    "SD3ControlNetModel": _SD3 | {"num_layers": 2},
}  # fmt: skip
