"""How the models of the zoo are trained: one function a model, all of them over one Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.processes import from_config
from hasten.runtime.adapters import Adapted
from hasten.train import (
    Captions,
    Denoising,
    FlowMatching,
    Labels,
    PooledCaptions,
    Reconstruction,
    Trainer,
)
from hasten.train.pictures import grid
from hasten.zoo import WEIGHTS
from hasten.zoo_training import emoji, emoji_models
from hasten.zoo_training.export import finish, sample_captions, split_prompts
from hasten.zoo_training.tensors import encode, reconstruct, to_pil, tokens


@dataclass(frozen=True)
class Plan:
    """What a user may choose about a training run; None means the model's own default.

    out: folder of the run.
    data: folder of the npm packages with the emoji, fetched if they are not there.
    steps: of training.
    names: how many emoji names to train on.
    vae: folder of the autoencoder.
    resume: go on with a run that was stopped.
    copies: varied copies of each picture beside it (see `emoji.varied`): 3 with a GPU, none without.
    fast: compile the network first (minutes at the start, about 10 % faster steps on a CPU).
    """

    out: Path
    data: Path | None = None
    steps: int | None = None
    names: int | None = None
    vae: Path | None = None
    resume: bool = True
    copies: int | None = None
    fast: bool = False

    @property
    def variants(self) -> int:
        """How many varied copies of each picture."""
        default = 3 if torch.cuda.is_available() else 0
        return default if self.copies is None else self.copies

    def steps_or(self, default: int) -> int:
        """The steps that were chosen, or else the model's own."""
        return default if self.steps is None else self.steps


def train_emoji_vae(plan: Plan) -> Path:
    """Train the autoencoder on everything that is not held out; returns the exported folder."""
    pictures = emoji.emojis(plan.data)
    torch.manual_seed(0)
    model = emoji_models.autoencoder()
    unseen = emoji.images([e for e in pictures if e.held_out][::9][:32])

    def draw(objective: Any) -> Any:
        images = unseen.to(objective.autoencoder.device)
        shown = torch.cat([images, reconstruct(objective.autoencoder, images)])
        return grid(to_pil(shown), columns=16)

    trainer = Trainer(
        objective=Reconstruction(model),
        data={"sample": emoji.images([e for e in pictures if not e.held_out])},
        folder=plan.out,
        steps=plan.steps_or(5000),
        batch=32,
        lr=2e-3,
        decay=0.6,
        bf16=True,
        save_every=250,
        draw_every=500,
        draw=draw,
    )
    averaged: Any = trainer.run(plan.resume)
    return finish(trainer, averaged.autoencoder)


def train_emoji_sd(plan: Plan) -> Path:
    """Train text encoder and U-Net together on cached latents; returns the exported pipeline's folder."""
    data = EmojiData.of(plan)
    words = emoji_models.tokenizer(data.vocabulary)
    torch.manual_seed(0)
    encoder, network = emoji_models.text_encoder(words), emoji_models.unet()
    objective = Denoising(
        network=network,
        conditioner=Captions(encoder),
        null=tokens(words, [""])[0],
        process=from_config(emoji_models.scheduler().config),
    )

    def pipeline(averaged: Any) -> Any:
        parts = averaged.conditioner.text_encoder, averaged.network
        return without_bars(emoji_models.stable_diffusion(data.vae, words, *parts)).to(averaged.network.device)

    return _train_emoji(plan, data, objective, pipeline, lambda captions: tokens(words, captions), 6000)


def train_emoji_flux(plan: Plan) -> Path:
    """Train both text encoders and the transformer together on cached latents; returns the pipeline's folder."""
    data = EmojiData.of(plan)
    clip_words = emoji_models.tokenizer(data.vocabulary)
    t5_words = emoji_models.t5_tokenizer(data.vocabulary)
    torch.manual_seed(0)
    clip, t5 = emoji_models.text_encoder(clip_words), emoji_models.t5_encoder(t5_words)
    network = emoji_models.flux_transformer()

    def both(captions: list[str]) -> Tensor:
        return torch.cat([tokens(clip_words, captions), tokens(t5_words, captions)], dim=1)

    objective = FlowMatching(
        network=Adapted(network),
        conditioner=PooledCaptions(clip, t5, clip_words.model_max_length),
        null=both([""])[0],
    )

    def pipeline(averaged: Any) -> Any:
        encoders = averaged.conditioner
        pair = (clip_words, encoders.clip), (t5_words, encoders.t5)
        pipe = emoji_models.flux(data.vae, *pair, averaged.network.transformer)
        return without_bars(pipe).to(averaged.network.transformer.device)

    return _train_emoji(plan, data, objective, pipeline, both, 8000, emoji_models.FLUX_CALL)


