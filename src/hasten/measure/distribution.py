"""How far samples are from data as distributions: Frechet and kernel distances, fidelity and diversity.

All functions take features, for instance `hasten.measure.features`. With those the numbers are not comparable with
published FID, which uses Inception.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hasten.core.errors import HastenError, positive_int
from hasten.core.estimates import RESAMPLES, Estimate, bootstrap, interval, wilson

Array = NDArray[np.float64]
NORMAL_95 = 1.96  # standard deviations that 95 % of a normal distribution lie within


def frechet_distance(generated: Tensor, data: Tensor) -> Estimate:
    """Squared Frechet distance of the Gaussians fitted to both sets ("FD"; 0 if means and covariances agree).

    It is biased upwards for small sets: compare only sets of equal size. The interval is the sampling spread
    around the value, from every sample's influence on it (the delta method), and does not hold that bias.

    generated: features of samples, (N, D), N at least 2.
    data: features of data, (M, D), M at least 2.
    Source: Heusel et al. 2017, arXiv 1706.08500, eq. (6).
    """
    x, y = _checked(generated, data, at_least=2)
    shift = x.mean(0) - y.mean(0)
    x, y = x - x.mean(0), y - y.mean(0)
    few = min(len(x), len(y)) <= x.shape[1]
    spread, pull_x, pull_y = (_frechet_by_products if few else _frechet_by_covariance)(x, y)
    pulls = (pull_x + 2 * x @ shift, pull_y - 2 * y @ shift)
    half = NORMAL_95 * float(np.sqrt(sum(pull.var() / len(pull) for pull in pulls)))
    value = float(shift @ shift) + spread
    return Estimate(value, max(0.0, value - half), value + half, min(len(x), len(y)), "FD")


def kernel_distance(generated: Tensor, data: Tensor, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Squared maximum mean discrepancy with the kernel (x.y / D + 1)^3 ("KD").

    Unbiased, so it can be below 0. The interval is the spread over resampled sets, centred at the value.
    Memory grows with N^2 + M^2.

    generated: features of samples, (N, D), N at least 2.
    data: features of data, (M, D), M at least 2.
    resamples: of the bootstrap, at least 1.
    seed: of the bootstrap.
    Source: Binkowski et al. 2018, arXiv 1801.01401, section 3.
    """
    x, y = _checked(generated, data, at_least=2)
    kxx, kyy, kxy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))

    def value_of(u: Array, v: Array) -> Array:
        """u, v: (B, N) and (B, M) counts of each sample; pairs of a sample with itself are left out."""
        cross = ((u @ kxy) * v).sum(-1) / (u.sum(-1) * v.sum(-1))
        return _off_diagonal_mean(kxx, u) + _off_diagonal_mean(kyy, v) - 2 * cross

    value = float(value_of(np.ones((1, len(x))), np.ones((1, len(y))))[0])
    weights = list(_paired_weights(len(x), len(y), resamples, seed))
    u, v = (np.stack(part) for part in zip(*weights, strict=True))
    several = ((u > 0).sum(1) > 1) & ((v > 0).sum(1) > 1)  # else there is no pair to average
    return _centred(value, value_of(u[several], v[several]), min(len(x), len(y)), "KD")


def precision_recall(generated: Tensor, data: Tensor, *, k: int = 5) -> dict[str, Estimate]:
    """Precision, recall, density and coverage by k nearest neighbours.

    generated: features of samples, (N, D), N above k.
    data: features of data, (M, D), M above k.
    k: how far the ball of a point reaches: to its k-th nearest neighbour in its own set.
    Returns "precision", the share of generated samples in the ball of some data point; "recall", the share of data
    in the ball of some generated sample; "density", in how many balls of data a generated sample lies, over k (can
    exceed 1); "coverage", the share of data whose ball holds a generated sample. Each interval is over the samples
    that are counted, given the other set.
    Source: Kynkaanniemi et al. 2019, arXiv 1904.06991; Naeem et al. 2020, arXiv 2002.09797.
    """
    positive_int("k", k)
    x, y = (torch.from_numpy(a) for a in _checked(generated, data, at_least=k + 1))
    near = torch.cdist(y, x)  # (M, N)
    in_data_ball = near <= _radii(y, k)[:, None]
    in_generated_ball = near <= _radii(x, k)[None, :]
    shares = {
        "precision": in_data_ball.any(0),
        "recall": in_generated_ball.any(1),
        "coverage": in_data_ball.any(1),
    }
    estimates = {name: wilson(int(hit.sum()), len(hit)).named(name) for name, hit in shares.items()}
    density = bootstrap((in_data_ball.sum(0) / k).numpy(), "mean").named("density")
    return {**estimates, "density": density}


