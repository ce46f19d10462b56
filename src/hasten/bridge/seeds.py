"""One generator an image, so that a seed means the same image in any batch."""

from __future__ import annotations

import torch

from hasten.core.errors import HastenError, positive_int


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


def _checked(seed: object) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise HastenError(f"seed: {seed!r} is not possible; give a whole number from 0 to 2^63 - 1")
    return seed
