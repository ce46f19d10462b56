"""U-Nets, and the ControlNets and adapters beside them, by class: two blocks or more each, a few channels wide."""

from __future__ import annotations

from typing import Any

from every.arguments import SIZE, WIDTH

_LEVELS = {"block_out_channels": (4, 8), "layers_per_block": 1, "norm_num_groups": 2}
_DOWN, _UP = ("CrossAttnDownBlock2D",) * 2, ("CrossAttnUpBlock2D",) * 2
_CONTROL = _LEVELS | {
    "in_channels": 4, "attention_head_dim": 2, "down_block_types": _DOWN, "cross_attention_dim": WIDTH,
    "conditioning_embedding_out_channels": (4, 4),
}  # fmt: skip
_CASCADE = {
    "in_channels": 4, "out_channels": 4, "timestep_ratio_embedding_dim": 8, "conditioning_dim": 8,
    "block_out_channels": (8, 8), "num_attention_heads": (2, 2), "down_num_layers_per_block": (1, 1),
    "up_num_layers_per_block": (1, 1), "clip_text_pooled_in_channels": WIDTH, "clip_seq": 1, "dropout": (0.0, 0.0),
}  # fmt: skip

UNETS: dict[str, Any] = {
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
    "UNet2DModel": _LEVELS | {
        "sample_size": SIZE, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "attention_head_dim": 2,
    },
    "UNet3DConditionModel": _LEVELS | {
        "sample_size": SIZE // 2, "down_block_types": ("CrossAttnDownBlock3D",) * 2,
        "up_block_types": ("CrossAttnUpBlock3D",) * 2, "cross_attention_dim": WIDTH, "attention_head_dim": 2,
    },
    "UNetSpatioTemporalConditionModel": {
        "sample_size": SIZE // 2, "block_out_channels": (32, 32), "layers_per_block": 1, "num_frames": 2,
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), "cross_attention_dim": WIDTH,
        "num_attention_heads": 2, "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 12,
    },
    "MotionAdapter": {
        "block_out_channels": (4, 8), "motion_layers_per_block": 1, "motion_norm_num_groups": 2,
        "motion_num_attention_heads": 2,
    },
    "SparseControlNetModel": _CONTROL | {
        "down_block_types": ("CrossAttnDownBlockMotion",) * 2, "conditioning_channels": 4,
        "motion_num_attention_heads": 2, "use_simplified_condition_embedding": True,
    },
    "Kandinsky3UNet": {
        "time_embedding_dim": 8, "groups": 2, "attention_head_dim": 4, "layers_per_block": 2,
        "block_out_channels": (8, 8), "cross_attention_dim": 8, "encoder_hid_dim": WIDTH,
    },
    "StableCascadeUNet": _CASCADE,
    "DreamLiteUNetModel": {
        "block_out_channels": (4, 8, 8), "layers_per_block": 1, "norm_num_groups": 2, "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
    },
    "WuerstchenPrior": {"c_in": 4, "c": 8, "c_cond": WIDTH, "c_r": 4, "depth": 2, "nhead": 2, "dropout": 0.0},
    "WuerstchenDiffNeXt": {
        "c_cond": WIDTH, "c_r": 4, "c_hidden": [8, 8], "nhead": [-1, 2], "blocks": [1, 1], "dropout": 0.0,
        "level_config": ["CT", "CTA"], "inject_effnet": [False, True], "effnet_embd": 4, "clip_embd": WIDTH,
    },
    "UNet1DModel": {
        "sample_size": 64, "sample_rate": 32, "extra_in_channels": 64, "block_out_channels": (32, 32, 32),
        "use_timestep_embedding": False, "flip_sin_to_cos": True,
    },
    "I2VGenXLUNet": _LEVELS | {
        "sample_size": SIZE // 2, "down_block_types": ("CrossAttnDownBlock3D",) * 2,
        "up_block_types": ("CrossAttnUpBlock3D",) * 2, "cross_attention_dim": WIDTH, "attention_head_dim": 2,
    },
    "UVit2DModel": {
        "hidden_size": 8, "cond_embed_dim": WIDTH, "micro_cond_encode_dim": 2, "micro_cond_embed_dim": 10,
        "encoder_hidden_size": WIDTH, "vocab_size": 32, "codebook_size": 24, "in_channels": 8, "block_out_channels": 8,
        "num_res_blocks": 1, "block_num_heads": 1, "num_hidden_layers": 2, "num_attention_heads": 1,
        "intermediate_size": 8, "sample_size": 4,
    },
    "AudioLDM2UNet2DConditionModel": _LEVELS | {
        "sample_size": 8, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "attention_head_dim": 2,
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": (WIDTH, WIDTH),
    },
    "UNetFlatConditionModel": _LEVELS | {
        "sample_size": 8, "down_block_types": ("CrossAttnDownBlockFlat",) * 2, "cross_attention_dim": WIDTH,
        "up_block_types": ("CrossAttnUpBlockFlat",) * 2, "attention_head_dim": 2,
    },
}  # fmt: skip
