"""Tiny diffusers pipelines with random weights, always the same ones: `make(kind)` builds, `call(pipe)` runs.

Every denoising network has cross-attention; the U-Nets have two resolutions, so that caches have deep parts.
Prompts are embeddings, drawn for a prompt's number, so that only "sd" needs a tokenizer and a text encoder: it
also takes prompts of the letters a to z, and can be saved and loaded.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor

SIZE = 16  # pixels; latents are 8 x 8
WIDTH = 8  # of prompt embeddings
TOKENS = 5

SD15_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "skip_prk_steps": True,
}


def make(kind: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A pipeline of one of the `KINDS`."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        pipe = _BUILDERS[kind]()
        if dtype != torch.float32:
            pipe.to(dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(pipe: Any, steps: int = 4, generator: Any = None, images: int = 1, prompts: int = 1, **more: Any) -> Tensor:
    """The final latents. images: how many a prompt. generator: one, one an image, or None for seed 0.

    `more` goes to the pipeline as it is.
    """
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    filled = arguments(getattr(pipe, "pipe", pipe), prompts)  # an accelerated pipeline holds its own
    if hasattr(pipe, "transformer") and "negative_prompt" not in filled:  # SD3 and Flux do not repeat embeddings
        filled = {k: v.repeat_interleave(images, 0) if k.endswith("embeds") else v for k, v in filled.items()}
        images = 1
    filled |= {"num_inference_steps": steps, "generator": generator, "num_images_per_prompt": images}
    return pipe(**filled | {"output_type": "latent"} | more).images


def arguments(pipe: Any, prompts: int = 1) -> dict[str, Any]:
    """What a pipeline must be called with, but for steps and generator."""
    network = getattr(pipe, "unet", None) or pipe.transformer
    takes = inspect.signature(pipe.__call__).parameters
    dtype = network.dtype
    filled: dict[str, Any] = {"prompt_embeds": _rows(prompts, TOKENS, _embed_width(network), dtype=dtype)}
    if "negative_prompt_embeds" in takes and not isinstance(pipe, diffusers.FluxPipeline):
        filled["negative_prompt_embeds"] = torch.zeros_like(filled["prompt_embeds"])
    if "pooled_prompt_embeds" in takes:
        filled["pooled_prompt_embeds"] = _rows(prompts, WIDTH, dtype=dtype)
        if "negative_prompt_embeds" in filled:
            filled["negative_pooled_prompt_embeds"] = torch.zeros_like(filled["pooled_prompt_embeds"])
    if "prompt_attention_mask" in takes:
        filled["prompt_attention_mask"] = torch.ones(prompts, TOKENS)
        filled["negative_prompt_attention_mask"] = torch.ones(prompts, TOKENS)
        filled |= {"use_resolution_binning": False, "negative_prompt": None}
    if "image" in takes:
        filled["image"] = _rows(1, 3, SIZE, SIZE).sigmoid().repeat(prompts, 1, 1, 1)
    if "mask_image" in takes:
        mask = torch.zeros(1, 1, SIZE, SIZE)
        mask[..., : SIZE // 2] = 1
        filled["mask_image"] = mask.repeat(prompts, 1, 1, 1)
    if "height" in takes:
        filled |= {"height": SIZE, "width": SIZE}
    return filled


def _embed_width(network: Any) -> int:
    config = network.config
    for field in ("cross_attention_dim", "joint_attention_dim"):
        if field in config and "caption_channels" not in config:
            return config[field]
    return config["caption_channels"]


def _rows(rows: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Row i is always the same numbers, however many rows there are."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(rows)]).to(dtype)


def _unet(**more: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        sample_size=SIZE // 2, in_channels=4, out_channels=4, block_out_channels=(4, 8), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=2,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=WIDTH,
        **{"attention_head_dim": 2} | more,
    ).eval()  # fmt: skip


def _vae(channels: int = 4, **more: Any) -> Any:
    return diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, block_out_channels=(4, 4), layers_per_block=1, norm_num_groups=2,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels, **more,
    ).eval()  # fmt: skip


def _stable_diffusion(pipeline: Any, **parts: Any) -> Any:
    return pipeline(
        vae=_vae(), unet=_unet(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        scheduler=diffusers.PNDMScheduler(**SD15_SCHEDULER), **{"text_encoder": None, "tokenizer": None} | parts,
    )  # fmt: skip


def _text_to_image() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [letter + end for end in ("", "</w>") for letter in "abcdefghijklmnopqrstuvwxyz"]
    words = [*letters, "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer({word: i for i, word in enumerate(words)}, [], model_max_length=TOKENS)
    encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(words), hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=TOKENS, bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1, projection_dim=WIDTH,
    ))  # fmt: skip
    return _stable_diffusion(diffusers.StableDiffusionPipeline, text_encoder=encoder.eval(), tokenizer=tokenizer)


def _controlnet() -> Any:
    net = diffusers.ControlNetModel(
        in_channels=4, block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=2, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=WIDTH,
        conditioning_embedding_out_channels=(4, 4),
    )  # fmt: skip
    for layer in [*net.controlnet_down_blocks, net.controlnet_mid_block]:
        torch.nn.init.normal_(layer.weight)  # zero as they come, and then nothing is controlled
    return _stable_diffusion(diffusers.StableDiffusionControlNetPipeline, controlnet=net.eval())


def _sdxl() -> Any:
    unet = _unet(
        addition_embed_type="text_time", addition_time_embed_dim=4, transformer_layers_per_block=1,
        projection_class_embeddings_input_dim=4 * 6 + WIDTH, use_linear_projection=True,
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae(), unet=unet, text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None,
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
            timestep_spacing="leading",
        ),
        add_watermarker=False,
    )  # fmt: skip


def _sd3() -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=SIZE // 2, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=4,
        num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=8, pooled_projection_dim=WIDTH,
        pos_embed_max_size=8,
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer.eval(), scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, text_encoder_3=None,
        tokenizer_3=None,
    )  # fmt: skip


def _flux() -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(2, 2, 4),
        guidance_embeds=True,
    )  # fmt: skip
    return diffusers.FluxPipeline(
        transformer=transformer.eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(channels=1, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
    )  # fmt: skip


def _pixart() -> Any:
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=SIZE // 2, patch_size=2, in_channels=4, out_channels=8, num_layers=2, attention_head_dim=4,
        num_attention_heads=2, cross_attention_dim=8, caption_channels=WIDTH, norm_num_groups=1,
        use_additional_conditions=False,
    )  # fmt: skip
    return diffusers.PixArtSigmaPipeline(
        vae=_vae(), transformer=transformer.eval(), text_encoder=None, tokenizer=None,
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    )  # fmt: skip


_BUILDERS: dict[str, Callable[[], Any]] = {
    "sd": _text_to_image,
    "img2img": lambda: _stable_diffusion(diffusers.StableDiffusionImg2ImgPipeline),
    "inpaint": lambda: _stable_diffusion(diffusers.StableDiffusionInpaintPipeline),
    "controlnet": _controlnet,
    "sdxl": _sdxl,
    "sd3": _sd3,
    "flux": _flux,
    "pixart": _pixart,
}
KINDS = tuple(_BUILDERS)
