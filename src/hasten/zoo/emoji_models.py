"""The parts of the emoji models, untrained: autoencoder, captions to tokens to vectors, denoising U-Net, scheduler."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def autoencoder(width: int = 32) -> Any:
    """An `AutoencoderTiny` from 3x64x64 to 4x16x16."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(width,) * 3,
        decoder_block_out_channels=(width,) * 3,
        num_encoder_blocks=(1, 3, 3),
        num_decoder_blocks=(3, 3, 1),
        latent_channels=4,
    )


def tokenizer(captions: Iterable[str], size: int = 3072, length: int = 24) -> Any:
    """A `CLIPTokenizer` with its own byte-pair vocabulary, learned from `captions`."""
    import json

    from tokenizers.trainers import BpeTrainer
    from transformers import CLIPTokenizer

    special = ["<|startoftext|>", "<|endoftext|>"]
    learner = CLIPTokenizer().backend_tokenizer
    learner.train_from_iterator(
        captions,
        BpeTrainer(vocab_size=size, special_tokens=special, end_of_word_suffix="</w>", show_progress=False),
    )
    model = json.loads(learner.to_str())["model"]
    merges: Any = [tuple(merge) for merge in model["merges"]]
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=length)


def text_encoder(words: Any, hidden: int = 128) -> Any:
    """A `CLIPTextModel` of two layers for the tokenizer `words`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=hidden,
            intermediate_size=4 * hidden,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=words.model_max_length,
            projection_dim=hidden,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )


def unet(channels: tuple[int, int, int] = (64, 128, 160), hidden: int = 128) -> Any:
    """A `UNet2DConditionModel` for 4x16x16 latents with cross-attention at the two lower resolutions."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=hidden,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def scheduler() -> Any:
    """The scheduler Stable Diffusion 1.5 ships with."""
    from diffusers import PNDMScheduler

    return PNDMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type="epsilon",
    )


def stable_diffusion(vae: Any, words: Any, encoder: Any, network: Any) -> Any:
    """The parts as a `StableDiffusionPipeline` without a safety checker."""
    from diffusers import StableDiffusionPipeline

    without: dict[str, Any] = {"safety_checker": None, "feature_extractor": None}
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=words,
        unet=network,
        scheduler=scheduler(),
        **without,
        requires_safety_checker=False,
    )
