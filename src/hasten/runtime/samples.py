"""Which images a pipeline is to draw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Samples:
    """Images to draw: the i-th from prompts[i] with seeds[i].

    prompts: one an image.
    seeds: one an image.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: slice) -> Samples:
        return Samples(self.prompts[rows], self.seeds[rows])

    def pick(self, rows: Sequence[int]) -> Samples:
        """Some of the samples, in the order told."""
        return Samples(tuple(self.prompts[i] for i in rows), tuple(self.seeds[i] for i in rows))

    def batches(self, size: int) -> list[Samples]:
        """The same samples in order, at most `size` at a time."""
        return [self[i : i + size] for i in range(0, len(self), size)]
