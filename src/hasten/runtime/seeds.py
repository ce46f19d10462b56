"""Whether each image of a batch draws from a generator of its own, and as often as the others."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Generator

from hasten.core.errors import HastenError


def check_seeds(generators: Sequence[Generator], images: int, doubled: bool = False) -> None:
    """Raise HastenError unless every image would be the same in any other batch.

    generators: those that a pipeline was given, one an image; none if it was given no list.
    images: how many it turns out to draw.
    doubled: whether these may be twice as many: some pipelines step both branches of guidance.
    """
    count = len(generators)
    if count and images != count and not (doubled and images == 2 * count):
        raise HastenError(f"seed: {count} seeds for {images} images is not possible; give one an image")
    if len({drawn(one) for one in generators}) > 1:
        raise HastenError(
            "seed: this pipeline draws something for the first image only, so images would depend on their batch; "
            "give a prompt and a picture for each image, or one image a call"
        )


def drawn(generator: Generator) -> bytes:
    """How far a generator on the CPU has been drawn from, but for whole turns of its 624 numbers."""
    return bytes(generator.get_state()[8:24].tolist()) if generator.device.type == "cpu" else b""
