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

_WAN = {
    "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4,
    "text_dim": WIDTH, "freq_dim": 16, "ffn_dim": 16, "num_layers": 3, "cross_attn_norm": True,
    "rope_max_seq_len": 32,
}  # fmt: skip
_HUNYUAN_VIDEO = {
    "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2,
    "num_single_layers": 2, "num_refiner_layers": 1, "mlp_ratio": 2.0, "text_embed_dim": WIDTH,
    "rope_axes_dim": (2, 2, 4),
}  # fmt: skip
_Z_IMAGE = {
    "dim": 16, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "all_patch_size": (2,), "all_f_patch_size": (1,),
}  # fmt: skip
_JOY = {
    "in_channels": 4, "hidden_size": 16, "num_attention_heads": 2, "text_dim": WIDTH, "num_layers": 3,
    "rope_dim_list": [2, 2, 4],
}  # fmt: skip
_CASCADE = {
    "in_channels": 4, "out_channels": 4, "timestep_ratio_embedding_dim": 8, "conditioning_dim": 8,
    "block_out_channels": (8, 8), "num_attention_heads": (2, 2), "down_num_layers_per_block": (1, 1),
    "up_num_layers_per_block": (1, 1), "clip_text_pooled_in_channels": WIDTH, "clip_seq": 1, "dropout": (0.0, 0.0),
}  # fmt: skip


