"""Denoising networks, ControlNets and adapters, by class: two blocks or more each, a few channels wide."""

from __future__ import annotations

from typing import Any

from every.arguments import SIZE, TOKENS, WIDTH

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

_FLUX = {
    "patch_size": 1, "in_channels": 4, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 8,
    "num_attention_heads": 2, "joint_attention_dim": WIDTH, "axes_dims_rope": (2, 2, 4),
}  # fmt: skip
_SANA = {
    "in_channels": 4, "out_channels": 4, "num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 4,
    "num_cross_attention_heads": 2, "cross_attention_head_dim": 4, "cross_attention_dim": 8, "caption_channels": WIDTH,
    "sample_size": SIZE // 2,
}  # fmt: skip
_HUNYUAN_DIT = {
    "num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "patch_size": 2, "sample_size": SIZE // 2,
    "hidden_size": 16, "mlp_ratio": 2.0, "cross_attention_dim": WIDTH, "cross_attention_dim_t5": WIDTH,
    "pooled_projection_dim": WIDTH, "text_len": TOKENS, "text_len_t5": TOKENS,
}  # fmt: skip
_COGVIEW = {
    "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 8,
    "num_attention_heads": 2, "text_embed_dim": WIDTH, "time_embed_dim": 8, "condition_dim": 2, "sample_size": 8,
    "pos_embed_max_size": 8,
}  # fmt: skip
_QWEN = {
    "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 3, "attention_head_dim": 8,
    "num_attention_heads": 2, "joint_attention_dim": WIDTH, "axes_dims_rope": (2, 2, 4),
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
    "FluxTransformer2DModel": _FLUX | {"pooled_projection_dim": WIDTH, "guidance_embeds": True},
    "FluxControlNetModel": _FLUX | {"pooled_projection_dim": WIDTH, "guidance_embeds": True},
    "Flux2Transformer2DModel": _FLUX | {
        "in_channels": 16, "axes_dims_rope": (2, 2, 2, 2), "timestep_guidance_channels": 8,
    },
    "ChromaTransformer2DModel": _FLUX | {
        "approximator_num_channels": 8, "approximator_hidden_dim": 8, "approximator_layers": 1,
    },
    "BriaTransformer2DModel": _FLUX,
    "PixArtTransformer2DModel": {
        "sample_size": SIZE // 2, "patch_size": 2, "in_channels": 4, "out_channels": 8, "num_layers": 3,
        "attention_head_dim": 4, "num_attention_heads": 2, "cross_attention_dim": 8, "caption_channels": WIDTH,
        "norm_num_groups": 1, "use_additional_conditions": False,
    },
    "SanaTransformer2DModel": _SANA,
    "SanaControlNetModel": _SANA | {"num_layers": 2},
    "HunyuanDiT2DModel": _HUNYUAN_DIT | {"num_layers": 4},
    "HunyuanDiT2DControlNetModel": _HUNYUAN_DIT | {"transformer_num_layers": 4},
    "AuraFlowTransformer2DModel": {
        "sample_size": SIZE // 2, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_mmdit_layers": 2,
        "num_single_dit_layers": 2, "attention_head_dim": 4, "num_attention_heads": 2, "joint_attention_dim": WIDTH,
        "caption_projection_dim": 8, "pos_embed_max_size": 64,
    },
    "CogView3PlusTransformer2DModel": _COGVIEW,
    "CogView4Transformer2DModel": _COGVIEW | {"rope_axes_dim": (8, 8)},
    "Lumina2Transformer2DModel": {
        "sample_size": SIZE // 2, "in_channels": 4, "hidden_size": 24, "num_layers": 3, "num_refiner_layers": 1,
        "num_attention_heads": 3, "num_kv_heads": 1, "multiple_of": 2, "axes_dim_rope": (4, 2, 2),
        "axes_lens": (64, 16, 16), "cap_feat_dim": WIDTH,
    },
    "LuminaNextDiT2DModel": {
        "sample_size": SIZE // 2, "hidden_size": 16, "num_layers": 3, "num_attention_heads": 2, "num_kv_heads": 1,
        "multiple_of": 2, "cross_attention_dim": WIDTH,
    },
    "QwenImageTransformer2DModel": _QWEN,
    "QwenImageControlNetModel": _QWEN | {"num_layers": 2},
    "DiTTransformer2DModel": {
        "sample_size": SIZE // 2, "num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 4, "in_channels": 4,
        "out_channels": 8, "num_embeds_ada_norm": 10, "norm_num_groups": 1,
    },
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
    "LatteTransformer3DModel": {
        "sample_size": SIZE // 2, "num_layers": 2, "patch_size": 2, "attention_head_dim": 4, "num_attention_heads": 2,
        "caption_channels": WIDTH, "in_channels": 4, "out_channels": 8, "cross_attention_dim": 8, "video_length": 1,
        "attention_bias": True, "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_single", "norm_elementwise_affine": False,
    },
    "PriorTransformer": {
        "num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 2, "embedding_dim": WIDTH,
        "num_embeddings": TOKENS,
    },
}  # fmt: skip
