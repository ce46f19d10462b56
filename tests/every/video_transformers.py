"""Transformers that make videos and sound, by class: two blocks or more each, a few channels wide."""

from __future__ import annotations

from typing import Any

from every.arguments import SIZE, TOKENS, WIDTH
from every.image_transformers import HUNYUAN_VIDEO, SANA

_WAN = {
    "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4,
    "text_dim": WIDTH, "freq_dim": 16, "ffn_dim": 16, "num_layers": 3, "cross_attn_norm": True,
    "rope_max_seq_len": 32,
}  # fmt: skip

VIDEO_TRANSFORMERS: dict[str, Any] = {
    "LatteTransformer3DModel": {
        "sample_size": SIZE // 2, "num_layers": 2, "patch_size": 2, "attention_head_dim": 4, "num_attention_heads": 2,
        "caption_channels": WIDTH, "in_channels": 4, "out_channels": 8, "cross_attention_dim": 8, "video_length": 1,
        "attention_bias": True, "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_single", "norm_elementwise_affine": False,
    },
    "WanTransformer3DModel": _WAN,
    "WanVACETransformer3DModel": _WAN | {"vace_layers": [0, 2], "vace_in_channels": 4 * 2 + 16},
    "SkyReelsV2Transformer3DModel": _WAN,
    "HunyuanVideoTransformer3DModel": HUNYUAN_VIDEO | {"pooled_projection_dim": WIDTH, "patch_size": 1},
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
    "SanaVideoTransformer3DModel": SANA | {"attention_head_dim": 12, "cross_attention_dim": 24, "cross_attention_head_dim": 12},
    "Kandinsky5Transformer3DModel": {
        "in_visual_dim": 4, "out_visual_dim": 4, "in_text_dim": WIDTH, "in_text_dim2": WIDTH, "time_dim": 8,
        "model_dim": 16, "ff_dim": 16, "num_text_blocks": 1, "num_visual_blocks": 3, "axes_dims": (2, 2, 4),
    },
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
    "StableAudio3DiTModel": {
        "io_channels": 4, "embed_dim": 16, "depth": 3, "num_heads": 2, "cond_token_dim": WIDTH,
        "global_cond_dim": WIDTH, "local_add_cond_dim": 5, "timestep_features_dim": 8, "ff_mult": 2.0,
        "num_memory_tokens": 2,
    },
    "AceStepTransformer1DModel": {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "in_channels": 12, "audio_acoustic_hidden_dim": 4,
        "encoder_hidden_size": 16,
    },
    "LongCatAudioDiTTransformer": {
        "dit_dim": 16, "dit_depth": 3, "dit_heads": 2, "dit_text_dim": WIDTH, "latent_dim": 4,
    },
    "HunyuanVideo15Transformer3DModel": {
        key: value for key, value in HUNYUAN_VIDEO.items() if key != "num_single_layers"
    } | {
        "in_channels": 9, "num_layers": 3, "text_embed_2_dim": WIDTH, "image_embed_dim": WIDTH, "task_type": "t2v",
        "target_size": 16,
    },
    "HunyuanVideoFramepackTransformer3DModel": HUNYUAN_VIDEO | {
        "pooled_projection_dim": WIDTH, "image_condition_type": None, "has_image_proj": True, "image_proj_dim": WIDTH,
        "has_clean_x_embedder": True,
    },
    "EasyAnimateTransformer3DModel": {
        "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "patch_size": 2,
        "sample_width": 8, "sample_height": 8, "num_layers": 3, "mmdit_layers": 3, "time_embed_dim": 8,
        "text_embed_dim": WIDTH,
    },
    "MotifVideoTransformer3DModel": {
        key: value for key, value in HUNYUAN_VIDEO.items() if key != "num_refiner_layers"
    } | {"in_channels": 9},
    "StableAudioDiTModel": {
        "sample_size": 8, "in_channels": 3, "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2,
        "num_key_value_attention_heads": 2, "out_channels": 3, "cross_attention_dim": 8, "time_proj_dim": 8,
        "global_states_input_dim": 16, "cross_attention_input_dim": WIDTH,
    },
}  # fmt: skip
