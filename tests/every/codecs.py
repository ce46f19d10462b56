"""Autoencoders, by class: two levels each, so that a side of latents is half of a side of the picture."""

from __future__ import annotations

from typing import Any

_DOWN, _UP = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
_WAN = {
    "base_dim": 4, "z_dim": 4, "dim_mult": [1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True],
    "latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.5, 1.2, 0.9, 1.1],
}  # fmt: skip

CODECS: dict[str, Any] = {
    "AutoencoderKL": {
        "block_out_channels": (4, 4), "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4,
        "down_block_types": _DOWN, "up_block_types": _UP,
    },
    "AutoencoderKLFlux2": {
        "block_out_channels": (4, 4), "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4,
        "down_block_types": _DOWN, "up_block_types": _UP,
    },
    "AutoencoderDC": {
        "latent_channels": 4, "attention_head_dim": 2, "scaling_factor": 0.41407,
        "encoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "ResBlock", "EfficientViTBlock"),
        "encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8),
        "encoder_layers_per_block": (1, 1, 1), "decoder_layers_per_block": (1, 1, 1),
        "encoder_qkv_multiscales": ((), (), (5,)), "decoder_qkv_multiscales": ((), (), (5,)),
        "upsample_block_type": "interpolate", "downsample_block_type": "stride_conv",
        "decoder_norm_types": "rms_norm", "decoder_act_fns": "silu",
    },
    "VQModel": {
        "block_out_channels": (4, 4), "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4,
        "down_block_types": _DOWN, "up_block_types": _UP, "num_vq_embeddings": 16,
    },
    "AutoencoderKLTemporalDecoder": {
        "block_out_channels": (32, 32), "layers_per_block": 1, "latent_channels": 4, "down_block_types": _DOWN,
    },
    "AutoencoderKLWan": _WAN | {"scale_factor_spatial": 4, "scale_factor_temporal": 2},
    "AutoencoderKLQwenImage": _WAN,
    "AutoencoderKLHunyuanVideo": {
        "latent_channels": 4, "block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4,
    },
    "AutoencoderKLLTXVideo": {
        "latent_channels": 4, "block_out_channels": (8, 8, 8, 8), "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1), "decoder_layers_per_block": (1, 1, 1, 1, 1), "patch_size": 1,
        "spatio_temporal_scaling": (True, True, False, False), "encoder_causal": True, "decoder_causal": False,
        "decoder_spatio_temporal_scaling": (True, True, False, False),
    },
    "AutoencoderKLCogVideoX": {
        "latent_channels": 4, "block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 2,
    },
    "AutoencoderKLMochi": {
        "encoder_block_out_channels": (32,) * 4, "decoder_block_out_channels": (32,) * 4,
        "layers_per_block": (1, 1, 1, 1, 1),
    },
    "AutoencoderKLAllegro": {
        "block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 2, "sample_size": 64,
    },
    "AutoencoderKLCosmos": {
        "latent_channels": 4, "encoder_block_out_channels": (8, 8, 8, 8), "decode_block_out_channels": (8, 8, 8, 8),
        "attention_resolutions": (8,), "resolution": 64, "num_layers": 1, "latents_mean": [0.0] * 64,
        "latents_std": [1.0] * 64,
    },
    "PaellaVQModel": {"levels": 2, "bottleneck_blocks": 1, "embed_dim": 8, "num_vq_embeddings": 16},
    "AutoencoderTiny": {"encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4),
        "num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1), "latent_channels": 4, "upsampling_scaling_factor": 2,
    },
    "AutoencoderKLHunyuanImage": {
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": (32, 32, 32),
        "layers_per_block": 1, "spatial_compression_ratio": 4, "sample_size": 32, "scaling_factor": 0.7,
    },
    "AutoencoderKLHunyuanImageRefiner": {
        "latent_channels": 4, "block_out_channels": (32, 32, 32), "layers_per_block": 1,
        "spatial_compression_ratio": 4, "temporal_compression_ratio": 2,
    },
    "AutoencoderKLHunyuanVideo15": {
        "latent_channels": 4, "block_out_channels": (32, 32, 32), "layers_per_block": 1,
        "spatial_compression_ratio": 4, "temporal_compression_ratio": 2,
    },
    "AutoencoderKLMagvit": {
        "latent_channels": 4, "block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 2,
    },
    "AutoencoderKLQwenImage21": _WAN | {
        "dim_mult": [1, 1, 1], "is_residual": False, "scale_factor_spatial": 4, "scale_factor_temporal": 2,
        "decoder_base_dim": 4,
    },
    "AutoencoderOobleck": {
        "encoder_hidden_size": 6, "downsampling_ratios": [1, 2], "channel_multiples": [1, 2], "decoder_channels": 3,
        "decoder_input_channels": 3, "sampling_rate": 4,
    },
    "AutoencoderKLLTX2Video": {
        "latent_channels": 4, "block_out_channels": (8, 8, 8, 8), "decoder_block_out_channels": (8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1), "decoder_layers_per_block": (1, 1, 1, 1), "patch_size": 1,
        "upsample_residual": (False, False, False), "upsample_factor": (1, 1, 1), "spatial_compression_ratio": 8,
        "temporal_compression_ratio": 8,
    },
    "AutoencoderKLLTX2Audio": {
        "base_channels": 4, "ch_mult": (1,), "num_res_blocks": 1, "resolution": 16, "latent_channels": 2,
        "mel_bins": 8,
    },
    "LTX2Vocoder": {"in_channels": 4, "hidden_channels": 32},
    "AutoencoderSAME": {
        "patch_size": 4, "encoder_channels": 8, "encoder_c_mults": (1,), "encoder_strides": (2,),
        "encoder_transformer_depths": (1,), "latent_dim": 4, "dim_heads": 4, "ff_mult": 2, "sampling_rate": 16,
    },
    "LongCatAudioDiTVae": {
        "channels": 4, "c_mults": [1, 1], "strides": [2], "latent_dim": 4, "encoder_latent_dim": 8,
        "downsampling_ratio": 2, "sample_rate": 8,
    },
}  # fmt: skip
