"""How good a model of the zoo is, for its card: every figure with its count and interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hasten.core.estimates import bootstrap, wilson
from hasten.train.pictures import grid
from hasten.zoo_training import emoji
from hasten.zoo_training.training import reconstruct, to_pil

UNSEEN = (
    "noto green apple", "twemoji sad dog face", "noto blue apple", "twemoji crying dog face",
    "noto red butterfly", "twemoji yellow rose", "noto smiling owl with sunglasses", "twemoji blue mushroom",
    "noto crying frog face", "twemoji green pig face", "noto sleepy tiger face", "twemoji red whale",
    "noto pink tomato", "twemoji cat face with tears of joy and sunglasses", "noto orange owl", "twemoji broken bell",
)  # fmt: skip
"""Compositions of words; the few that a model was trained on are left out."""

Features = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) in [0, 1] -> vectors (N, D)."""


def autoencoder_psnr(vae: Any, pictures: Tensor) -> tuple[dict[str, Any], float]:
    """PSNR in dB of images (N, 3, H, W) in [-1, 1]: the mean over images as an estimate, and that of the mean error."""
    decoded = reconstruct(vae, pictures).clamp(-1, 1)
    errors = ((decoded - pictures) / 2).square().flatten(1).mean(1)
    psnr = -10 * errors.log10()
    estimate = bootstrap(psnr.double().numpy(), "mean").named("psnr", " dB").to_json()
    return estimate, float(-10 * errors.mean().log10())


def retrieval(
    pipe: Any, chosen: Sequence[emoji.Emoji], features: Features, count: int = 200, seed: int = 0
) -> dict[str, Any]:
    """Share of generated images whose nearest training image of the same style is the captioned one.

    `count` captions of the training set, each drawn with the pipeline's own defaults and its own seed; nearest by
    the angle between `features`. The share of the right name among the five nearest is given as well.
    """
    order = sorted(chosen, key=lambda e: emoji.fraction("retrieve " + e.caption))[:count]
    gallery = F.normalize(features(emoji.images(chosen) / 2 + 0.5))
    queries = F.normalize(features(generate(pipe, [e.caption for e in order], seed)))
    hits = best = 0
    misses = []
    for query, wanted in zip(queries, order, strict=True):
        rivals = [index for index, e in enumerate(chosen) if e.style == wanted.style]
        near = (gallery[rivals] @ query).topk(min(5, len(rivals))).indices
        found = [chosen[rivals[int(place)]].caption for place in near]
        hits += found[0] == wanted.caption
        best += wanted.caption in found
        if found[0] != wanted.caption:
            misses.append({"wanted": wanted.caption, "found": found[0]})
    return {
        "top1": wilson(hits, count).to_json(),
        "top5": wilson(best, count).to_json(),
        "names": len({e.name for e in chosen}),
        "misses": misses,
    }


def digit_accuracy(pipe: Any, count: int = 500, seed: int = 0) -> dict[str, Any]:
    """Share of generated digits that a classifier trained on the real ones reads as the prompt."""
    from sklearn.svm import SVC

    from hasten.zoo import digits

    real, labels = digits.data()
    make_judge: Any = SVC
    judge = make_judge(gamma=0.05).fit(real[::2].flatten(1).numpy(), labels[::2].numpy())
    honest = judge.score(real[1::2].flatten(1).numpy(), labels[1::2].numpy())
    wanted = torch.arange(count) % 10
    prompts = [digits.WORDS[int(label)] for label in wanted]
    drawn = pipe(prompts, generator=generators(count, seed), output_type="pt").images * 2 - 1
    right = int((torch.from_numpy(judge.predict(drawn.flatten(1).numpy())) == wanted).sum())
    return {"accuracy": wilson(right, count).to_json(), "judge_on_real": float(honest)}


def distribution(
    pipe: Any, chosen: Sequence[emoji.Emoji], features: Features, count: int = 2000, seed: int = 1000
) -> dict[str, Any]:
    """Frechet and kernel distance of `count` generated images to the training set, captions in equal shares.

    floor: the same distances of the training set through the autoencoder and back, which no sampling can beat.
    """
    from hasten.measure.distribution import frechet_distance, kernel_distance

    order = sorted(chosen, key=lambda e: emoji.fraction("draw " + e.caption))
    real = emoji.images(chosen)
    data = features(real / 2 + 0.5)
    drawn = features(generate(pipe, [order[i % len(order)].caption for i in range(count)], seed))
    passed = features(reconstruct(pipe.vae, real).clamp(-1, 1) / 2 + 0.5)
    measures = {"fd": frechet_distance, "kd": kernel_distance}
    found = {name: measure(drawn, data).to_json() for name, measure in measures.items()}
    return found | {
        "drawn": count,
        "floor": {name: measure(passed, data).to_json() for name, measure in measures.items()},
    }


def unseen(pipe: Any, chosen: Sequence[emoji.Emoji]) -> tuple[Any, list[str]]:
    """A picture of captions the model was not trained on, eight a row, and those captions."""
    known = {e.caption for e in chosen}
    captions = [caption for caption in UNSEEN if caption not in known]
    return grid(to_pil(generate(pipe, captions) * 2 - 1), columns=8), captions


def generate(pipe: Any, prompts: Sequence[str], seed: int = 0, batch: int = 20) -> Tensor:
    """One image (3, H, W) in [0, 1] a prompt with the pipeline's defaults; image i has the seed `seed` + i."""
    from rich.progress import track

    from hasten.zoo import call_of

    seeds, extra = generators(len(prompts), seed), call_of(pipe)
    parts = [
        pipe(list(prompts[i : i + batch]), generator=seeds[i : i + batch], output_type="pt", **extra).images
        for i in track(range(0, len(prompts), batch), description="generating")
    ]
    return torch.cat(parts)


def generators(count: int, seed: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def measure(name: str, model: Path | None = None, data: Path | None = None, names: int | None = None) -> dict[str, Any]:
    """All figures of one model's card; `model` is an exported folder, by default the shipped one."""
    from hasten.measure.features import features
    from hasten.zoo import load

    pipe = load(name, model)
    if name == "digits":
        return digit_accuracy(pipe)
    pictures = emoji.emojis(data)
    held_out = emoji.images([e for e in pictures if e.held_out])
    chosen = emoji.choose(pictures, names)
    psnr, psnr_of_mean_error = autoencoder_psnr(pipe.vae, held_out)
    found = retrieval(pipe, chosen, features)
    distances = distribution(pipe, chosen, features)
    return {"psnr": psnr, "psnr_of_mean_error": psnr_of_mean_error, "retrieval": found} | distances
