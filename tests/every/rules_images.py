"""What is special: The other pipelines that make pictures."""

from __future__ import annotations

from typing import Any

import torch

from every.arguments import EMBEDS, NEGATIVE, SIZE, TOKENS, WIDTH, Value, normal, pictures, words
from every.encoders import Processor
from every.pieces import (
    BOOLS,
    EMBEDDED,
    ENCODER,
    EXAMPLES,
    LAYERS,
    LISTED,
    NEGATIVE_LAYERS,
    NEGATIVE_LISTED,
    NEGATIVE_NESTED,
    NESTED,
    TEXT,
    WORDS,
)

IMAGES: list[tuple[str, dict[str, Any]]] = [
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
    ("PixArt*", {"parts": {"scheduler": {"of": "DPMSolverMultistepScheduler"}}}),
    ("Sana*", {"size": 32}),
    ("SanaPipeline SanaControlNet*", {"parts": {"scheduler": {
        "of": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, "prediction_type": "flow_prediction",
        "flow_shift": 3.0,
    }}}),
    ("SanaSprint*", {"parts": {"scheduler": {"of": "SCMScheduler"}, "transformer": {"guidance_embeds": True}},
                      "call": {"intermediate_timesteps": None}}),
    ("Lumina*", {"size": 64}),
    ("CogView4Control*", {"parts": {"transformer": {"in_channels": 8}}}),
    ("DiT*", {"call": {"class_labels": Value(lambda row, dtype: torch.tensor([row + 3])), "output_type": "np"}}),
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
    ("RePaint*", {"call": {"jump_length": 2, "jump_n_sample": 2}}),
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
    ("QwenImage21*", {"parts": {"processor": Processor}, "call": {"image": Value.absent}}),
    ("Krea2*", {"call": {
        "prompt_embeds_mask": BOOLS, "negative_prompt_embeds_mask": BOOLS,
        "prompt_embeds": normal(TOKENS, 2, WIDTH), "negative_prompt_embeds": normal(TOKENS, 2, WIDTH, salt=5),
    }}),
    ("BriaFibo*", {"parts": {"tokenizer": {"of": "AutoTokenizer"}, "text_encoder": ENCODER | {"vocab_size": 128001}}, "call": WORDS}),
    ("BriaFiboEdit*", {"call": {"image": pictures(), "_auto_resize": False, "prompt": '{"edit_instruction": "b"}'}}),
    ("BriaFibo2*", {"call": EMBEDDED | {"image": Value.absent, "prompt_embeds": normal(2, TOKENS, WIDTH),
        "negative_prompt_embeds": normal(2, TOKENS, WIDTH, salt=5), "prompt_embeds_mask": BOOLS, "negative_prompt_embeds_mask": BOOLS}}),
    ("DreamLite*", {"parts": TEXT | {"text_encoder": ENCODER}, "call": WORDS | {"image": Value.absent}}),
    ("Glm*", {"call": {"prior_token_ids": Value(lambda row, dtype: torch.arange(16)[None] % 15 + row), "image": Value.absent}}),
    ("Glm*", {"parts": {"vision_language_encoder": None}}),
    ("JoyImageEditPipeline", {"size": 32, "call": {"image": pictures(32)}}),
    ("Joy*", {"patch": {"diffusers.pipelines.joyimage.image_processor.find_best_bucket": lambda *sizes: (32, 32)}}),
]  # fmt: skip