def guidance() -> Any:
    """Classifier-free guidance, for pipelines that take any."""
    from diffusers import ClassifierFreeGuidance

    return ClassifierFreeGuidance(guidance_scale=5.0)


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
        "out_channels": 8, "num_embeds_ada_norm": 1000, "norm_num_groups": 1,
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
    "WanTransformer3DModel": _WAN,
    "WanVACETransformer3DModel": _WAN | {"vace_layers": [0, 2], "vace_in_channels": 4 * 2 + 16},
    "SkyReelsV2Transformer3DModel": _WAN,
    "HunyuanVideoTransformer3DModel": _HUNYUAN_VIDEO | {"pooled_projection_dim": WIDTH, "patch_size": 1},
    "LTXVideoTransformer3DModel": {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8,
        "cross_attention_dim": 16, "num_layers": 3, "caption_channels": WIDTH,
    },
    "CogVideoXTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "time_embed_dim": 2,
        "text_embed_dim": WIDTH, "num_layers": 3, "sample_width": 8, "sample_height": 8, "sample_frames": 9,
        "max_text_seq_length": TOKENS,
    },
    "MochiTransformer3DModel": {
        "patch_size": 2, "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 3, "text_embed_dim": WIDTH,
        "pooled_projection_dim": 16, "in_channels": 12, "time_embed_dim": 4, "max_sequence_length": TOKENS,
    },
    "AllegroTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 3, "cross_attention_dim": 24,
        "sample_width": 8, "sample_height": 8, "sample_frames": 8, "caption_channels": WIDTH,
    },
    "CosmosTransformer3DModel": {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 3,
        "mlp_ratio": 2, "text_embed_dim": WIDTH, "adaln_lora_dim": 4, "max_size": (8, 32, 32),
        "concat_padding_mask": False,  # it needs torchvision
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
    "SanaVideoTransformer3DModel": _SANA | {"attention_head_dim": 12, "cross_attention_dim": 24, "cross_attention_head_dim": 12},
    "Kandinsky3UNet": {
        "time_embedding_dim": 8, "groups": 2, "attention_head_dim": 4, "layers_per_block": 2,
        "block_out_channels": (8, 8), "cross_attention_dim": 8, "encoder_hid_dim": WIDTH,
    },
    "Kandinsky5Transformer3DModel": {
        "in_visual_dim": 4, "out_visual_dim": 4, "in_text_dim": WIDTH, "in_text_dim2": WIDTH, "time_dim": 8,
        "model_dim": 16, "ff_dim": 16, "num_text_blocks": 1, "num_visual_blocks": 3, "axes_dims": (2, 2, 4),
    },
    "Transformer2DModel": {
        "num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 3, "sample_size": 8, "num_vector_embeds": 17,
        "num_embeds_ada_norm": 100, "cross_attention_dim": WIDTH, "norm_num_groups": 2, "norm_type": "ada_norm",
        "activation_fn": "geglu-approximate",
    },
    "LearnedClassifierFreeSamplingEmbeddings": {"learnable": False},
    "StableCascadeUNet": _CASCADE,
    "WanAnimateTransformer3DModel": _WAN | {
        "in_channels": 12, "latent_channels": 4, "num_layers": 2, "image_dim": WIDTH, "motion_encoder_size": 16,
        "motion_style_dim": 8, "motion_dim": 4, "motion_encoder_dim": 16, "face_encoder_hidden_dim": 16,
        "face_encoder_num_heads": 2, "inject_face_latents_blocks": 2,
        "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
    },
    "ChronoEditTransformer3DModel": _WAN | {"in_channels": 10, "image_dim": WIDTH, "added_kv_proj_dim": 24},
    "AnyFlowTransformer3DModel": {key: value for key, value in _WAN.items() if key != "qk_norm"},
    "AnyFlowFARTransformer3DModel": _WAN | {"chunk_partition": (1, 2), "full_chunk_limit": 2},
    "HeliosTransformer3DModel": {key: value for key, value in _WAN.items() if key != "rope_max_seq_len"} | {
        "rope_dim": (4, 4, 4),
    },
    "DreamLiteUNetModel": {
        "block_out_channels": (4, 8, 8), "layers_per_block": 1, "norm_num_groups": 2, "cross_attention_dim": WIDTH,
        "attention_head_dim": 4,
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
    "Kandinsky6Transformer3DModel": {
        "in_visual_dim": 4, "out_visual_dim": 4, "in_text_dim": WIDTH, "in_text_dim2": WIDTH, "time_dim": 8,
        "model_dim": 16, "ff_dim": 16, "num_text_blocks": 1, "num_visual_blocks": 3, "axes_dims": (2, 2, 4),
        "in_audio_dim": 4, "out_audio_dim": 4,
    },
    "LTX2VideoTransformer3DModel": {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8,
        "cross_attention_dim": 16, "audio_in_channels": 4, "audio_out_channels": 4, "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 4, "audio_cross_attention_dim": 8, "num_layers": 3, "caption_channels": WIDTH,
        "rope_double_precision": False, "vae_scale_factors": (8, 32, 32),
    },
    "LTX2TextConnectors": {
        "caption_channels": WIDTH, "text_proj_in_factor": 2, "video_connector_num_attention_heads": 2,
        "video_connector_attention_head_dim": 4, "video_connector_num_layers": 1,
        "video_connector_num_learnable_registers": None, "audio_connector_num_attention_heads": 2,
        "audio_connector_attention_head_dim": 4, "audio_connector_num_layers": 1,
        "audio_connector_num_learnable_registers": None, "connector_rope_base_seq_len": 32,
        "rope_double_precision": False,
    },
    "StableAudio3DiTModel": {
        "io_channels": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "cond_token_dim": WIDTH,
        "global_cond_dim": WIDTH, "local_add_cond_dim": 5, "timestep_features_dim": 8, "ff_mult": 2.0,
        "num_memory_tokens": 2,
    },
    "StableAudio3DurationEmbedder": {"output_dim": WIDTH, "fourier_dim": 8},
    "AceStepTransformer1DModel": {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "in_channels": 12, "audio_acoustic_hidden_dim": 4,
        "encoder_hidden_size": 16,
    },
    "AceStepConditionEncoder": {
        "hidden_size": 16, "intermediate_size": 16, "text_hidden_dim": WIDTH, "timbre_hidden_dim": 4,
        "num_lyric_encoder_hidden_layers": 1, "num_timbre_encoder_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8,
    },
    "LongCatAudioDiTTransformer": {
        "dit_dim": 16, "dit_depth": 3, "dit_heads": 2, "dit_text_dim": WIDTH, "latent_dim": 4,
    },
    "WuerstchenPrior": {"c_in": 4, "c": 8, "c_cond": WIDTH, "c_r": 4, "depth": 2, "nhead": 2, "dropout": 0.0},
    "WuerstchenDiffNeXt": {
        "c_cond": WIDTH, "c_r": 4, "c_hidden": [8, 8], "nhead": [-1, 2], "blocks": [1, 1], "dropout": 0.0,
        "level_config": ["CT", "CTA"], "inject_effnet": [False, True], "effnet_embd": 4, "clip_embd": WIDTH,
    },
    "BriaFiboTransformer2DModel": _FLUX | {"text_encoder_dim": WIDTH, "joint_attention_dim": 2 * WIDTH},
    "UNet1DModel": {
        "sample_size": 64, "sample_rate": 32, "extra_in_channels": 64, "block_out_channels": (32, 32, 32),
        "use_timestep_embedding": False, "flip_sin_to_cos": True,
    },
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
    "HunyuanImageTransformer2DModel": _HUNYUAN_VIDEO | {
        "rope_axes_dim": (4, 4), "text_embed_2_dim": WIDTH, "patch_size": (1, 1),
    },
    "HunyuanVideo15Transformer3DModel": {
        key: value for key, value in _HUNYUAN_VIDEO.items() if key != "num_single_layers"
    } | {
        "in_channels": 9, "num_layers": 3, "text_embed_2_dim": WIDTH, "image_embed_dim": WIDTH, "task_type": "t2v",
        "target_size": 16,
    },
    "HunyuanVideoFramepackTransformer3DModel": _HUNYUAN_VIDEO | {
        "pooled_projection_dim": WIDTH, "image_condition_type": None, "has_image_proj": True, "image_proj_dim": WIDTH,
        "has_clean_x_embedder": True,
    },
    "EasyAnimateTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "patch_size": 2,
        "sample_width": 8, "sample_height": 8, "num_layers": 3, "mmdit_layers": 3, "time_embed_dim": 8,
        "text_embed_dim": WIDTH,
    },
    "QwenImage21Transformer2DModel": {
        "in_channels": 4, "out_channels": 4, "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2,
        "context_in_dim": WIDTH, "mlp_ratio": 2, "axes_dims_rope": (2, 2, 4),
    },
    "MotifVideoTransformer3DModel": {
        key: value for key, value in _HUNYUAN_VIDEO.items() if key != "num_refiner_layers"
    } | {"in_channels": 9},
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
    "AudioLDM2ProjectionModel": {"text_encoder_dim": WIDTH, "text_encoder_1_dim": WIDTH, "langauge_model_dim": WIDTH},
    "StableAudioDiTModel": {
        "sample_size": 8, "in_channels": 3, "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2,
        "num_key_value_attention_heads": 2, "out_channels": 3, "cross_attention_dim": 8, "time_proj_dim": 8,
        "global_states_input_dim": 16, "cross_attention_input_dim": WIDTH,
    },
    "StableAudioProjectionModel": {
        "text_encoder_dim": WIDTH, "conditioning_dim": WIDTH, "min_value": 0, "max_value": 32,
    },
    "StableUnCLIPImageNormalizer": {"embedding_dim": WIDTH},
    "UnCLIPTextProjModel": {
        "clip_embeddings_dim": WIDTH, "time_embed_dim": 16, "cross_attention_dim": WIDTH,
        "clip_extra_context_tokens": 2,
    },
    "UNetFlatConditionModel": _LEVELS | {
        "sample_size": 8, "down_block_types": ("CrossAttnDownBlockFlat",) * 2, "cross_attention_dim": WIDTH,
        "up_block_types": ("CrossAttnUpBlockFlat",) * 2, "attention_head_dim": 2,
    },
    "ShapERenderer": {
        "param_shapes": ((8, 93), (8, 8), (8, 8), (8, 8)), "d_latent": WIDTH, "d_hidden": 8, "n_output": 12,
    },
    "LTXLatentUpsamplerModel": {"in_channels": 4, "mid_channels": 32, "num_blocks_per_stage": 1},
    "ReduxImageEncoder": {"redux_dim": WIDTH, "txt_in_features": WIDTH},
    "UniDiffuserModel": {
        "text_dim": WIDTH, "clip_img_dim": WIDTH, "num_text_tokens": TOKENS, "num_attention_heads": 2,
        "attention_head_dim": 4, "in_channels": 4, "out_channels": 4, "num_layers": 3, "sample_size": 8,
        "patch_size": 2, "activation_fn": "gelu", "norm_num_groups": 2, "num_embeds_ada_norm": 1000,
        "norm_type": "unidiffuser", "block_type": "unidiffuser", "use_timestep_embedding": False,
        "use_patch_pos_embed": True, "ff_final_dropout": True, "pre_layer_norm": False,
        "norm_elementwise_affine": False,
    },
    "UniDiffuserTextDecoder": {
        "prefix_length": TOKENS, "prefix_inner_dim": WIDTH, "prefix_hidden_dim": WIDTH, "vocab_size": 64,
        "n_positions": 32, "n_embd": WIDTH, "n_layer": 2, "n_head": 2,
    },
    "ClassifierFreeGuidance": {"guidance_scale": 5.0},
    "BaseGuidance": guidance,
    "PriorTransformer": {
        "num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 2, "embedding_dim": WIDTH,
        "num_embeddings": TOKENS,
    },
}  # fmt: skip
