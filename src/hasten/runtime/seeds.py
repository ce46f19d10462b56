"""Whether each image of a batch draws from a generator of its own, and as often as the others."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Generator

from hasten.core.errors import HastenError


@dataclass(frozen=True)
class Seeds:
    """The generators that a pipeline was called with, one an image.

    generators: on the CPU, if what was drawn from them is to be looked at.
    shared: the state of torch's own generator at the beginning, which draws what a pipeline draws without these.
    """

    generators: list[Generator]
    shared: torch.Tensor = field(default_factory=torch.get_rng_state, repr=False)

    def check(self, images: int, exact: bool) -> None:
        """Raise HastenError unless every image would be the same in any other batch.

        images: how many the pipeline turns out to draw.
        exact: whether these are images; else they may be several rows of each: branches of guidance, frames.
        """
        count = len(self.generators)
        if images % count or (exact and images != count):
            raise HastenError(f"seed: {count} seeds for {images} images is not possible; give one an image")
        if len({drawn(one) for one in self.generators}) > 1:
            self._refuse("draws something for the first image only")
        if count > 1 and not torch.equal(self.shared, torch.get_rng_state()):
            self._refuse("draws something without the generators that it is given")

    @staticmethod
    def _refuse(what: str) -> None:
        raise HastenError(
            f"seed: this pipeline {what}, so images would depend on their batch; give a prompt and a picture for each "
            "image, or one image a call"
        )


def drawn(generator: Generator) -> bytes:
    """How far a generator on the CPU has been drawn from, but for whole turns of its 624 numbers."""
    return bytes(generator.get_state()[8:24].tolist()) if generator.device.type == "cpu" else b""
