"""Puts a trained model where hasten ships it: weights, prompts, figures, pictures and the model card."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hasten.core.errors import HastenError
from hasten.core.files import write_json, write_text
from hasten.train.checkpoints import read_facts
from hasten.zoo import WEIGHTS

LIMIT = 20_000_000
"""Bytes a shipped model may have."""

INTERNAL = ("steps", "vae_steps", "captions", "unseen")
"""Facts with a place of their own: training steps of both parts, and what the two grids show."""

EMOJI_DATA = """\
Pictures and English names come from the npm packages `emoji-datasource-google` and `emoji-datasource-twitter`
16.0.0 (64x64 pixels, on white):

- "noto ...": Noto Color Emoji by Google, Apache License 2.0.
- "twemoji ...": Twemoji by Twitter, Inc. and other contributors, CC-BY 4.0
  (https://creativecommons.org/licenses/by/4.0/). The model's pictures are derived from these graphics.

5 % of the names, chosen by a hash and in both styles, were held out from every training."""

DIGITS_DATA = """\
The 1,797 handwritten digits of scikit-learn's `load_digits` (8x8 pixels, 17 grey levels), which are the test part of
"Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC-BY 4.0."""


def publish(name: str, run: Path, figures: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> Path:
    """Copy an exported model to the shipped weights, with its figures, pictures and card, and return the folder.

    name: of the model.
    run: folder of its training run.
    figures: what `hasten.zoo_training.evaluate` returns for it.
    facts: further lines of the card (heading -> text); for the emoji models also those in INTERNAL.
    Raises HastenError if the model is too large.
    """
    size = sum(path.stat().st_size for path in (run / "model").rglob("*") if path.is_file())
    if size > LIMIT:
        raise HastenError(f"model: {run / 'model'} has {size:,} bytes, more than {LIMIT:,}")
    target = WEIGHTS / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(run / "model", target)
    for picture in run.glob("*.png"):
        shutil.copy(picture, target)
    write_json(target / "evaluation.json", figures, indent=1)
    write_text(target / "README.md", CARDS[name](figures, training(run), facts or {}))
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


def training(run: Path) -> str:
    """How a model was trained, in one sentence.

    run: folder of its training run.
    """
    facts = read_facts(run / "checkpoint.safetensors")
    settings = facts["settings"]
    precision = "bfloat16 autocast" if settings["bf16"] else "float32"
    return (
        f"{facts['step']:,} steps of AdamW, batch {settings['batch']}, learning rate {settings['lr']:g} "
        f"(warm-up {settings['warmup']} steps, linear decay over the last {settings['decay']:.0%}), "
        f"{precision}, moving average {settings['average']:g}, seed {settings['seed']}"
    )


def digits_card(figures: Mapping[str, Any], how: str, facts: Mapping[str, Any]) -> str:
    """The card of `digits`.

    figures: as of `publish`.
    how: its training in one sentence.
    facts: as of `publish`.
    """
    return f"""\
# digits

A class-conditional diffusion model of handwritten digits, 8x8 pixels: `hasten.load("digits")("three")`.
It is there so that tests and examples run in seconds.

- Network: diffusers `UNet2DModel`, 0.56 M parameters, noise prediction, eleven classes (the eleventh is "none", for
  classifier-free guidance; 10 % of the labels were dropped).
- Default: DDIM, 50 steps, guidance 2, Stable Diffusion's noise schedule.
- Training: {how}.
- Retrain: `hasten train digits --steps 2000` (three and a half minutes on two CPU cores).

## Measured

Of {figures["accuracy"]["n"]} digits drawn with the default, {percent(figures["accuracy"])} are read as the prompt by a
support vector machine trained on half of the real digits (which reads {figures["judge_on_real"]:.1%} of the other half
rightly). The model was trained on all of the data.
{further(facts)}
![loss](loss.png) ![samples](samples.png)

## Data and licence

{DIGITS_DATA}

The weights are licensed like hasten, Apache-2.0.
"""


PARTS = {
    "emoji-sd": """\
Stable Diffusion in miniature, trained from nothing: `hasten.load("emoji-sd")("noto red apple")` draws 64x64 pixels.
Prompts are "noto" or "twemoji" (the drawing style) and an English emoji name in lower case; `captions.json` has all.

- Pipeline: diffusers `StableDiffusionPipeline`, no safety checker. `UNet2DConditionModel` (8.6 M parameters, skips at
  three resolutions, cross-attention at two), `AutoencoderTiny` (0.43 M, 64x64 to 4x16x16), `CLIPTextModel` (two layers
  of 128) and `CLIPTokenizer` with a vocabulary of its own.
- Default: Stable Diffusion 1.5's scheduler (PNDM, leading spacing, offset 1), 50 steps, guidance 7.5.
- Noise prediction on the scaled-linear schedule of 1,000 steps, Min-SNR-5 weights, 10 % of the captions dropped.""",
    "emoji-flux": """\
Flux in miniature, trained from nothing: `hasten.load("emoji-flux")("noto red apple")` draws 64x64 pixels.
Prompts are "noto" or "twemoji" (the drawing style) and an English emoji name in lower case; `captions.json` has all.

- Pipeline: diffusers `FluxPipeline`. `FluxTransformer2DModel` (7.6 M parameters: 3 double and 6 single blocks of width
  192 on 64 tokens of 2x2 latents), emoji-sd's `AutoencoderTiny` (0.43 M, 64x64 to 4x16x16), `CLIPTextModel` (two
  layers of 128, its pooled vector) and `T5EncoderModel` (two layers of 128), both with vocabularies of their own.
- Default: FLUX.1-dev's scheduler (Euler, dynamic shift), 28 steps. There is no guidance embedding (as in
  FLUX.1-schnell), so `guidance_scale` does nothing; `true_cfg_scale` with a `negative_prompt` works.
- `FluxPipeline` keeps no picture size, so with diffusers alone say
  `pipe(prompt, height=64, width=64, max_sequence_length=32)` (`call.json`; hasten's tools do). Training saw captions
  padded to 32 to 128 tokens: with the pipeline's default of 512, pictures get blurry and take six times as long.
- Velocity prediction, times logit-normal and shifted by 1.6, 10 % of the captions dropped.""",
}

RETRAIN = {
    "emoji-sd": "hasten train emoji-sd --vae runs/vae/model --out runs/sd",
    "emoji-flux": "hasten train emoji-flux --vae runs/vae/model --out runs/flux",
}


def emoji_card(name: str, figures: Mapping[str, Any], how: str, facts: Mapping[str, Any]) -> str:
    """The card of an emoji model.

    name: of the model.
    figures: as of `publish`.
    how: its training in one sentence.
    facts: as of `publish`.
    """
    names = figures["retrieval"]["names"]
    return f"""\
# {name}

{PARTS[name]}
- Training of the denoiser and the text encoders: {how}.

## Trained on

{names} names of faces, animals, food and objects in both styles (a CPU's portion: there was no GPU), each
name exactly as captioned, no augmentation. Other emoji are unknown to it, and it does not generalise far beyond the
names it saw: it is a small real model for measuring accelerations, not an artist.

## Measured

{measured(figures)}
{further(facts)}
![loss](loss.png)

Training captions, each with its own seed, drawn with the default:

![samples](samples.png)

{facts["captions"]}

Captions it was not trained on:

![unseen](unseen.png)

{facts["unseen"]}

## Retrain

    hasten train emoji-vae --out runs/vae --steps {facts["vae_steps"]}
    {RETRAIN[name]} --names {names} --steps {facts["steps"]}

Runs resume where they were stopped. With a GPU, leave out `--names` to train on all names.

## Data and licence

{EMOJI_DATA}

The weights are licensed Apache-2.0; pictures in the Twemoji style carry the attribution above.
"""


def measured(figures: Mapping[str, Any]) -> str:
    """The figures of an emoji model as a list in Markdown."""
    nearest, psnr, floor = figures["retrieval"], figures["psnr"], figures["floor"]
    return f"""\
- Autoencoder on {psnr["n"]} held-out pictures: PSNR {psnr["value"]:.2f} dB [{psnr["low"]:.2f}, {psnr["high"]:.2f}]
  (mean over images; {figures["psnr_of_mean_error"]:.2f} dB of the mean squared error).
- Retrieval: {nearest["top1"]["n"]} training captions drawn with the default; the nearest training picture of the same
  style (angle between EfficientNet-Lite0 features) is the captioned one for {percent(nearest["top1"])}; it is among the
  five nearest for {percent(nearest["top5"])}.
- Distance of {figures["drawn"]:,} pictures drawn with the default to the training set, in EfficientNet-Lite0 features:
  FD {interval(figures["fd"])}, KD {interval(figures["kd"])}. The training set through the autoencoder and back has
  FD {interval(floor["fd"])} and KD {interval(floor["kd"])}: no sampling can come closer. These are not Inception FIDs.
- `evaluation.json` has these figures and every miss."""


def percent(estimate: Mapping[str, Any]) -> str:
    """A share with its interval, in percent."""
    return f"{estimate['value']:.1%} [{estimate['low']:.1%}, {estimate['high']:.1%}]"


def interval(estimate: Mapping[str, Any]) -> str:
    """A value with its interval, in three digits."""
    return f"{estimate['value']:.3g} [{estimate['low']:.3g}, {estimate['high']:.3g}]"


def further(facts: Mapping[str, Any]) -> str:
    """The facts that have no place of their own, as a list in Markdown."""
    lines = [f"- {heading}: {text}" for heading, text in facts.items() if heading not in INTERNAL]
    return "\n" + "\n".join(lines) + "\n" if lines else ""


CARDS = {"digits": digits_card} | {name: functools.partial(emoji_card, name) for name in PARTS}
