"""What is special about pipelines, by patterns of class names: components, call arguments; later rules win.

A component is {} for one as the tables have it, {"of": class, field: value} for another class or config, None, or what
makes it. `after` is a table of functions of the pipeline.
"""

from __future__ import annotations

from typing import Any

from every.arguments import SIZE, TOKENS, WIDTH, Value, half, normal, picture, words

TEXT = {"tokenizer": {}, "text_encoder": {}}
VISION = {"image_encoder": {}, "feature_extractor": {}}
WORDS = {"prompt": words(), "prompt_embeds": Value.absent, "negative_prompt_embeds": Value.absent}
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
        "parts": {"unet": {"in_channels": 8, "time_cond_proj_dim": 128 + WIDTH}, "scheduler": EULER},
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
]  # fmt: skip
