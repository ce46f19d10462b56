"""What guidance from memory keeps of two branches: the difference of their answers, and what it is later."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hasten.core.errors import UnsupportedModel


class Difference(Protocol):
    """Unconditional minus conditional answer of one network call, (images, ...), as last computed."""

    def forecast(self, time: float) -> Tensor:
        """What it is at a later time, shaped as it was computed.

        time: the network's, usually of 1,000, later in the run than all asked before.
        """
        ...


@dataclass
class Held(Difference):
    """The difference stays what it was.

    last: as it was computed, (images, ...).
    """

    last: Tensor

    def forecast(self, time: float) -> Tensor:
        return self.last


class Frequencies(Difference):
    """Low and high frequencies of the difference are multiplied anew on each call, by factors of the time.

    Low is what lies in a disc of radius min(height, width) // 5 around the constant.

    last: the difference as it was computed, (images, ..., height, width).
    factors: the network's time -> the factors on low and on high frequencies.

    Raises UnsupportedModel for answers without height and width.
    Source: Lv et al. 2024 (FasterCache), eq. (9)-(11).
    """

    def __init__(self, last: Tensor, factors: Callable[[float], tuple[float, float]]) -> None:
        if last.ndim < 4:
            raise UnsupportedModel(
                f"guidance: the network's answers have shape {tuple(last.shape)}, which has no height and width; "
                'use "reuse" instead of "reuse-frequencies"'
            )
        self.factors, self.dtype = factors, last.dtype
        spectrum = torch.fft.fft2(last.float())
        disc = low_frequencies(*last.shape[-2:]).to(last.device)
        self.low, self.high = spectrum * disc, spectrum * ~disc

    def forecast(self, time: float) -> Tensor:
        low, high = self.factors(time)
        self.low, self.high = self.low * low, self.high * high
        return torch.fft.ifft2(self.low + self.high).real.to(self.dtype)


def low_frequencies(height: int, width: int) -> Tensor:
    """Which entries of a 2-D Fourier transform are low, (height, width), laid out as `torch.fft.fft2` does.

    height: of the transform.
    width: of the transform.
    """
    y, x = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    disc = y[:, None] ** 2 + x[None, :] ** 2 <= (min(height, width) // 5) ** 2
    return torch.fft.ifftshift(disc)