def _frechet_by_products(x: Array, y: Array) -> tuple[float, Array, Array]:
    """FD of centred rows without their means' part, and each row's influence on it; no D x D matrix.

    With A = X / sqrt(n - 1) and B alike, trace sqrt(A'A B'B) is the sum of the singular values of AB'.
    """
    scale_x, scale_y = len(x) - 1, len(y) - 1
    cross = x @ y.T / np.sqrt(scale_x * scale_y)
    left, values, right = np.linalg.svd(cross, full_matrices=False)
    pull = cross * (left @ right)
    square_x, square_y = (x * x).sum(1), (y * y).sum(1)
    value = square_x.sum() / scale_x + square_y.sum() / scale_y - 2 * values.sum()
    return float(value), square_x - scale_x * pull.sum(1), square_y - scale_y * pull.sum(0)


def _frechet_by_covariance(x: Array, y: Array) -> tuple[float, Array, Array]:
    """The same as `_frechet_by_products`, cheaper where samples outnumber dimensions."""
    cov_x, cov_y = x.T @ x / (len(x) - 1), y.T @ y / (len(y) - 1)
    to_y, overlap = _transport(cov_x, cov_y)
    to_x, _ = _transport(cov_y, cov_x)
    value = np.trace(cov_x) + np.trace(cov_y) - 2 * overlap
    return float(value), ((x - x @ to_y) * x).sum(1), ((y - y @ to_x) * y).sum(1)


def _transport(cov: Array, other: Array) -> tuple[Array, float]:
    """The optimal linear map between centred Gaussians, and the trace of sqrt(cov other)."""
    values, vectors = np.linalg.eigh(cov)
    scale = np.sqrt(values.clip(0))
    root = (vectors * scale) @ vectors.T
    kept = scale > 1e-6 * scale[-1]
    inverse = (vectors[:, kept] / scale[kept]) @ vectors[:, kept].T
    values, vectors = np.linalg.eigh(root @ other @ root)
    scale = np.sqrt(values.clip(0))
    return inverse @ (vectors * scale) @ vectors.T @ inverse, float(scale.sum())


def _off_diagonal_mean(kernel: Array, counts: Array) -> Array:
    own = counts**2
    total = ((counts @ kernel) * counts).sum(-1) - own @ np.diag(kernel)
    return total / (counts.sum(-1) ** 2 - own.sum(-1))


def _paired_weights(n: int, m: int, resamples: int, seed: int) -> Iterator[tuple[Array, Array]]:
    """Bootstrap as counts: how often each sample of the two sets is drawn."""
    generator = np.random.default_rng(seed)
    for _ in range(positive_int("resamples", resamples)):
        yield (
            generator.multinomial(n, np.full(n, 1 / n)).astype(np.float64),
            generator.multinomial(m, np.full(m, 1 / m)).astype(np.float64),
        )


def _centred(value: float, draws: list[float] | Array, n: int, name: str) -> Estimate:
    """The bootstrap's spread around the value: drawing with replacement has a bias of its own, removed."""
    spread = np.asarray(draws, dtype=np.float64)
    return interval(value, spread - np.median(spread) + value, n).named(name)


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance of every row to its k-th nearest other row."""
    return torch.cdist(x, x).kthvalue(k + 1, dim=1).values


def _checked(generated: Tensor, data: Tensor, at_least: int) -> tuple[Array, Array]:
    if generated.ndim != 2 or data.ndim != 2 or generated.shape[1] != data.shape[1]:
        raise HastenError(f"features must be (N, D) and (M, D), got {tuple(generated.shape)} and {tuple(data.shape)}")
    if min(len(generated), len(data)) < at_least:
        raise HastenError(f"{at_least} samples a set are the least, got {len(generated)} and {len(data)}")
    x, y = (a.detach().double().cpu().numpy() for a in (generated, data))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise HastenError("features hold values that are not finite")
    return x, y
