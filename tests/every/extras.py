"""What else pipelines hold: projections, connectors, guiders, by class."""

from __future__ import annotations

from typing import Any

from every.arguments import TOKENS, WIDTH


def guidance() -> Any:
    """Classifier-free guidance, for pipelines that take any."""
    from diffusers import ClassifierFreeGuidance

    return ClassifierFreeGuidance(guidance_scale=5.0)


EXTRAS: dict[str, Any] = {
    "CLIPImageProjection": {"hidden_size": WIDTH},
    "LearnedClassifierFreeSamplingEmbeddings": {"learnable": False},
    "LTX2TextConnectors": {
        "caption_channels": WIDTH, "text_proj_in_factor": 2, "video_connector_num_attention_heads": 2,
        "video_connector_attention_head_dim": 4, "video_connector_num_layers": 1,
        "video_connector_num_learnable_registers": None, "audio_connector_num_attention_heads": 2,
        "audio_connector_attention_head_dim": 4, "audio_connector_num_layers": 1,
        "audio_connector_num_learnable_registers": None, "connector_rope_base_seq_len": 32,
        "rope_double_precision": False,
    },
    "StableAudio3DurationEmbedder": {"output_dim": WIDTH, "fourier_dim": 8},
    "AceStepConditionEncoder": {
        "hidden_size": 16, "intermediate_size": 16, "text_hidden_dim": WIDTH, "timbre_hidden_dim": 4,
        "num_lyric_encoder_hidden_layers": 1, "num_timbre_encoder_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8,
    },
    "AudioLDM2ProjectionModel": {"text_encoder_dim": WIDTH, "text_encoder_1_dim": WIDTH, "langauge_model_dim": WIDTH},
    "StableAudioProjectionModel": {
        "text_encoder_dim": WIDTH, "conditioning_dim": WIDTH, "min_value": 0, "max_value": 32,
    },
    "StableUnCLIPImageNormalizer": {"embedding_dim": WIDTH},
    "UnCLIPTextProjModel": {
        "clip_embeddings_dim": WIDTH, "time_embed_dim": 16, "cross_attention_dim": WIDTH,
        "clip_extra_context_tokens": 2,
    },
    "ShapERenderer": {
        "param_shapes": ((8, 93), (8, 8), (8, 8), (8, 8)), "d_latent": WIDTH, "d_hidden": 8, "n_output": 12,
    },
    "LTXLatentUpsamplerModel": {"in_channels": 4, "mid_channels": 32, "num_blocks_per_stage": 1},
    "ReduxImageEncoder": {"redux_dim": WIDTH, "txt_in_features": WIDTH},
    "UniDiffuserTextDecoder": {
        "prefix_length": TOKENS, "prefix_inner_dim": WIDTH, "prefix_hidden_dim": WIDTH, "vocab_size": 64,
        "n_positions": 32, "n_embd": WIDTH, "n_layer": 2, "n_head": 2,
    },
    "ClassifierFreeGuidance": {"guidance_scale": 5.0},
    "BaseGuidance": guidance,
}  # fmt: skip
