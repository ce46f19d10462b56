"""Teleports: the mean and the covariance of data, for every start that takes them for a Gaussian."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.core.fitters import fitters
from hasten.denoisers import DenoiserLike
from hasten.sampling import sample
from hasten.starts.gaussian import Moments

NOTHING = 1e-12  # of the largest singular value: directions below are rounding

M = TypeVar("M", bound=Moments)


@fitters.of(Moments)
def fit(start: M, data: Tensor) -> M:
    """`GaussianTeleport().fit(data)`: with the moments of data.

    data: (n, ...), two rows or more, in the scale the network works in (latents, or pixels in [-1, 1]).

    Raises HastenError for a single row.
    """
    if len(data) < 2:
        raise HastenError(f"data: {len(data)} rows are too few for a covariance; give at least 2")
    flat = data.double().flatten(1)
    _, values, vectors = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    kept = min(start.rank, int((values > values[0] * NOTHING).sum()))
    return replace(
        start, mean=data.double().mean(0), basis=vectors[:kept].contiguous().reshape(kept, *data.shape[1:]),
        variances=values[:kept].square() / (len(data) - 1),
    )  # fmt: skip


def fit_model(
    start: M, denoiser: DenoiserLike, shape: tuple[int, ...], count: int = 1000, steps: int = 20, seed: int = 0
) -> M:
    """A start with the moments of samples of a model, where its data are not at hand.

    start: whose settings the fitted one has.
    denoiser: the model.
    shape: of one sample.
    count: how many samples.
    steps: of each.
    seed: of their noise.
    """
    noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
    return fit(start, sample(denoiser, noise * denoiser.process.start_scale, steps=steps))
