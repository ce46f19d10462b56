"""One generator an image, so that a seed means the same image in any batch."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hasten.core.errors import HastenError, positive_int, whole


def generators(seed: int | list[int], prompts: int = 1, images_per_prompt: int = 1) -> list[torch.Generator]:
    """Generators on the CPU for a batch of `prompts * images_per_prompt` images, in diffusers' order.

    seed: with one seed, image j of every prompt uses seed + j; a list gives one seed an image. Seeds are whole numbers
        from 0 to 2^63 - 1.
    prompts: how many.
    images_per_prompt: how many of each.

    Raises HastenError for a list of another length and impossible seeds.
    """
    positive_int("prompts", prompts)
    positive_int("images_per_prompt", images_per_prompt)
    count = prompts * images_per_prompt
    if isinstance(seed, list | tuple):
        seeds = list(seed)
        if len(seeds) != count:
            raise HastenError(
                f"seed: {len(seeds)} seeds for {count} images is not possible; give one an image, or one number"
            )
    else:
        seeds = [_checked(seed) + j for _ in range(prompts) for j in range(images_per_prompt)]
    return [torch.Generator("cpu").manual_seed(_checked(s)) for s in seeds]


PER_PROMPT = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt", "batch_size")
"""What pipelines call the number of results for each prompt."""

BATCHED = ("prompt", "prompt_embeds", "class_labels", "image", "image_embeds", "video", "audio")
"""Arguments of pipelines that say how many prompts there are, the first that is given deciding."""


def seeded(pipe: Any, seed: int | list[int], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a pipeline call that give every image a generator of its own.

    Pipelines that begin with a picture draw noise for it, too: a single one is repeated, so that each image has its
    own.

    pipe: a diffusers pipeline.
    seed: as in `generators`.
    given: what else it is called with, by name.
    Raises HastenError for pipelines that take no generator, and for impossible seeds.
    """
    takes = inspect.signature(type(pipe).__call__).parameters
    if "generator" not in takes:
        raise HastenError(f"seed: {type(pipe).__name__} takes no generator; leave it out")
    prompts = _prompts(given)
    each = math.prod(int(given[name]) for name in PER_PROMPT if given.get(name))
    changed: dict[str, Any] = {"generator": generators(seed, prompts, each)}
    pictures = {name: given[name] for name in ("image", "mask_image") if isinstance(given.get(name), Tensor)}
    if "strength" in takes and prompts > 1:
        single = {name: x for name, x in pictures.items() if x.ndim > 3 and len(x) == 1}
        changed |= {name: x.repeat(prompts, *[1] * (x.ndim - 1)) for name, x in single.items()}
    return changed


def _prompts(given: Mapping[str, Any]) -> int:
    """How many prompts a pipeline call has."""
    for name in BATCHED:
        value = given.get(name)
        if value is None:
            continue
        if isinstance(value, Tensor):
            return len(value) if value.ndim != 3 or name.endswith("_embeds") else 1
        return len(value) if isinstance(value, list | tuple) else 1
    return 1


def _checked(seed: object) -> int:
    number = whole(seed)
    if number is None or not 0 <= number < 2**63:
        raise HastenError(f"seed: {seed!r} is not possible; give a whole number from 0 to 2^63 - 1")
    return number
