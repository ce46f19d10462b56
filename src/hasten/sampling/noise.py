"""The noise that a stochastic solver asks for: replayable, fresh for every query or from one Brownian path."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.processes import Array, Process
from hasten.solvers.base import Noise

TOLERANCE = 1e-8  # of a Brownian path: times nearer to one another are one


def seeded_noise(like: Tensor, seed: int) -> Noise:
    """Unit noise whose draw for query i depends on (seed, i) alone.

    like: a state, whose shape, dtype and device the noise has.
    seed: a whole number of at least 0.
    """

    def draw(step: int) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))
        return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)

    return draw


def brownian_noise(like: Tensor, seed: int, process: Process, times: Array) -> Noise:
    """Unit noise whose draw i is the increment of a Brownian path from times[i] to times[i + 1].

    The path runs over the level sigma / (alpha + sigma), which is finite wherever a run can be, and depends on
    the seed alone: an increment is the sum of those of its parts, at any number of steps.

    like: a state, whose shape, dtype and device the noise has.
    seed: a whole number of at least 0.
    process: what alpha and sigma are.
    times: of the queries, and the last one; they may not rise.
    Raises HastenError if times rise: noise that is put back (churn) is not the increment of one path.
    """
    import torchsde

    if (np.diff(times) > 0).any():
        raise HastenError("brownian: this solver goes back up in noise, which no single path does; leave it out")
    alpha, sigma = process.alpha(times), process.sigma(times)
    levels = (sigma / (alpha + sigma)).tolist()
    path = torchsde.BrownianTree(0.0, torch.zeros_like(like, device="cpu"), 1.0, entropy=seed, tol=TOLERANCE)

    def draw(step: int) -> Tensor:
        low, high = levels[step + 1], levels[step]
        return (path(low, high) / (high - low) ** 0.5).to(like.device)

    return draw
