"""The parts of the emoji models, untrained: autoencoder, captions to tokens to vectors, denoisers, schedulers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

FLUX_CALL = {"height": 64, "width": 64, "max_sequence_length": 32}
"""What a call of the emoji Flux needs: `FluxPipeline` has no place to keep a model's own picture size."""


def autoencoder(width: int = 32) -> Any:
    """An `AutoencoderTiny` from 3x64x64 to 4x16x16.

    width: channels of every block.
    """
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(width,) * 3,
        decoder_block_out_channels=(width,) * 3,
        num_encoder_blocks=(1, 3, 3),
        num_decoder_blocks=(3, 3, 1),
        latent_channels=4,
    )


def tokenizer(captions: Iterable[str], size: int = 3072, length: int = 24) -> Any:
    """A `CLIPTokenizer` with its own byte-pair vocabulary.

    captions: what it is learned from.
    size: of the vocabulary, at most.
    length: of a padded caption, in tokens.
    """
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
    """A `CLIPTextModel` of two layers.

    words: its tokenizer.
    hidden: its width.
    """
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
    """A `UNet2DConditionModel` for 4x16x16 latents with cross-attention at the two lower resolutions.

    channels: at each resolution.
    hidden: the width of the text encoder.
    """
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
    """The parts as a `StableDiffusionPipeline` without a safety checker.

    vae: the autoencoder.
    words: the tokenizer.
    encoder: the text encoder.
    network: the U-Net.
    """
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


def t5_tokenizer(captions: Iterable[str], size: int = 2048, length: int = 512) -> Any:
    """A `T5Tokenizer` with its own unigram vocabulary.

    captions: what it is learned from.
    size: of the vocabulary, at most.
    length: of a padded caption, in tokens, at most.
    """
    import json

    from tokenizers.trainers import UnigramTrainer
    from transformers import T5Tokenizer

    learner = T5Tokenizer(extra_ids=0).backend_tokenizer
    special = ["<pad>", "</s>", "<unk>"]
    learner.train_from_iterator(
        captions, UnigramTrainer(vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    vocab: Any = [tuple(piece) for piece in json.loads(learner.to_str())["model"]["vocab"]]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=length)


def t5_encoder(words: Any, hidden: int = 128) -> Any:
    """A `T5EncoderModel` of two layers.

    words: its tokenizer.
    hidden: its width.
    """
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(words),
            d_model=hidden,
            d_kv=hidden // 4,
            d_ff=4 * hidden,
            num_layers=2,
            num_heads=4,
            dropout_rate=0.0,
            pad_token_id=words.pad_token_id,
            eos_token_id=words.eos_token_id,
            use_cache=False,
        )
    )


def flux_transformer(width: int = 192, double: int = 3, single: int = 6, hidden: int = 128) -> Any:
    """A `FluxTransformer2DModel` for packed 4x16x16 latents (64 tokens of 16), heads of 32.

    Every block starts as the identity and the output at 0: the modulations that gate them start at 0
    (Peebles and Xie 2023, adaLN-Zero), without which a small run hardly learns.

    width: of a token.
    double: how many blocks keep text and picture apart.
    single: how many blocks treat them as one sequence.
    hidden: the width of the text encoders.
    """
    from diffusers import FluxTransformer2DModel
    from torch import nn

    network = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=32,
        num_attention_heads=width // 32,
        joint_attention_dim=hidden,
        pooled_projection_dim=hidden,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and (".norm" in name or name in ("norm_out.linear", "proj_out")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return network


def flow_scheduler() -> Any:
    """The scheduler FLUX.1-dev ships with."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def flux(vae: Any, clip: tuple[Any, Any], t5: tuple[Any, Any], network: Any) -> Any:
    """The parts as a `FluxPipeline`.

    vae: the autoencoder.
    clip: tokenizer and encoder.
    t5: tokenizer and encoder.
    network: the transformer.
    """
    from diffusers import FluxPipeline

    return FluxPipeline(
        scheduler=flow_scheduler(),
        vae=vae,
        text_encoder=clip[1],
        tokenizer=clip[0],
        text_encoder_2=t5[1],
        tokenizer_2=t5[0],
        transformer=network,
    )
