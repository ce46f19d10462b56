"""What is special about pipelines, by patterns of class names: components, call arguments; later rules win.

A component is {} for one as the tables have it, {"of": class, field: value} for another class or config, None, or what
makes it. `after` is a table of functions of the pipeline.
"""

from __future__ import annotations

from typing import Any

import torch

from every.arguments import FRAMES, SIZE, TOKENS, WIDTH, Value, frames, half, normal, ones, picture, pictures, words

TEXT = {"tokenizer": {}, "text_encoder": {}}
VISION = {"image_encoder": {}, "feature_extractor": {}}
WORDS = {"prompt": words(), "prompt_embeds": Value.absent, "negative_prompt_embeds": Value.absent}
BOOLS = ones(TOKENS, dtype=torch.bool)
EULER = {"of": "EulerDiscreteScheduler"}
SDXL_UNET = {
    "addition_embed_type": "text_time", "addition_time_embed_dim": 4, "transformer_layers_per_block": 1,
    "projection_class_embeddings_input_dim": 4 * 6 + WIDTH, "use_linear_projection": True,
}  # fmt: skip

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
    ("Chroma*", {"parts": {"vae": {"latent_channels": 1, "shift_factor": 0.1}}}),
    ("ChromaPipeline", {"call": {"prompt_attention_mask": BOOLS, "negative_prompt_attention_mask": BOOLS}}),
    ("ChromaInpaint*", {"after": {  # it reads a field that the class of its network does not have
        "guidance": lambda pipe: pipe.transformer.register_to_config(guidance_embeds=False),
    }}),
    ("BriaPipeline", {"parts": {"vae": {"latent_channels": 1}}}),
    # --- transformers of captions
    ("PixArt* HunyuanDiT* Latte*", {"call": {"negative_prompt": None}}),
    ("PixArt*", {"parts": {"scheduler": {"of": "DPMSolverMultistepScheduler"}}}),
    ("Latte*", {"parts": {"scheduler": {"of": "DDIMScheduler"}}, "call": {"video_length": 2}}),
    ("Sana*", {"size": 32}),
    ("SanaPipeline SanaControlNet*", {"parts": {"scheduler": {
        "of": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, "prediction_type": "flow_prediction",
        "flow_shift": 3.0,
    }}}),
    ("SanaSprint*", {"parts": {"scheduler": {"of": "SCMScheduler"}, "transformer": {"guidance_embeds": True}}}),
    ("Lumina*", {"size": 64}),
    ("CogView4Control*", {"parts": {"transformer": {"in_channels": 8}}}),
    ("DiT*", {"call": {"class_labels": [3], "output_type": "np"}}),
    ("LatentConsistency*", {"parts": {"unet": {"time_cond_proj_dim": 8}}}),
    # --- Qwen
    ("Qwen*", {"size": 32, "parts": {"scheduler": {"use_dynamic_shifting": True}}}),
    ("QwenImageEdit* QwenImageLayered*", {
        "call": {"image": pictures(32)},
        "patch": {
            f"diffusers.pipelines.qwenimage.pipeline_qwenimage_{kind}.calculate_dimensions": lambda area, ratio, few=few: few
            for kind, few in (("edit", (32, 32, 1)), ("edit_inpaint", (32, 32, 1)), ("edit_plus", (32, 32)),
                              ("layered", (32, 32)))
        },
    }),
    # --- video
    ("AnimateDiff*", {"parts": {"scheduler": {"of": "DDIMScheduler"}}}),
    ("AnimateDiffSDXL*", {"parts": {"unet": SDXL_UNET}}),
    ("AnimateDiffControlNet*", {"call": {"conditioning_frames": pictures(count=FRAMES)}}),
    ("AnimateDiffVideoToVideo*", {"call": {"video": pictures(count=FRAMES)}}),
    ("AnimateDiffVideoToVideoControlNet*", {"call": {"conditioning_frames": pictures(count=FRAMES, salt=2)}}),
    ("AnimateDiffSparse*", {"call": {"conditioning_frames": pictures(count=2), "controlnet_frame_indices": [0, 3]}}),
    ("TextToVideoZero*", {"parts": TEXT | {"tokenizer_2": {}, "text_encoder_2": {}}, "call": {"video_length": 2}}),
    ("TextToVideoZeroSDXL*", {"parts": {"unet": SDXL_UNET}}),
    ("StableVideoDiffusion*", {"call": {"decode_chunk_size": 2, "num_frames": 2}, "parts": {"scheduler": {
        "prediction_type": "v_prediction", "timestep_type": "continuous", "timestep_spacing": "leading",
        "use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 700.0, "interpolation_type": "linear",
    }}}),
    ("Kandinsky*", {"parts": {"movq": {}}}),
]  # fmt: skip
