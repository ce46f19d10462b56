"""Distances of image pairs, pixel by pixel."""

from __future__ import annotations

from torch import Tensor

PSNR_CEILING = 100.0  # dB; what equal images get, so that statistics stay finite


def rmse(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square difference of each pair, (N,) float64.

    a: images or states, (N, ...).
    b: as many of the same shape, on any device.
    """
    return (a.double() - b.to(a.device).double()).flatten(1).square().mean(1).sqrt()


def psnr(a: Tensor, b: Tensor, ceiling: float = PSNR_CEILING) -> Tensor:
    """Peak signal-to-noise ratio of each pair, (N,) dB.

    a: images in [0, 1], (N, ...).
    b: as many of the same shape, on any device.
    ceiling: what equal images get, dB; may be infinite.
    """
    return decibels(rmse(a, b), ceiling)


def decibels(error: Tensor, ceiling: float = PSNR_CEILING) -> Tensor:
    """The PSNR that belongs to a root mean square error, dB.

    error: of images in [0, 1].
    ceiling: what an error of 0 gets, dB; may be infinite.
    """
    return -10 * error.square().clamp(min=10 ** (-ceiling / 10)).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each pair, (N,), 1 for equal images.

    a: images in [0, 1], (N, C, H, W).
    b: as many of the same shape.
    Source: Wang et al. 2004, with an 11 x 11 Gaussian window, sigma 1.5.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    values = structural_similarity_index_measure(a.float(), b.float(), data_range=1.0, reduction="none")
    assert isinstance(values, Tensor)
    return values.reshape(len(a))
