"""Transformers that make pictures, and the ControlNets beside them, by class: two blocks or more each, a few channels wide."""

from __future__ import annotations

from typing import Any

from every.arguments import SIZE, TOKENS, WIDTH

_SD3 = {
    "sample_size": SIZE // 2, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 3,
    "attention_head_dim": 4, "num_attention_heads": 2, "joint_attention_dim": WIDTH, "caption_projection_dim": 8,
    "pooled_projection_dim": WIDTH, "pos_embed_max_size": 8,
}  # fmt: skip
_FLUX = {
    "patch_size": 1, "in_channels": 4, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 8,
    "num_attention_heads": 2, "joint_attention_dim": WIDTH, "axes_dims_rope": (2, 2, 4),
}  # fmt: skip
SANA = {
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
_JOY = {
    "in_channels": 4, "hidden_size": 16, "num_attention_heads": 2, "text_dim": WIDTH, "num_layers": 3,
    "rope_dim_list": [2, 2, 4],
}  # fmt: skip

_Z_IMAGE = {
    "dim": 16, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "all_patch_size": (2,), "all_f_patch_size": (1,),
}  # fmt: skip
HUNYUAN_VIDEO = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2,
    "num_single_layers": 2, "num_refiner_layers": 1, "mlp_ratio": 2.0, "text_embed_dim": WIDTH,
    "rope_axes_dim": (2, 2, 4),
}  # fmt: skip

IMAGE_TRANSFORMERS: dict[str, Any] = {
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
    "SanaTransformer2DModel": SANA,
    "SanaControlNetModel": SANA | {"num_layers": 2},
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
        "out_channels": 8, "num_embeds_ada_norm": 1000, "norm_num_groups": 1,
    },
    "ZImageTransformer2DModel": _Z_IMAGE | {
        "in_channels": 4, "n_layers": 3, "cap_feat_dim": WIDTH, "axes_dims": [2, 2, 4], "axes_lens": [64, 32, 32],
    },
    "ZImageControlNetModel": _Z_IMAGE | {
        "control_layers_places": [0, 2], "control_refiner_layers_places": [0], "control_in_dim": 4,
    },
    "HiDreamImageTransformer2DModel": {
        "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2, "num_single_layers": 2,
        "attention_head_dim": 8, "num_attention_heads": 2, "caption_channels": [WIDTH, WIDTH], "text_emb_dim": 16,
        "num_routed_experts": 2, "num_activated_experts": 1, "axes_dims_rope": (4, 2, 2), "max_resolution": (16, 16),
        "llama_layers": (0, 1, 0, 1), "force_inference_output": True,
    },
    "OmniGenTransformer2DModel": {
        "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 16,
        "num_layers": 3, "pad_token_id": 0, "vocab_size": 64, "max_position_embeddings": 512, "time_step_dim": 4,
        "original_max_position_embeddings": 512, "pos_embed_max_size": 16,
        "rope_scaling": {"long_factor": [1, 1, 1, 1], "short_factor": [1, 1, 1, 1], "type": "su"},
    },
    "Transformer2DModel": {
        "num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 3, "sample_size": 8, "num_vector_embeds": 17,
        "num_embeds_ada_norm": 100, "cross_attention_dim": WIDTH, "norm_num_groups": 2, "norm_type": "ada_norm",
        "activation_fn": "geglu-approximate",
    },
    "BriaFibo2Transformer2DModel": {
        "in_channels": 4, "dim": 24, "n_layers": 3, "n_refiner_layers": 1, "n_heads": 3, "cap_feat_dim": WIDTH,
        "injection_layer_ids": (1,), "perceiver_num_layers": 1, "min_num_gist_tokens": 2, "max_num_gist_tokens": 4,
        "gist_step": 2, "gist_min_text_len": 2, "gist_max_text_len": 16, "axes_dims": (2, 2, 4),
        "axes_lens": (128, 32, 32),
    },
    "GlmImageTransformer2DModel": {
        "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2,
        "text_embed_dim": WIDTH, "time_embed_dim": 8, "condition_dim": 2, "prior_vq_quantizer_codebook_size": 16,
    },
    "Ideogram4Transformer2DModel": {
        "in_channels": 16, "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2,
        "intermediate_size": 16, "adaln_dim": 8, "llm_features_dim": 2 * WIDTH, "mrope_section": (2, 1, 1),
    },
    "JoyImageEditTransformer3DModel": _JOY,
    "JoyImageEditPlusTransformer3DModel": _JOY,
    "BriaFiboTransformer2DModel": _FLUX | {"text_encoder_dim": WIDTH, "joint_attention_dim": 2 * WIDTH},
    "OvisImageTransformer2DModel": _FLUX | {"out_channels": 4},
    "LongCatImageTransformer2DModel": _FLUX | {"pooled_projection_dim": WIDTH, "in_channels": 64},
    "ErnieImageTransformer2DModel": {
        "hidden_size": 16, "num_attention_heads": 2, "num_layers": 3, "ffn_hidden_size": 16, "in_channels": 16,
        "out_channels": 16, "text_in_dim": WIDTH, "rope_axes_dim": (2, 2, 4),
    },
    "PRXTransformer2DModel": {
        "in_channels": 4, "context_in_dim": WIDTH, "hidden_size": 16, "mlp_ratio": 2.0, "num_heads": 2, "depth": 3,
        "axes_dim": [4, 4],
    },
    "HunyuanImageTransformer2DModel": HUNYUAN_VIDEO | {
        "rope_axes_dim": (4, 4), "text_embed_2_dim": WIDTH, "patch_size": (1, 1),
    },
    "QwenImage21Transformer2DModel": {
        "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2,
        "context_in_dim": WIDTH, "mlp_ratio": 2, "axes_dims_rope": (2, 2, 4),
    },
    "Krea2Transformer2DModel": {
        "in_channels": 16, "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 16, "timestep_embed_dim": 8, "text_hidden_dim": WIDTH,
        "num_text_layers": 2, "text_num_attention_heads": 2, "text_num_key_value_heads": 2,
        "text_intermediate_size": 16, "num_layerwise_text_blocks": 1, "num_refiner_text_blocks": 1,
        "axes_dims_rope": (2, 2, 4),
    },
    "NucleusMoEImageTransformer2DModel": {
        "in_channels": 16, "num_layers": 4, "attention_head_dim": 8, "num_attention_heads": 2, "out_channels": 4,
        "joint_attention_dim": WIDTH, "axes_dims_rope": (2, 2, 4), "mlp_ratio": 2.0, "num_experts": 2,
        "moe_intermediate_dim": 8, "capacity_factors": 2.0,
    },
    "UniDiffuserModel": {
        "text_dim": WIDTH, "clip_img_dim": WIDTH, "num_text_tokens": TOKENS, "num_attention_heads": 2,
        "attention_head_dim": 4, "in_channels": 4, "out_channels": 4, "num_layers": 3, "sample_size": 8,
        "patch_size": 2, "activation_fn": "gelu", "norm_num_groups": 2, "num_embeds_ada_norm": 1000,
        "norm_type": "unidiffuser", "block_type": "unidiffuser", "use_timestep_embedding": False,
        "use_patch_pos_embed": True, "ff_final_dropout": True, "pre_layer_norm": False,
        "norm_elementwise_affine": False,
    },
    "PriorTransformer": {
        "num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 2, "embedding_dim": WIDTH,
        "num_embeddings": TOKENS,
    },
}  # fmt: skip
