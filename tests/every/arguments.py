"""What the arguments of pipelines are, by their names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

SIZE = 16  # pixels of a side; latents have half of it
WIDTH = 8  # of prompt embeddings
TOKENS = 5
FRAMES = 5


@dataclass(frozen=True)
class Value:
    """An argument that has one row a prompt; row i is the same however many there are.

    make: (row, dtype) -> a tensor (1, ...), or anything else.
    joined: what is made of the rows; by default one tensor, or a list if there are several of something else.
    """

    make: Callable[[int, torch.dtype], Any]
    joined: Callable[[list[Any]], Any] | None = None
    absent: ClassVar[Any] = object()  # stands for an argument that is not given

    def __call__(self, rows: list[int], dtype: torch.dtype) -> Any:
        made = [self.make(row, dtype) for row in rows]
        if self.joined is not None:
            return self.joined(made)
        return torch.cat(made) if isinstance(made[0], Tensor) else made if len(rows) > 1 else made[0]


def _noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, salt: int = 0) -> Value:
    """Normal numbers of a shape, one a row. salt: another number gives others."""
    return Value(lambda row, dtype: _noise(100 * salt + row, *shape).to(dtype))


def zeros(*shape: int) -> Value:
    """Zeros of a shape."""
    return Value(lambda row, dtype: torch.zeros(1, *shape, dtype=dtype))


def ones(*shape: int, dtype: torch.dtype = torch.int64) -> Value:
    """Ones of a shape; a mask that masks nothing."""
    return Value(lambda row, _: torch.ones(1, *shape, dtype=dtype))


def picture(size: int = SIZE, channels: int = 3, salt: int = 1) -> Value:
    """A picture of a size: numbers from 0 to 1."""
    return Value(lambda row, dtype: _noise(100 * salt + row, channels, size, size).sigmoid().to(dtype))


def frames(size: int = SIZE, count: int = FRAMES) -> Value:
    """A video: numbers from 0 to 1, frames before channels."""
    return Value(lambda row, dtype: _noise(300 + row, count, 3, size, size).sigmoid().to(dtype))


def pictures(size: int = SIZE, count: int = 1, salt: int = 1, mode: str = "RGB") -> Value:
    """A picture as pillow has them, or a list of some."""
    return Value(lambda row, _: _pillows(100 * salt + row, size, count, mode))


def _pillows(seed: int, size: int, count: int, mode: str) -> Any:
    from PIL import Image

    drawn = (_noise(seed, count, size, size, 3)[0].sigmoid() * 255).byte().numpy()
    made = [Image.fromarray(one).convert(mode) for one in drawn]
    return made if count > 1 else made[0]


def half(size: int = SIZE) -> Value:
    """A mask of the left half of a picture."""
    return Value(lambda row, dtype: (torch.arange(size) < size // 2).expand(1, 1, size, size).to(dtype))


def words(text: str = "abc") -> Value:
    """A prompt."""
    return Value(lambda row, dtype: text[row % len(text) :])


EMBEDS = normal(TOKENS, WIDTH)
NEGATIVE = normal(TOKENS, WIDTH, salt=5)
POOLED = normal(WIDTH, salt=2)
NEGATIVE_POOLED = normal(WIDTH, salt=6)
MASK = ones(TOKENS)


def common(size: int = SIZE) -> dict[str, Any]:
    """Arguments that mean the same in most pipelines. size: pixels of a side."""
    return {
        "prompt_embeds": EMBEDS,
        "negative_prompt_embeds": NEGATIVE,
        "negative_prompt": None,
        "pooled_prompt_embeds": POOLED,
        "negative_pooled_prompt_embeds": NEGATIVE_POOLED,
        "prompt_attention_mask": MASK,
        "negative_prompt_attention_mask": MASK,
        "prompt_embeds_mask": MASK,
        "negative_prompt_embeds_mask": MASK,
        "prompt_embeds_2": normal(TOKENS, WIDTH, salt=7),
        "negative_prompt_embeds_2": normal(TOKENS, WIDTH, salt=8),
        "prompt_attention_mask_2": MASK,
        "negative_prompt_attention_mask_2": MASK,
        "prompt_embeds_mask_2": MASK,
        "negative_prompt_embeds_mask_2": MASK,
        "image": picture(size),
        "mask_image": half(size),
        "control_image": picture(size, salt=2),
        "control_mask": half(size),
        "video": frames(size),
        "height": size,
        "width": size,
        "num_frames": FRAMES,
        "strength": 0.75,
        "output_type": "latent",
        "use_resolution_binning": False,
    }


MANY = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt", "batch_size")


def many(pipe: Any) -> str | None:
    """The argument that says how many results a pipeline makes of each prompt, or None."""
    takes = inspect.signature(pipe.__call__).parameters
    return next((name for name in MANY if name in takes), None)