@dataclass(frozen=True)
class EmojiData:
    """What the latent models train on.

    chosen: the emoji.
    vae: the autoencoder.
    vocabulary: every caption a tokenizer should know.
    """

    chosen: list[emoji.Emoji]
    vae: Any
    vocabulary: list[str]

    @classmethod
    def of(cls, plan: Plan) -> EmojiData:
        from diffusers import AutoencoderTiny

        pictures = emoji.emojis(plan.data)
        portion = None if torch.cuda.is_available() else 500
        chosen = emoji.choose(pictures, portion if plan.names is None else plan.names)
        vae = AutoencoderTiny.from_pretrained(vae_folder(plan), dtype=torch.float32)
        return cls(chosen, vae, sorted({e.caption for e in pictures if not e.skin}))

    def latents(self, copies: int) -> Tensor:
        """Of every picture and its varied copies, in the order of `emoji.varied`.

        copies: how many of each.
        """
        return encode(self.vae, emoji.varied(emoji.images(self.chosen), copies))


def _train_emoji(
    plan: Plan, data: EmojiData, objective: Any, pipeline: Callable[[Any], Any],
    read: Callable[[list[str]], Tensor], steps: int, call: Mapping[str, Any] = MappingProxyType({}),
) -> Path:  # fmt: skip
    """What the latent models share.

    plan: what the user chose.
    data: what is trained on.
    objective: what is minimised.
    pipeline: averaged objective -> pipeline.
    read: captions -> token ids.
    steps: of training, where the user chose none.
    call: what each call of the pipeline needs besides the prompt.
    """
    shown = sample_captions(data.chosen)

    def draw(averaged: Any) -> Any:
        seeds = [torch.Generator().manual_seed(i) for i in range(len(shown))]
        return grid(pipeline(averaged)(shown, generator=seeds, **call).images, columns=8)

    trainer = Trainer(
        objective=objective,
        data={
            "sample": data.latents(plan.variants),
            "condition": read([e.caption for e in data.chosen]).repeat(plan.variants + 1, 1),
        },
        folder=plan.out,
        steps=plan.steps_or(steps),
        batch=64,
        lr=1e-3,
        warmup=200,
        bf16=True,
        save_every=200,
        draw_every=1000,
        draw=draw,
    )
    if plan.fast:
        objective.network.compile()
    with quick_attention(objective.network):
        averaged = trainer.run(plan.resume)
    return finish(trainer, pipeline(averaged), split_prompts(data.chosen), call)


def train_digits(plan: Plan) -> Path:
    """Train the class-conditional model on scikit-learn's digits; returns the exported pipeline's folder."""
    from hasten.zoo.digits import NULL, WORDS, DigitsPipeline
    from hasten.zoo_training import digits

    images, labels = digits.data()
    words: list[str] = [*WORDS]
    torch.manual_seed(0)
    network, process = digits.unet(), from_config(digits.scheduler().config)

    def pipeline(averaged: Any) -> Any:
        return without_bars(DigitsPipeline(averaged.network, digits.scheduler()))

    def draw(averaged: Any) -> Any:
        pictures = pipeline(averaged)(words * 4, generator=torch.Generator().manual_seed(0)).images
        return grid(pictures, columns=10, scale=4)

    trainer = Trainer(
        objective=Denoising(network, Labels(), torch.tensor(NULL), process),
        data={"sample": images, "condition": labels},
        folder=plan.out,
        steps=plan.steps_or(2000),
        batch=128,
        lr=1e-3,
        decay=0.5,
        draw=draw,
    )
    averaged = trainer.run(plan.resume)
    return finish(trainer, pipeline(averaged), {"search": words[::2], "confirm": words[1::2]})


TRAINERS: dict[str, Callable[[Plan], Path]] = {
    "digits": train_digits,
    "emoji-vae": train_emoji_vae,
    "emoji-sd": train_emoji_sd,
    "emoji-flux": train_emoji_flux,
}


def vae_folder(plan: Plan) -> Path:
    """Where the autoencoder lies that a latent model trains on: the one asked for, or the shipped one.

    plan: what the user chose.
    Raises HastenError if there is none.
    """
    folder = Path(plan.vae) if plan.vae else WEIGHTS / "emoji-sd" / "vae"
    if not (folder / "config.json").exists():
        raise HastenError(f"vae: {folder} holds no model; `hasten train emoji-vae` makes one in OUT/model")
    return folder


@contextmanager
def quick_attention(network: Any) -> Iterator[None]:
    """Plain attention while training on a CPU, where the fused kernel's backward pass takes a third of a step."""
    if torch.cuda.is_available():
        yield
        return
    from diffusers.models.attention_processor import AttnProcessor
    from torch.nn.attention import SDPBackend, sdpa_kernel

    convolutional = hasattr(network, "set_default_attn_processor")  # transformers have processors of their own
    if convolutional:
        network.set_attn_processor(AttnProcessor())
    with sdpa_kernel(SDPBackend.MATH):
        yield
    if convolutional:
        network.set_default_attn_processor()


def without_bars(pipe: Any) -> Any:
    """A pipeline, whose calls show no progress bar from now on."""
    pipe.set_progress_bar_config(disable=True)
    return pipe
