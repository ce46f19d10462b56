"""Whether images show what their prompts say, judged offline: which real captioned picture lies nearest?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.core.estimates import Estimate, bootstrap, wilson
from hasten.measure.features import signatures

NEAR = 5


def alignment(
    images: Tensor,
    prompts: Sequence[str],
    gallery: Tensor,
    captions: Sequence[str],
    *,
    features: Callable[[Tensor], Tensor] = signatures,
) -> dict[str, Estimate]:
    """Prompt alignment as retrieval: each image looks for its caption among real captioned pictures.

    images: what was generated, (N, ...).
    prompts: what each image was generated from, N.
    gallery: real pictures, (M, ...).
    captions: of each picture, M; several may share one, which is then as near as its nearest picture.
    features: images -> (rows, D); near means at a small angle between them.
    Returns "top1" and "top5", the shares of images whose prompt is the nearest caption or one of the five nearest,
    counted where the prompt is a caption and left out if none is; and "words", the mean overlap (words in common
    over all words of both) of prompt and nearest caption, which also judges prompts that nobody drew.
    Raises HastenError if the numbers do not fit together, or features are not (rows, D) and finite.
    """
    if len(images) != len(prompts) or len(gallery) != len(captions) or not len(images) or not len(gallery):
        raise HastenError(
            f"every image needs a prompt and every picture a caption, and at least one of each: got {len(images)} "
            f"images, {len(prompts)} prompts, {len(gallery)} pictures, {len(captions)} captions"
        )
    queries, real = _rows("images", features, images), _rows("gallery", features, gallery)
    if queries.shape[1] != real.shape[1]:
        raise HastenError(
            f"features of images and gallery must be equally long, got {len(queries.T)} and {len(real.T)}"
        )
    ranked = _ranked(queries, real, captions)
    known = set(captions)
    places = [near.index(prompt) for prompt, near in zip(prompts, ranked, strict=True) if prompt in known]
    words = [overlap(prompt, near[0]) for prompt, near in zip(prompts, ranked, strict=True)]
    result = {"words": bootstrap(words, "mean").named("words")}
    if places:
        for name, depth in (("top1", 1), ("top5", NEAR)):
            result[name] = wilson(sum(place < depth for place in places), len(places)).named(name)
    return result


def overlap(a: str, b: str) -> float:
    """Jaccard overlap of the words of two texts, from 0 to 1; case and punctuation do not count."""
    one, two = (set(re.findall(r"\w+", text.lower())) for text in (a, b))
    return len(one & two) / len(one | two) if one or two else 1.0


def _ranked(queries: Tensor, gallery: Tensor, captions: Sequence[str]) -> list[list[str]]:
    """For every query all captions, the nearest first; equally near ones in the order of the gallery."""
    likeness = F.normalize(queries) @ F.normalize(gallery).T
    orders: list[list[int]] = likeness.argsort(dim=1, descending=True, stable=True).tolist()
    return [list(dict.fromkeys(captions[place] for place in order)) for order in orders]


def _rows(name: str, features: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.no_grad():
        rows = features(images)
    if rows.ndim != 2 or len(rows) != len(images) or not rows.isfinite().all():
        raise HastenError(f"{name}: features must be ({len(images)}, D) and finite, got shape {tuple(rows.shape)}")
    return rows
