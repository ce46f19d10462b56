"""Perceptual features that need no download: EfficientNet-Lite0, trained on ImageNet, shipped with hasten.

Source: Tan and Le 2019, "EfficientNet", arXiv 1905.11946 (the Lite variant has neither squeeze-excite nor
swish). Origin and licence of the weights: `zoo/weights/efficientnet_lite0.md`.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from hasten import zoo
from hasten.core.errors import HastenError

SIZE = 128
WEIGHTS = zoo.WEIGHTS / "efficientnet_lite0.safetensors"
BLOCKS = 16
HALVING = {1, 3, 5, 11}  # blocks of stride 2
TAPS = {0, 2, 4, 10, 15}  # the last block at each of the five resolutions


def features(images: Tensor, *, size: int = SIZE, batch: int = 32) -> Tensor:
    """Pooled embedding of images, for distances between distributions (to recognise images: `signatures`).

    images: floats in [0, 1], (N, 1 or 3, H, W), H and W at least 8.
    size: the side they are resized to first (bilinear, antialiased), in pixels.
    batch: how many pass the network at a time.
    Returns float32 of at least 0, (N, 1280), on the device of the images. Differentiable.
    Raises HastenError for anything else.
    """
    return torch.cat([embed(chunk, size)[0] for chunk in check_images(images).split(batch)])


def signatures(images: Tensor, *, size: int = SIZE, batch: int = 32) -> Tensor:
    """Unit vectors that recognise an image: activations at five depths, each averaged over a grid of 4 x 4.

    They tell images apart where pooled features do not: of 120 emoji, noise of 0.1 leaves all 120 nearest to
    their original (pooled: 105), and 84 % are nearest to the same emoji in another style (pooled: 60 %).

    images: as of `features`.
    size: as of `features`.
    batch: as of `features`.
    Returns float32, (N, 8192); compare them by `nearest`.
    """
    return torch.cat([signature(embed(chunk, size)[1]) for chunk in check_images(images).split(batch)])


def perceptual_distance(a: Tensor, b: Tensor, *, size: int = SIZE, batch: int = 32) -> Tensor:
    """EfficientNet distance of image pairs: how different they look, 0 for equal images.

    Activations at five depths are scaled to unit length over channels; the squared difference is summed over
    channels and averaged over space and depths, so 0 <= distance <= 4. The form is that of LPIPS (Zhang et
    al. 2018, eq. (1)) with another network and without learned weights: the numbers are not LPIPS numbers.

    a: images, as of `features`.
    b: as many of the same shape.
    size: as of `features`.
    batch: as of `features`.
    Returns float32, (N,). Differentiable.
    Raises HastenError for unequal shapes, and as `features` does.
    """
    if a.shape != b.shape:
        raise HastenError(f"images to compare must have equal shapes, got {tuple(a.shape)} and {tuple(b.shape)}")
    pairs = zip(check_images(a).split(batch), check_images(b).split(batch), strict=True)
    return torch.cat([activation_distance(embed(x, size)[1], embed(y, size)[1]) for x, y in pairs])


def nearest(queries: Tensor, gallery: Tensor) -> Tensor:
    """For each query the index of the row at the smallest angle to it, (N,).

    queries: (N, D).
    gallery: (M, D).
    """
    return distances(F.normalize(queries), F.normalize(gallery)).argmin(1)


def distances(queries: Tensor, gallery: Tensor) -> Tensor:
    """Euclidean distances of rows, (N, M); ties and zeros are exact, as they are not by a matrix product.

    queries: (N, D).
    gallery: (M, D).
    """
    return torch.cdist(queries, gallery, compute_mode="donot_use_mm_for_euclid_dist")


def embed(images: Tensor, size: int = SIZE) -> tuple[Tensor, list[Tensor]]:
    """One pass of the network over a batch: pooled embedding (N, 1280), activations at five depths.

    images: as of `features`, unchecked.
    size: as of `features`.
    """
    weights = _weights(str(images.device))
    x = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True).expand(-1, 3, -1, -1)
    x = _conv(weights, "stem", (x * 255 - 127) / 128, stride=2).clamp(0, 6)  # normalised as in training
    taps = []
    for block in range(BLOCKS):
        x = _block(weights, block, x)
        if block in TAPS:
            taps.append(x)
    return _conv(weights, "head", x).clamp(0, 6).mean((2, 3)), taps


def signature(activations: list[Tensor]) -> Tensor:
    """The rows of `signatures` from the activations that `embed` returns."""
    cells = [F.normalize(F.adaptive_avg_pool2d(x, 4).flatten(1)) for x in activations]
    return torch.cat(cells, 1) / len(cells) ** 0.5


def activation_distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """The distance of `perceptual_distance` from the activations that `embed` returns; (N,)."""
    return torch.stack([(_unit(x) - _unit(y)).square().sum(1).mean((1, 2)) for x, y in zip(a, b, strict=True)]).mean(0)


def _block(weights: dict[str, Tensor], block: int, x: Tensor) -> Tensor:
    y = _conv(weights, f"{block}.expand", x).clamp(0, 6) if f"{block}.expand.weight" in weights else x
    y = _conv(weights, f"{block}.depthwise", y, stride=2 if block in HALVING else 1, groups=y.shape[1]).clamp(0, 6)
    y = _conv(weights, f"{block}.project", y)
    return x + y if x.shape == y.shape else y


def _conv(weights: dict[str, Tensor], name: str, x: Tensor, *, stride: int = 1, groups: int = 1) -> Tensor:
    """Convolution with TensorFlow's "same" padding, which puts the odd pixel below and on the right."""
    weight = weights[f"{name}.weight"]
    kernel = weight.shape[-1]
    if stride == 1:
        return F.conv2d(x, weight, weights[f"{name}.bias"], padding=kernel // 2, groups=groups)
    pads = [max((-(-extent // stride) - 1) * stride + kernel - extent, 0) for extent in (x.shape[3], x.shape[2])]
    x = F.pad(x, [side for pad in pads for side in (pad // 2, pad - pad // 2)])
    return F.conv2d(x, weight, weights[f"{name}.bias"], stride=stride, groups=groups)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=1, eps=1e-6)


@lru_cache(maxsize=4)
def _weights(device: str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {name: tensor.float() for name, tensor in load_file(WEIGHTS, device=device).items()}


def check_images(images: Tensor, name: str = "images") -> Tensor:
    """Images as they are, once they are known to be sound.

    images: finite floats in [0, 1], (N, 1 or 3, H, W), H and W at least 8.
    name: what the error calls them.
    Raises HastenError for anything else.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < 8 or not len(images):
        raise HastenError(f"{name} must be (N, 1 or 3, H, W), H and W at least 8; got shape {tuple(images.shape)}")
    if not images.is_floating_point():
        raise HastenError(f"{name} must be floats in [0, 1], got {images.dtype}: divide 8-bit pixels by 255")
    low, high = images.detach().aminmax()
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise HastenError(f"{name} must lie in [0, 1], got [{low:.4g}, {high:.4g}]; are they latents?")
    return images
