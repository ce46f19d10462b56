"""How good a model of the zoo is, for its card: every figure with its count and interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hasten.core.console import tracked
from hasten.core.estimates import bootstrap, wilson
from hasten.measure.pixels import psnr
from hasten.train.pictures import grid
from hasten.zoo_training import emoji
from hasten.zoo_training.tensors import reconstruct, to_pil

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
    """PSNR of an autoencoder in dB: the mean over images as an estimate, and that of the mean error.

    vae: the autoencoder.
    pictures: in [-1, 1], (N, 3, H, W).
    """
    decoded, original = (x / 2 + 0.5 for x in (reconstruct(vae, pictures).clamp(-1, 1), pictures))
    estimate = bootstrap(psnr(decoded, original).numpy(), "mean").named("psnr", " dB").to_json()
    return estimate, float(psnr(decoded[None], original[None]))


def retrieval(
    pipe: Any, chosen: Sequence[emoji.Emoji], features: Features, count: int = 200, seed: int = 0
) -> dict[str, Any]:
    """Share of generated images whose nearest training image of the same style is the captioned one.

    Each caption is drawn with the pipeline's own defaults and its own seed. Also given: the share whose captioned
    image is among the five nearest, how many names were trained on, and every miss.

    pipe: the pipeline.
    chosen: what it was trained on.
    features: images in [0, 1] -> vectors; near means at a small angle between them.
    count: how many captions are drawn.
    seed: of the first image; the next ones have the next seeds.
    """
    order = sorted(chosen, key=lambda e: emoji.fraction("retrieve " + e.caption))[:count]
    gallery = F.normalize(features(emoji.images(chosen) / 2 + 0.5))
    queries = F.normalize(features(generate(pipe, [e.caption for e in order], seed)))
    hits = best = 0
    misses = []
    for query, wanted in zip(queries, order, strict=True):
        rivals = [index for index, e in enumerate(chosen) if e.style == wanted.style]
        places = (gallery[rivals] @ query).topk(min(5, len(rivals))).indices
        near = [chosen[rivals[int(place)]].caption for place in places]
        hits += near[0] == wanted.caption
        best += wanted.caption in near
        if near[0] != wanted.caption:
            misses.append({"wanted": wanted.caption, "found": near[0]})
    return {
        "top1": wilson(hits, count).to_json(),
        "top5": wilson(best, count).to_json(),
        "names": len({e.name for e in chosen}),
        "misses": misses,
    }


def digit_accuracy(pipe: Any, count: int = 500, seed: int = 0) -> dict[str, Any]:
    """Share of generated digits that a classifier trained on the real ones reads as the prompt.

    pipe: the pipeline.
    count: how many digits are drawn, each class equally often.
    seed: of the first digit; the next ones have the next seeds.
    """
    from sklearn.svm import SVC

    from hasten.zoo.digits import WORDS
    from hasten.zoo_training import digits

    real, labels = digits.data()
    make_judge: Any = SVC
    judge = make_judge(gamma=0.05).fit(real[::2].flatten(1).numpy(), labels[::2].numpy())
    honest = judge.score(real[1::2].flatten(1).numpy(), labels[1::2].numpy())
    wanted = torch.arange(count) % 10
    prompts = [WORDS[int(label)] for label in wanted]
    drawn = pipe(prompts, generator=generators(count, seed), output_type="pt").images * 2 - 1
    right = int((torch.from_numpy(judge.predict(drawn.flatten(1).numpy())) == wanted).sum())
    return {"accuracy": wilson(right, count).to_json(), "judge_on_real": float(honest)}


def distribution(
    pipe: Any, chosen: Sequence[emoji.Emoji], features: Features, count: int = 2000, seed: int = 1000
) -> dict[str, Any]:
    """Frechet and kernel distance of generated images to the training set, captions in equal shares.

    Also given, as "floor": the same distances of the training set through the autoencoder and back, which no
    sampling can beat.

    pipe: the pipeline.
    chosen: what it was trained on.
    features: images in [0, 1] -> vectors.
    count: how many images are drawn.
    seed: of the first image; the next ones have the next seeds.
    """
    from hasten.measure.distribution import frechet_distance, kernel_distance

    order = sorted(chosen, key=lambda e: emoji.fraction("draw " + e.caption))
    real = emoji.images(chosen)
    data = features(real / 2 + 0.5)
    drawn = features(generate(pipe, [order[i % len(order)].caption for i in range(count)], seed))
    passed = features(reconstruct(pipe.vae, real).clamp(-1, 1) / 2 + 0.5)
    measures = {"fd": frechet_distance, "kd": kernel_distance}
    return {name: measure(drawn, data).to_json() for name, measure in measures.items()} | {
        "drawn": count,
        "floor": {name: measure(passed, data).to_json() for name, measure in measures.items()},
    }


def unseen(pipe: Any, chosen: Sequence[emoji.Emoji]) -> tuple[Any, list[str]]:
    """A picture of captions the model was not trained on, eight a row, and those captions.

    pipe: the pipeline.
    chosen: what it was trained on.
    """
    known = {e.caption for e in chosen}
    captions = [caption for caption in UNSEEN if caption not in known]
    return grid(to_pil(generate(pipe, captions) * 2 - 1), columns=8), captions


def generate(pipe: Any, prompts: Sequence[str], seed: int = 0, batch: int = 20) -> Tensor:
    """One image a prompt with the pipeline's defaults, (N, 3, H, W) in [0, 1].

    pipe: the pipeline.
    prompts: N texts.
    seed: of the first image; image i has the seed `seed` + i.
    batch: how many are drawn at a time.
    """
    from hasten.zoo import call_of

    seeds, extra = generators(len(prompts), seed), call_of(pipe)
    parts = [
        pipe(list(prompts[i : i + batch]), generator=seeds[i : i + batch], output_type="pt", **extra).images
        for i in tracked(range(0, len(prompts), batch), "generating")
    ]
    return torch.cat(parts)


def generators(count: int, seed: int) -> list[torch.Generator]:
    """Random generators with the seeds `seed`, `seed` + 1, ..."""
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def measure(name: str, model: Path | None = None, data: Path | None = None, names: int | None = None) -> dict[str, Any]:
    """All figures of one model's card.

    name: of a model of the zoo.
    model: an exported folder; the shipped one if None.
    data: folder of the npm packages with the emoji, fetched if they are not there.
    names: how many emoji names it was trained on; None for all.
    """
    from hasten.measure.features import features
    from hasten.zoo import load

    pipe = load(name, model)
    if name == "digits":
        return digit_accuracy(pipe)
    pictures = emoji.emojis(data)
    held_out = emoji.images([e for e in pictures if e.held_out])
    chosen = emoji.choose(pictures, names)
    mean_psnr, psnr_of_mean_error = autoencoder_psnr(pipe.vae, held_out)
    retrieved = retrieval(pipe, chosen, features)
    distances = distribution(pipe, chosen, features)
    return {"psnr": mean_psnr, "psnr_of_mean_error": psnr_of_mean_error, "retrieval": retrieved} | distances
