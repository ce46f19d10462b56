"""What is special about pipelines, by patterns of class names: components, call arguments; later rules win.

A component is {} for one as the tables have it, {"of": class, field: value} for another class or config, None, or what
makes it. `after` is a table of functions of the pipeline.
"""

from __future__ import annotations

from typing import Any

import torch

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
    half,
    normal,
    ones,
    picture,
    pictures,
    words,
)  # fmt: skip
from every.encoders import Processor, Unguarded

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


def inverted(pipe: Any) -> None:
    """LEdits++ begins at what it has inverted."""
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        pipe.invert(
            image=pictures(64)([0], torch.float32),
            num_inversion_steps=6,
            skip=0.2,
            generator=torch.Generator().manual_seed(0),
        )


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

RULES: list[tuple[str, dict[str, Any]]] = [
    ("*", {"parts": {"scheduler": {}}}),
    # --- Stable Diffusion 1 and 2
    ("StableDiffusion*", {"parts": {"scheduler": {"of": "PNDMScheduler"}}}),
    ("StableDiffusionAdapter*", {"call": {"image": picture()}}),
    ("StableDiffusionAttendAndExcite*", {
        "parts": TEXT, "call": WORDS | {"token_indices": [1], "attn_res": (4, 4), "max_iter_to_alter": 1},
    }),
    ("StableDiffusionDepth2Img*", {
        "parts": {"unet": {"in_channels": 5}, "depth_estimator": None}, "call": {"depth_map": normal(8, 8, salt=3)},
    }),
    ("StableDiffusionDiffEdit*", {
        "parts": {"scheduler": {"of": "DDIMScheduler"}},
        "call": {"image_latents": normal(4, 4, 8, 8, salt=3), "mask_image": half(8), "inpaint_strength": 1.0},
    }),
    ("StableDiffusionGLIGEN*", {
        "parts": TEXT | {"unet": {"attention_type": "gated"}},
        "call": {"gligen_phrases": ["ab"], "gligen_boxes": [[0.1, 0.2, 0.5, 0.7]]},
    }),
    ("StableDiffusionGLIGENTextImage*", {"parts": {"unet": {"attention_type": "gated-text-image"}}}),
    ("StableDiffusionImageVariation*", {"parts": VISION}),
    ("StableDiffusionLDM3D*", {
        "parts": {"image_encoder": None, "vae": {"in_channels": 6, "out_channels": 6}}, "call": {"output_type": "np"},
    }),
    ("StableDiffusionInstructPix2Pix* StableDiffusionXLInstructPix2Pix*", {"parts": {"unet": {"in_channels": 8}}}),
    ("StableDiffusionLatentUpscale*", {
        "parts": {"unet": {"in_channels": 8, "out_channels": 5, "time_cond_proj_dim": 128 + WIDTH}, "scheduler": EULER},
        "call": {"image": normal(4, 8, 8, salt=3)},
    }),
    ("StableDiffusionParadigms*", {"parts": {"scheduler": {"of": "DDPMParallelScheduler"}}}),
    ("StableDiffusionPipelineSafe", {"parts": TEXT | {"image_encoder": None}, "call": WORDS}),
    ("StableDiffusionPix2PixZero*", {
        "parts": TEXT | {"scheduler": {"of": "DDIMScheduler"}, "caption_generator": None},
        "call": WORDS | {"source_embeds": normal(TOKENS, WIDTH, salt=3), "target_embeds": normal(TOKENS, WIDTH, salt=4)},
    }),
    ("StableDiffusionUpscale*", {"parts": {"unet": {"in_channels": 7}}, "call": {"image": picture()}}),
    # --- Stable Diffusion XL
    ("StableDiffusionXL*", {"parts": {"unet": SDXL_UNET, "scheduler": EULER, "add_watermarker": False}}),
    ("StableDiffusionXLControlNet[!X]*", {"parts": {"controlnet": SDXL_UNET}}),
    ("StableDiffusionXLControlNetXS*", {"parts": {"controlnet": {"use_linear_projection": True}}}),
    ("StableDiffusionControlNetXS* StableDiffusionXLControlNetXS*", {"parts": {"unet": {"layers_per_block": 2}}}),
    ("StableDiffusionXLControlNetUnion*", {"call": {"control_mode": [0]}}),
    # --- Stable Diffusion 3
    ("StableDiffusion3*", {"parts": {
        "scheduler": {"of": "FlowMatchEulerDiscreteScheduler"},
        "vae": {"shift_factor": 0.06, "use_quant_conv": False, "use_post_quant_conv": False},
    }}),
    ("StableDiffusion3Inpaint*", {"parts": {
        "transformer": {"in_channels": 16, "out_channels": 16}, "vae": {"latent_channels": 16},
    }}),
    ("StableDiffusion3ControlNetInpaint*", {
        "parts": {"controlnet": {"extra_conditioning_channels": 1}}, "call": {"control_mask": half()},
    }),
    # --- Flux and its like
    ("Flux[!2]*", {"parts": {
        "scheduler": {"use_dynamic_shifting": True}, "vae": {
            "latent_channels": 1, "shift_factor": 0.1, "use_quant_conv": False, "use_post_quant_conv": False,
        },
    }}),
    ("FluxControlPipeline FluxControlImg2Img*", {"parts": {"transformer": {"in_channels": 8, "out_channels": 4}}}),
    ("FluxControlInpaint*", {"parts": {"transformer": {"in_channels": 8, "out_channels": 4}}}),
    ("FluxFill*", {"parts": {"transformer": {"in_channels": 24, "out_channels": 4}}}),
    ("FluxKontext*", {"call": {"_auto_resize": False, "max_area": SIZE * SIZE}}),
    ("Flux2*", {"parts": {"scheduler": {"use_dynamic_shifting": True}}, "call": {"image": Value.absent}}),
    ("Flux2Klein[IK]*", {"call": {"image": pictures(64)}}),
    ("VisualCloze*", {"parts": TEXT | {
        "text_encoder": {"max_position_embeddings": 80}, "tokenizer_2": {}, "text_encoder_2": {}, "resolution": SIZE,
        "transformer": {"in_channels": 24, "out_channels": 4}, "scheduler": {"use_dynamic_shifting": True},
        "vae": {"latent_channels": 1, "shift_factor": 0.1},
    }, "call": EMBEDDED | {
        "task_prompt": words(), "content_prompt": words("bcd"), "image": EXAMPLES, "pooled_prompt_embeds": Value.absent,
        "prompt": Value.absent, "prompt_embeds": Value.absent, "negative_prompt_embeds": Value.absent,
    }}),
    ("VisualClozePipeline", {"call": {"output_type": "pt", "upsampling_height": 32, "upsampling_width": 32}}),
    ("Chroma*", {"parts": {"vae": {"latent_channels": 1, "shift_factor": 0.1}}}),
    ("ChromaPipeline", {"call": {"prompt_attention_mask": BOOLS, "negative_prompt_attention_mask": BOOLS}}),
    ("ChromaInpaint*", {"after": {  # it reads a field that the class of its network does not have
        "guidance": lambda pipe: pipe.transformer.register_to_config(guidance_embeds=False),
    }}),
    ("BriaPipeline", {"parts": {"vae": {"latent_channels": 1}}}),
    # --- transformers of captions
    ("PixArt*", {"parts": {"scheduler": {"of": "DPMSolverMultistepScheduler"}}}),
    ("Latte*", {"parts": {"scheduler": {"of": "DDIMScheduler"}}, "call": {"video_length": 2}}),
    ("Sana*", {"size": 32}),
    ("SanaPipeline SanaControlNet*", {"parts": {"scheduler": {
        "of": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, "prediction_type": "flow_prediction",
        "flow_shift": 3.0,
    }}}),
    ("SanaVideo* SanaImageToVideo*", {"parts": {"vae": {"of": "AutoencoderKLWan"}}}),
    ("SanaVideo*", {"parts": {"scheduler": {"of": "FlowMatchEulerDiscreteScheduler"}}}),
    ("SanaSprint*", {"parts": {"scheduler": {"of": "SCMScheduler"}, "transformer": {"guidance_embeds": True}},
                      "call": {"intermediate_timesteps": None}}),
    ("Lumina*", {"size": 64}),
    ("CogView4Control*", {"parts": {"transformer": {"in_channels": 8}}}),
    ("DiT*", {"call": {"class_labels": Value(lambda row, dtype: torch.tensor([row + 3])), "output_type": "np"}}),
    ("LatentConsistency*", {"parts": {"unet": {"time_cond_proj_dim": 8}}}),
    # --- Qwen
    ("Qwen*", {"size": 32, "parts": {"scheduler": {"use_dynamic_shifting": True}}}),
    ("QwenImageControlNetInpaint*", {"parts": {"controlnet": {"extra_condition_channels": 4}}}),
    ("QwenImageLayered*", {"parts": {
        "text_encoder": ENCODER, "vae": {"input_channels": 4, "z_dim": 8, "latents_mean": [0.1] * 8, "latents_std": [1.2] * 8},
        "transformer": {"in_channels": 32, "out_channels": 8, "use_additional_t_cond": True, "use_layer3d_rope": True},
    }}),
    ("QwenImageEdit* QwenImageLayered*", {
        "call": {"image": pictures(32)},
        "patch": {
            f"diffusers.pipelines.qwenimage.pipeline_qwenimage_{kind}.calculate_dimensions": lambda area, ratio, few=few: few
            for kind, few in (("edit", (32, 32, 1)), ("edit_inpaint", (32, 32, 1)), ("edit_plus", (32, 32)),
                              ("layered", (32, 32)))
        },
    }),
    ("QwenImageLayered*", {"call": {"prompt": words(), "image": pictures(32, mode="RGBA"), "output_type": "pt"}}),
    # --- video
    ("AnimateDiff*", {"parts": {"scheduler": {"of": "DDIMScheduler"}}, "call": {"num_frames": 2}}),
    ("AnimateDiffVideoToVideo*", {"call": {"num_frames": Value.absent}}),
    ("AnimateDiffSDXL*", {"parts": {"unet": SDXL_UNET}}),
    ("AnimateDiffControlNet*", {"call": {"conditioning_frames": pictures(count=2)}}),
    ("AnimateDiffVideoToVideo*", {"call": {"video": pictures(count=2)}}),
    ("AnimateDiffVideoToVideoControlNet*", {"call": {"conditioning_frames": pictures(count=2, salt=2)}}),
    ("AnimateDiffSparse*", {"call": {"conditioning_frames": pictures(count=2), "controlnet_frame_indices": [0, 1]}}),
    ("TextToVideoZero*", {"parts": TEXT, "call": WORDS | {"video_length": 2, "t0": 1, "t1": 2}}),
    ("TextToVideoZeroSDXL*", {"parts": {"unet": SDXL_UNET, "tokenizer_2": {}, "text_encoder_2": {}}, "call": EMBEDDED}),
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
    # --- Kandinsky 2: a prior makes the embeddings of pictures that a decoder starts from
    ("Kandinsky[IPCV]*", {"parts": {"unet": KANDINSKY_UNET | {
        "out_channels": 8, "addition_embed_type": "text_image", "encoder_hid_dim_type": "text_image_proj",
        "encoder_hid_dim": WIDTH, "cross_attention_dim": WIDTH,
    }, "scheduler": {"of": "DDIMScheduler"}}, "call": {
        "prompt": words(), "image_embeds": normal(WIDTH, salt=3), "negative_image_embeds": normal(WIDTH, salt=4),
    }}),
    ("KandinskyV22*", {
        "parts": {"unet": {"addition_embed_type": "image", "encoder_hid_dim_type": "image_proj"},
                  "scheduler": {"of": "DDPMScheduler", "variance_type": "learned_range", "beta_schedule": "linear"}},
        "call": {"prompt": Value.absent},
    }),
    ("KandinskyV22Control*", {
        "parts": {"unet": {"in_channels": 8, "addition_embed_type": "image_hint"}},
        "call": {"hint": picture(64, salt=2), "output_type": "pt"},
    }),
    ("Kandinsky[IPCV]*", {"parts": TEXT}),
    ("Kandinsky[IPC]*", {"call": {"output_type": "pt"}}),
    ("Kandinsky*Prior*", {"parts": {"scheduler": {"of": "UnCLIPScheduler"}, "unet": {}}, "call": {
        "prompt": words(), "image_embeds": Value.absent, "negative_image_embeds": Value.absent, "output_type": "pt",
    }}),
    ("Kandinsky*Combined*", {
        "parts": {"prior_tokenizer": {}, "prior_text_encoder": {}, "prior_image_processor": {}}, "call": {
        "prompt": words(), "image_embeds": Value.absent, "negative_image_embeds": Value.absent,
        "prior_num_inference_steps": 2,
    }}),
    ("Kandinsky*Inpaint*", {"parts": {"unet": {"in_channels": 9}}}),
    ("Kandinsky3*", {"call": {"attention_mask": MASK, "negative_attention_mask": MASK}}),
    ("Kandinsky3Pipeline", {"size": 64}),
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
    # --- Wuerstchen and Stable Cascade
    ("StableCascade*", {"call": {
        "prompt_embeds": normal(1, 8), "negative_prompt_embeds": normal(1, 8, salt=5), "prompt_embeds_pooled": ONE_POOLED,
        "negative_prompt_embeds_pooled": NEGATIVE_ONE_POOLED,
    }}),
    ("StableCascade* Wuerstchen*Prior* WuerstchenCombined*", {"parts": {"text_encoder": ENCODER}}),
    ("StableCascadeCombined* WuerstchenCombined*", {
        "parts": {"prior_text_encoder": ENCODER}, "call": {"prior_num_inference_steps": 3},
    }),
    ("StableCascade* WuerstchenCombined*", {"size": 128}),
    ("StableCascadePrior*", {"parts": {"prior": {"clip_image_in_channels": WIDTH, "clip_text_in_channels": 8}}}),
    ("StableCascadeCombined*", {"parts": {"prior_prior": {"clip_image_in_channels": WIDTH, "clip_text_in_channels": 8}}}),
    ("WuerstchenDecoder* WuerstchenCombined*", {"parts": {"latent_dim_scale": 4.0}}),
    ("StableCascade*Decoder* WuerstchenDecoder*", {"call": {"image_embeddings": normal(4, 2, 2, salt=3)}}),
    ("WuerstchenDecoder*", {"call": {"prompt": words()}}),
    ("Wuerstchen*", {"parts": TEXT}),
    # --- DeepFloyd IF: pixels, and channels of a learned variance
    ("IF*", {"parts": {
        "unet": KANDINSKY_UNET | {"in_channels": 3, "out_channels": 6, "sample_size": SIZE, "encoder_hid_dim": WIDTH},
        "scheduler": {"variance_type": "learned_range", "beta_schedule": "squaredcos_cap_v2", "thresholding": True,
                      "dynamic_thresholding_ratio": 0.95, "sample_max_value": 1.5, "prediction_type": "epsilon"},
        "watermarker": None,
    }, "call": {"output_type": "pt"}}),
    ("IF*SuperResolution*", {"parts": {
        "unet": {"in_channels": 6, "class_embed_type": "timestep"}, "image_noising_scheduler": {},
    }}),
    ("IF*2ImgSuper* IFInpaintingSuper*", {"call": {"original_image": picture(SIZE, salt=3)}}),
    # --- without text
    ("LDMPipeline", {"parts": {"unet": {"in_channels": 4, "out_channels": 4}}, "call": {"output_type": "np"}}),
    ("LDMSuper*", {"parts": {"unet": {"in_channels": 6}, "vqvae": {"latent_channels": 3}}}),
    ("LDMText*", {"parts": {
        "vqvae": {}, "unet": {"of": "UNet2DConditionModel"}, "bert": {"of": "CLIPTextModel", "max_position_embeddings": 80},
        "tokenizer": {"of": "CLIPTokenizer"},
    }, "call": WORDS}),
    ("LDM*", {"call": {"output_type": "np"}}),
    ("DanceDiffusion*", {"parts": {"scheduler": {"of": "IPNDMScheduler"}}}),
    ("KarrasVe* ScoreSdeVe* PNDM* Consistency* RePaint*", {"call": {"output_type": "np"}}),
    ("RePaint*", {"call": {"jump_length": 2, "jump_n_sample": 2}}),
    # --- other transformers
    ("ZImage*", {"size": 32, "call": {
        "prompt_embeds": LISTED, "negative_prompt_embeds": NEGATIVE_LISTED,
    }, "parts": {"vae": {"shift_factor": 0.1}}}),
    ("ZImageOmni*", {"parts": {"siglip": None, "siglip_processor": None}, "call": {
        "image": Value.absent, "prompt_embeds": NESTED, "negative_prompt_embeds": NEGATIVE_NESTED,
    }}),
    ("ZImageControlNetInpaint*", {"parts": {"controlnet": {"control_in_dim": 9}}}),
    ("HiDream*", {"after": {"sizes": lambda pipe: setattr(pipe, "default_sample_size", SIZE // 2)}}),
    ("HiDream*", {"call": {
        "prompt_embeds_t5": EMBEDS, "negative_prompt_embeds_t5": NEGATIVE,
        "prompt_embeds_llama3": LAYERS, "negative_prompt_embeds_llama3": NEGATIVE_LAYERS,
        "pooled_prompt_embeds": normal(16, salt=2), "negative_pooled_prompt_embeds": normal(16, salt=6),
    }}),
    ("LongCatImagePipeline", {"parts": TEXT | {"text_encoder": ENCODER}, "call": WORDS | {"enable_prompt_rewrite": False}}),
    ("PRXPixel*", {"parts": {"transformer": {"in_channels": 3}}, "call": {"output_type": "pt"}}),
    ("PRX*", {"call": {"prompt_attention_mask": BOOLS, "negative_prompt_attention_mask": BOOLS}}),
    ("HunyuanImage*", {"size": 32}),
    ("HunyuanImageRefiner*", {"parts": {"transformer": {
        "in_channels": 16, "out_channels": 8, "text_embed_2_dim": None, "patch_size": (1, 1, 1), "rope_axes_dim": (2, 2, 4),
    }}}),
    ("HunyuanVideo15*", {"parts": {"transformer": {"patch_size": 1}}}),
    ("EasyAnimateControl*", {"parts": {"transformer": {"in_channels": 8}}, "call": {"control_video": frames()}}),
    ("EasyAnimateInpaint*", {"after": {  # it reads a field that the class of its autoencoder does not have
        "cache": lambda pipe: pipe.vae.register_to_config(cache_mag_vae=False),
    }}),
    ("EasyAnimateInpaint*", {"parts": {"transformer": {"in_channels": 9}}, "call": {"video": VIDEO, "mask_video": MASKED}}),
    ("QwenImage21*", {"parts": {"processor": Processor}, "call": {"image": Value.absent}}),
    
    # --- older ones
    ("Semantic*", {"parts": TEXT, "call": WORDS | {"editing_prompt": ["b"], "edit_warmup_steps": 1}}),
    ("StableUnCLIP*", {"parts": {
        "unet": {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2 * WIDTH},
        "scheduler": {"of": "DDIMScheduler"}, "image_noising_scheduler": {},
    }}),
    ("StableUnCLIPPipeline", {"parts": TEXT | {
        "prior_tokenizer": {}, "prior_text_encoder": {}, "prior_scheduler": {"of": "DDPMScheduler"},
    }, "call": WORDS | {"prior_num_inference_steps": 2}}),
    ("StableUnCLIPImg2Img*", {"call": {"image": Value.absent, "image_embeds": normal(WIDTH, salt=3)}}),
    ("UnCLIP*", {"parts": TEXT | {
        "decoder": KANDINSKY_UNET | {
            "out_channels": 6, "in_channels": 3, "encoder_hid_dim": WIDTH, "class_embed_type": "identity",
        },
        "super_res_first": RESNET_UNET, "super_res_last": RESNET_UNET,
        "decoder_scheduler": {"variance_type": "learned_range"}, "prior_scheduler": {"prediction_type": "sample"},
    }, "call": {
        "prompt": words(), "output_type": "pt", "prior_num_inference_steps": 2, "decoder_num_inference_steps": 3,
        "super_res_num_inference_steps": 2,
    }}),
    ("UnCLIPImageVariation*", {"parts": VISION, "call": {
        "prompt": Value.absent, "image": pictures(), "prior_num_inference_steps": Value.absent,
    }}),
    ("Versatile*Dual* Versatile*Text*", {"parts": TEXT}),
    ("VersatileDiffusionTextToImage*", {"call": WORDS}),
    ("VersatileDiffusionImageVariation*", {"parts": {"image_feature_extractor": {}}, "call": {"image": pictures()}}),
    ("VersatileDiffusionDual*", {
        "parts": {"image_feature_extractor": {}}, "call": {"prompt": words(), "image": pictures()},
    }),
    ("Versatile*", {"call": {"output_type": "np"}}),
    ("PaintByExample*", {
        "parts": {"unet": {"in_channels": 9}, "feature_extractor": {"of": "CLIPImageProcessorPil"}},
        "call": {"example_image": pictures()},
    }),
    ("VQDiffusion*", {"parts": TEXT | {"scheduler": {"num_vec_classes": 17}}, "call": WORDS | {"output_type": "pt"}}),
    ("CycleDiffusion*", {"parts": TEXT | {"scheduler": {"of": "DDIMScheduler"}}, "call": WORDS | {
        "source_prompt": words("bcd"), "guidance_scale": 2.0, "eta": 0.1,
    }}),
    ("AltDiffusion*", {"parts": {"scheduler": {"of": "PNDMScheduler"}}}),
    ("I2VGenXL*", {"parts": VISION, "call": {"image": pictures(), "num_frames": 2}}),
    ("PIA*", {"parts": {"motion_adapter": {"conv_in_channels": 9}, "unet": {"in_channels": 4}}}),
    ("Marigold*", {
        "parts": {"unet": {"in_channels": 8}}, "call": {"processing_resolution": 0, "match_input_resolution": False,
        "output_type": "pt"},
    }),
    ("Marigold*", {"parts": TEXT}),
    ("MarigoldIntrinsics*", {"parts": {
        "target_properties": lambda: {"target_names": ["albedo"], "albedo": {"prediction_space": "srgb"}},
    }}),
    ("Amused*", {"parts": TEXT, "call": WORDS}),
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
    ("Krea2*", {"call": {
        "prompt_embeds_mask": BOOLS, "negative_prompt_embeds_mask": BOOLS,
        "prompt_embeds": normal(TOKENS, 2, WIDTH), "negative_prompt_embeds": normal(TOKENS, 2, WIDTH, salt=5),
    }}),
    ("Motif*", {"parts": {"scheduler": {"of": "FlowMatchEulerDiscreteScheduler"}}}),
    ("MotifVideoImage2*", {"call": {"prompt": None, "image": pictures()}}),
    ("HunyuanVideo15Image*", {"parts": VISION | {"transformer": {"task_type": "i2v"}}, "call": {"image": pictures()}}),
    ("HunyuanVideoFramepack*", {"parts": VISION, "call": {"latent_window_size": 2, "num_frames": 9, "output_type": "pt"}}),
    ("UniDiffuser*", {"call": {"prompt": Value.absent, "image": Value.absent, "output_type": "pt"}, "parts": {
        "text_encoder": {}, "image_encoder": {}, "clip_image_processor": None, "scheduler": {"of": "DPMSolverMultistepScheduler"},
    }}),
    ("ShapE*", {"parts": {"prior": {"embedding_proj_norm_type": None, "encoder_hid_proj_type": None,
        "added_emb_type": None, "embedding_proj_dim": WIDTH, "additional_embeddings": 0, "time_embed_dim": 8,
        "clip_embed_dim": 2 * WIDTH}, "scheduler": {"prediction_type": "sample", "beta_schedule": "exp", "use_karras_sigmas": True}}}),
    ("ShapEPipeline", {"parts": TEXT, "call": WORDS}),
    ("LEdits*", {"parts": TEXT | {"scheduler": {"of": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_order": 2}}, "call": {
        "editing_prompt": ["b"], "edit_warmup_steps": 1}, "after": {"inverted": inverted}}),
    ("LEdits*", {"parts": {"vae": VAE_OF_8, "unet": THREE_LEVELS}}),
    ("LEdits*XL", {"call": {"negative_prompt_embeds": Value.absent, "negative_pooled_prompt_embeds": Value.absent}, "parts": {"unet": SDXL_UNET | {"cross_attention_dim": 2 * WIDTH}, "tokenizer_2": {}, "text_encoder_2": {}}}),
    ("BriaFibo*", {"parts": {"tokenizer": {"of": "AutoTokenizer"}, "text_encoder": ENCODER | {"vocab_size": 128001}}, "call": WORDS}),
    ("BriaFiboEdit*", {"call": {"image": pictures(), "_auto_resize": False, "prompt": '{"edit_instruction": "b"}'}}),
    ("BriaFibo2*", {"call": EMBEDDED | {"image": Value.absent, "prompt_embeds": normal(2, TOKENS, WIDTH),
        "negative_prompt_embeds": normal(2, TOKENS, WIDTH, salt=5), "prompt_embeds_mask": BOOLS, "negative_prompt_embeds_mask": BOOLS}}),
    ("HeliosPipeline", {"parts": {"scheduler": {"stages": 1, "stage_range": [0, 1]}}}),
    ("HeliosPyramid*", {"size": 64, "parts": {"scheduler": {"gamma": 0.3}}}),
    ("Helios*", {"call": {"video": Value.absent, "image": Value.absent, "history_sizes": [4, 2, 1], "num_latent_frames_per_chunk": 2}}),
    ("AnyFlow*", {"call": {"video": Value.absent}}),
    ("DreamLite*", {"parts": TEXT | {"text_encoder": ENCODER}, "call": WORDS | {"image": Value.absent}}),
    ("ChronoEdit*", {"parts": {"image_processor": {}}}),
    ("WanAnimate*", {"parts": {
        "image_processor": {}, "transformer": {},
        "vae": {"temperal_downsample": [True, True], "scale_factor_temporal": 4},
    }, "call": {
        "image": pictures(), "pose_video": pictures(count=FRAMES, salt=2), "face_video": pictures(count=FRAMES, salt=3),
        "segment_frame_length": FRAMES,
    }}),
    ("StableAudio3*", {"call": {"duration": 1.0, "encoder_attention_mask": MASK, "negative_encoder_attention_mask": MASK}}),
    ("StableAudio3AudioToAudio* StableAudio3Inpaint*", {"call": {"audio": normal(2, 16, salt=3), "negative_encoder_attention_mask": Value.absent}}),
    ("StableAudio3Inpaint*", {"call": {"mask_start_seconds": 0.25, "mask_end_seconds": 0.75}}),
    ("LongCatAudio*", {"parts": {"tokenizer": {"of": "AutoTokenizer"}, "text_encoder": {}}, "call": {"prompt": words(), "audio_duration_s": 1.0, "output_type": "pt"}}),
    ("AceStep*", {"parts": {"tokenizer": {"of": "AutoTokenizer"}, "text_encoder": ENCODER}, "call": {"prompt": words(), "lyrics": "b", "audio_duration": 2.0}}),
    ("Glm*", {"call": {"prior_token_ids": Value(lambda row, dtype: torch.arange(16)[None] % 15 + row), "image": Value.absent}}),
    ("Kandinsky6TI2VA*", {"call": {"sample_audio": False, "image": Value.absent}}),
    ("Glm*", {"parts": {"vision_language_encoder": None}}),
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
    ("JoyImageEditPipeline", {"size": 32, "call": {"image": pictures(32)}}),
    ("Joy*", {"patch": {"diffusers.pipelines.joyimage.image_processor.find_best_bucket": lambda *sizes: (32, 32)}}),
]  # fmt: skip
