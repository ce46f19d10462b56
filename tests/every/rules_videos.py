"""What is special: Pipelines that make videos and sound."""

from __future__ import annotations

from typing import Any

from every.arguments import (
    EMBEDS,
    FRAMES,
    MASK,
    NEGATIVE,
    NEGATIVE_POOLED,
    POOLED,
    SIZE,
    TOKENS,
    WIDTH,
    Value,
    frames,
    normal,
    pictures,
    words,
)
from every.encoders import Unguarded
from every.pieces import ENCODER, LENGTHS, MASKED, SDXL_UNET, TEXT, VAE_OF_8, VIDEO, VISION, WORDS

VIDEOS: list[tuple[str, dict[str, Any]]] = [
    ("Latte*", {"parts": {"scheduler": {"of": "DDIMScheduler"}}, "call": {"video_length": 2}}),
    ("SanaVideo* SanaImageToVideo*", {"parts": {"vae": {"of": "AutoencoderKLWan"}}}),
    ("SanaVideo*", {"parts": {"scheduler": {"of": "FlowMatchEulerDiscreteScheduler"}}}),
    ("AnimateDiff*", {"parts": {"scheduler": {"of": "DDIMScheduler"}}, "call": {"num_frames": 2}}),
    ("AnimateDiffVideoToVideo*", {"call": {"num_frames": Value.absent}}),
    ("AnimateDiffSDXL*", {"parts": {"unet": SDXL_UNET}}),
    ("AnimateDiffControlNet*", {"call": {"conditioning_frames": pictures(count=2)}}),
    ("AnimateDiffVideoToVideo*", {"call": {"video": pictures(count=2)}}),
    ("AnimateDiffVideoToVideoControlNet*", {"call": {"conditioning_frames": pictures(count=2, salt=2)}}),
    ("AnimateDiffSparse*", {"call": {"conditioning_frames": pictures(count=2), "controlnet_frame_indices": [0, 1]}}),
    ("StableVideoDiffusion*", {"call": {"decode_chunk_size": 2, "num_frames": 2}, "parts": VISION | {"scheduler": {
        "prediction_type": "v_prediction", "timestep_type": "continuous", "timestep_spacing": "leading",
        "use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 700.0, "interpolation_type": "linear",
    }}}),
    ("Wan* Lucy*", {"parts": {"transformer": {}}}),
    ("Wan*ImageToVideo*", {"parts": {"transformer": {"in_channels": 4 * 2 + 2}}}),
    ("CogVideoX*", {"parts": {"scheduler": {"of": "CogVideoXDDIMScheduler"}}}),
    ("CogVideoXFunControl*", {
        "parts": {"transformer": {"in_channels": 8}}, "call": {"control_video": pictures(count=FRAMES, salt=2)},
    }),
    ("CogVideoXImageToVideo*", {"parts": {"transformer": {"in_channels": 8}}}),
    ("HunyuanVideoImageToVideo*", {"parts": {"transformer": {
        "in_channels": 4 * 2 + 1, "image_condition_type": "latent_concat", "guidance_embeds": False,
    }}, "call": {"prompt_template": {"template": "{}", "crop_start": 0, "image_emb_start": 0, "image_emb_end": 0, "image_emb_len": 0}}}),
    ("HunyuanSkyreels*", {"parts": {"transformer": {"in_channels": 8}}}),
    ("SkyReelsV2DiffusionForcing*", {"call": {"prompt": None, "overlap_history": None, "base_num_frames": FRAMES}}),
    ("SkyReelsV2DiffusionForcingVideo*", {"call": {"overlap_history": 1, "num_frames": 2 * FRAMES - 1}}),
    ("SkyReelsV2ImageToVideo*", {
        "parts": VISION | {"image_processor": {"of": "CLIPImageProcessorPil"}, "transformer": {"in_channels": 4 * 2 + 2, "image_dim": WIDTH}},
        "call": {"image": pictures()},
    }),
    ("LTX*", {"size": 32, "parts": {"scheduler": {"use_dynamic_shifting": True}}}),
    ("LTXCondition* LTXI2VLong* LTX2DFR*", {"parts": {"scheduler": {"use_dynamic_shifting": False}}}),
    ("LTXI2VLong*", {"parts": TEXT, "call": WORDS | {"cond_image": pictures(32), "seed": None}}),
    ("LucyEdit*", {"parts": {"transformer": {"in_channels": 8}}, "call": {"video": pictures(count=FRAMES)}}),
    ("Cosmos*", {"parts": {"safety_checker": Unguarded}}),
    ("Cosmos*VideoToWorld*", {"parts": {"transformer": {"in_channels": 5}}, "call": {"video": Value.absent, "num_frames": 9}}),
    ("Mochi*", {"call": {"num_frames": 7}}),
    ("Cosmos2*", {"parts": {"scheduler": {"shift": 1.0, "use_karras_sigmas": True}}}),
    ("CosmosTextToWorld* CosmosVideoToWorld*", {"parts": {"scheduler": {"of": "EDMEulerScheduler"}}}),
    ("Kandinsky5*", {"call": {
        "prompt_embeds_qwen": EMBEDS, "prompt_embeds_clip": POOLED, "negative_prompt_embeds_qwen": NEGATIVE,
        "negative_prompt_embeds_clip": NEGATIVE_POOLED, "prompt_cu_seqlens": LENGTHS,
        "negative_prompt_cu_seqlens": LENGTHS,
    }}),
    ("Kandinsky5?2I*", {"after": {"sizes": lambda pipe: setattr(pipe, "resolutions", [(SIZE, SIZE)])}}),
    ("Kandinsky5I2I*", {
        "parts": {"transformer": {"visual_cond": True}, "vae": VAE_OF_8},
        "size": 64, "after": {"sizes": lambda pipe: setattr(pipe, "resolutions", [(64, 64)])},
    }),
    ("Kandinsky5?2V*", {"size": 64, "call": {"num_frames": 9}}),
    ("Kandinsky5I2V*", {"call": {"num_frames": 21}, "parts": {"transformer": {"visual_cond": True}}}),
    ("HunyuanVideo15*", {"parts": {"transformer": {"patch_size": 1}}}),
    ("EasyAnimateControl*", {"parts": {"transformer": {"in_channels": 8}}, "call": {"control_video": frames()}}),
    ("EasyAnimateInpaint*", {"after": {  # it reads a field that the class of its autoencoder does not have
        "cache": lambda pipe: pipe.vae.register_to_config(cache_mag_vae=False),
    }}),
    ("EasyAnimateInpaint*", {"parts": {"transformer": {"in_channels": 9}}, "call": {"video": VIDEO, "mask_video": MASKED}}),
    ("AudioLDM* MusicLDM*", {"parts": {"vae": {"in_channels": 1, "out_channels": 1}}}),
    ("AudioLDMP* MusicLDM*", {"parts": {"text_encoder": {"of": "ClapTextModelWithProjection"}, "unet": {
        "class_embed_type": "simple_projection", "projection_class_embeddings_input_dim": WIDTH,
        "class_embeddings_concat": True, "cross_attention_dim": (4, 8),
    }}, "call": {"prompt_embeds": POOLED, "negative_prompt_embeds": NEGATIVE_POOLED, "audio_length_in_s": 4.0, "output_type": "pt"}}),
    ("AudioLDM2*", {"parts": {"language_model": ENCODER, "text_encoder": ENCODER, "text_encoder_2": ENCODER}, "call": {
        "audio_length_in_s": 4.0, "output_type": "pt", "generated_prompt_embeds": normal(3, WIDTH, salt=3), "negative_generated_prompt_embeds": normal(3, WIDTH, salt=4),
        "attention_mask": MASK, "negative_attention_mask": MASK,
    }}),
    ("StableAudioPipeline", {"call": {"attention_mask": MASK, "negative_attention_mask": MASK}}),
    ("Motif*", {"parts": {"scheduler": {"of": "FlowMatchEulerDiscreteScheduler"}}}),
    ("MotifVideoImage2*", {"call": {"prompt": None, "image": pictures()}}),
    ("HunyuanVideo15Image*", {"parts": VISION | {"transformer": {"task_type": "i2v"}}, "call": {"image": pictures()}}),
    ("HunyuanVideoFramepack*", {"parts": VISION, "call": {"latent_window_size": 2, "num_frames": 9, "output_type": "pt"}}),
    ("HeliosPipeline", {"parts": {"scheduler": {"stages": 1, "stage_range": [0, 1]}}}),
    ("HeliosPyramid*", {"size": 64, "parts": {"scheduler": {"gamma": 0.3}}}),
    ("Helios*", {"call": {"video": Value.absent, "image": Value.absent, "history_sizes": [4, 2, 1], "num_latent_frames_per_chunk": 2}}),
    ("AnyFlow*", {"call": {"video": Value.absent}}),
    ("ChronoEdit*", {"parts": {"image_processor": {}}}),
    ("WanAnimate*", {"parts": {
        "image_processor": {}, "transformer": {},
        "vae": {"temperal_downsample": [True, True], "scale_factor_temporal": 4},
    }, "call": {
        "image": pictures(), "pose_video": pictures(count=FRAMES, salt=2), "face_video": pictures(count=FRAMES, salt=3),
        "segment_frame_length": FRAMES,
    }}),
    ("StableAudio3*", {"parts": {"scheduler": {"num_train_timesteps": 1, "shift": 1.0}}}),
    ("StableAudio3*", {"call": {"duration": 1.0, "encoder_attention_mask": MASK, "negative_encoder_attention_mask": MASK}}),
    ("StableAudio3AudioToAudio* StableAudio3Inpaint*", {"call": {"audio": normal(2, 16, salt=3), "negative_encoder_attention_mask": Value.absent}}),
    ("StableAudio3Inpaint*", {"call": {"mask_start_seconds": 0.25, "mask_end_seconds": 0.75}}),
    ("LongCatAudio*", {"parts": {"tokenizer": {"of": "AutoTokenizer"}, "text_encoder": {}}, "call": {"prompt": words(), "audio_duration_s": 1.0, "output_type": "pt"}}),
    ("AceStep*", {"parts": {"tokenizer": {"of": "AutoTokenizer"}, "text_encoder": ENCODER}, "call": {"prompt": words(), "lyrics": "b", "audio_duration": 2.0}}),
    ("Kandinsky6TI2VA*", {"call": {"sample_audio": False, "image": Value.absent}}),
    ("LTX2*", {"parts": {"connectors": {}}, "call": {
        "frame_rate": 4.0, "prompt_embeds": normal(TOKENS, 2 * WIDTH), "negative_prompt_embeds": normal(TOKENS, 2 * WIDTH, salt=5),
    }}),
    ("LTX2*", {"call": {"num_frames": 9}}),
    ("LTX2DFRP*", {
        "parts": {"transformer": {"use_keyframes_abs_pos_embedding": True}},
        "call": {"negative_prompt_embeds": Value.absent},
    }),
    ("LTX2ImageToVideo*", {"call": {"image_crf": 0}, "size": 64}),
    ("LTX2[CIPH]*Pipeline", {"call": {"spatio_temporal_guidance_blocks": [1]}}),
]  # fmt: skip
