"""What is special: Stable Diffusion of every version, and what is built on it."""

from __future__ import annotations

from typing import Any

import torch

from every.arguments import TOKENS, WIDTH, Value, half, normal, picture, pictures, words
from every.pieces import EULER, SDXL_UNET, TEXT, THREE_LEVELS, VAE_OF_8, VISION, WORDS


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


STABLE_DIFFUSION: list[tuple[str, dict[str, Any]]] = [
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
    ("StableDiffusionXL*", {"parts": {"unet": SDXL_UNET, "scheduler": EULER, "add_watermarker": False}}),
    ("StableDiffusionXLControlNet[!X]*", {"parts": {"controlnet": SDXL_UNET}}),
    ("StableDiffusionXLControlNetXS*", {"parts": {"controlnet": {"use_linear_projection": True}}}),
    ("StableDiffusionControlNetXS* StableDiffusionXLControlNetXS*", {"parts": {"unet": {"layers_per_block": 2}}}),
    ("StableDiffusionXLControlNetUnion*", {"call": {"control_mode": [0]}}),
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
    ("LatentConsistency*", {"parts": {"unet": {"time_cond_proj_dim": 8}}}),
    ("Semantic*", {"parts": TEXT, "call": WORDS | {"editing_prompt": ["b"], "edit_warmup_steps": 1}}),
    ("StableUnCLIP*", {"parts": {
        "unet": {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2 * WIDTH},
        "scheduler": {"of": "DDIMScheduler"}, "image_noising_scheduler": {},
    }}),
    ("StableUnCLIPPipeline", {"parts": TEXT | {
        "prior_tokenizer": {}, "prior_text_encoder": {}, "prior_scheduler": {"of": "DDPMScheduler"},
    }, "call": WORDS | {"prior_num_inference_steps": 2}}),
    ("StableUnCLIPImg2Img*", {"call": {"image": Value.absent, "image_embeds": normal(WIDTH, salt=3)}}),
    ("PaintByExample*", {
        "parts": {"unet": {"in_channels": 9}, "feature_extractor": {"of": "CLIPImageProcessorPil"}},
        "call": {"example_image": pictures()},
    }),
    ("CycleDiffusion*", {"parts": TEXT | {"scheduler": {"of": "DDIMScheduler"}}, "call": WORDS | {
        "source_prompt": words("bcd"), "guidance_scale": 2.0, "eta": 0.1,
    }}),
    ("AltDiffusion*", {"parts": {"scheduler": {"of": "PNDMScheduler"}}}),
    ("LEdits*", {"parts": TEXT | {"scheduler": {"of": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_order": 2}}, "call": {
        "editing_prompt": ["b"], "edit_warmup_steps": 1}, "after": {"inverted": inverted}}),
    ("LEdits*", {"parts": {"vae": VAE_OF_8, "unet": THREE_LEVELS}}),
    ("LEdits*XL", {"call": {"negative_prompt_embeds": Value.absent, "negative_pooled_prompt_embeds": Value.absent}, "parts": {"unet": SDXL_UNET | {"cross_attention_dim": 2 * WIDTH}, "tokenizer_2": {}, "text_encoder_2": {}}}),
]  # fmt: skip
