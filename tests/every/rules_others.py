"""What is special: Pipelines of several networks, of pixels, without text, and those that are no longer kept up."""

from __future__ import annotations

from typing import Any

from every.arguments import MASK, SIZE, WIDTH, Value, normal, picture, pictures, words
from every.pieces import (
    EMBEDDED,
    ENCODER,
    KANDINSKY_UNET,
    NEGATIVE_ONE_POOLED,
    ONE_POOLED,
    RESNET_UNET,
    SDXL_UNET,
    TEXT,
    VISION,
    WORDS,
)

OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("TextToVideoZero*", {"parts": TEXT, "call": WORDS | {"video_length": 2, "t0": 1, "t1": 2}}),
    ("TextToVideoZeroSDXL*", {"parts": {"unet": SDXL_UNET, "tokenizer_2": {}, "text_encoder_2": {}}, "call": EMBEDDED}),
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
    ("LDMPipeline", {"parts": {"unet": {"in_channels": 4, "out_channels": 4}}, "call": {"output_type": "np"}}),
    ("LDMSuper*", {"parts": {"unet": {"in_channels": 6}, "vqvae": {"latent_channels": 3}}}),
    ("LDMText*", {"parts": {
        "vqvae": {"of": "AutoencoderKL"}, "unet": {"of": "UNet2DConditionModel"}, "bert": {"of": "CLIPTextModel", "max_position_embeddings": 80},
        "tokenizer": {"of": "CLIPTokenizer"},
    }, "call": WORDS}),
    ("LDM*", {"call": {"output_type": "np"}}),
    ("DanceDiffusion*", {"parts": {"scheduler": {"of": "IPNDMScheduler"}}}),
    ("KarrasVe* ScoreSdeVe* PNDM* Consistency* RePaint*", {"call": {"output_type": "np"}}),
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
    ("VQDiffusion*", {"parts": TEXT | {"scheduler": {"num_vec_classes": 17}}, "call": WORDS | {"output_type": "pt"}}),
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
    ("UniDiffuser*", {"call": {"prompt": Value.absent, "image": Value.absent, "output_type": "pt"}, "parts": {
        "text_encoder": {}, "image_encoder": {}, "clip_image_processor": None, "scheduler": {"of": "DPMSolverMultistepScheduler"},
    }}),
    ("ShapE*", {"parts": {"prior": {"embedding_proj_norm_type": None, "encoder_hid_proj_type": None,
        "added_emb_type": None, "embedding_proj_dim": WIDTH, "additional_embeddings": 0, "time_embed_dim": 8,
        "clip_embed_dim": 2 * WIDTH}, "scheduler": {"prediction_type": "sample", "beta_schedule": "exp", "use_karras_sigmas": True}}}),
    ("ShapEPipeline", {"parts": TEXT, "call": WORDS}),
]  # fmt: skip
