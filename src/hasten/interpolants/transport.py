"""From the base to the data or back, by an ODE or an SDE with the same densities."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from torch import Tensor

from hasten.core.errors import HastenError, positive_int
from hasten.interpolants.paths import FieldsLike
from hasten.sampling import seeded_noise


def transport(
    fields: FieldsLike, x: Tensor, steps: int = 100, diffusion: float = 0.0, heun: bool = True, seed: int = 0,
    start: float = 1.0, end: float = 0.0,
) -> Tensor:  # fmt: skip
    """Carry states from one time to another, either way, in equal steps.

    fields: (x, t) -> Fields; a `MixtureBridge`, or networks. With networks stay 1e-3 from both ends, where
        gamma = 0 has no score.
    x: states at the first time, (rows, ...).
    steps: how many, at least 1.
    diffusion: 0 follows the ODE; above 0 the SDE with that much noise, which has the same densities. It can be
        chosen after training: the bound on the KL divergence is least at
        |error of the velocity| / |error of the score|.
    heun: two evaluations a step, at its two ends, after the noise of the step is added (the authors' code takes
        both at the end, which is first order for the ODE); else Euler-Maruyama, with one.
    seed: of the noise.
    start: the first time, within [0, 1].
    end: the last time, within [0, 1].
    Returns the states at the last time.
    Raises HastenError for an impossible setting, and where diffusion needs a score that there is not.
    Source: Albergo et al. 2023, arXiv 2303.08797.
    """
    positive_int("steps", steps)
    if not diffusion >= 0:
        raise HastenError(f"diffusion: {diffusion} is not possible; give a number of at least 0")
    if not (0 <= min(start, end) < max(start, end) <= 1):
        raise HastenError(f"start, end: {start} and {end} are not possible; give two times within [0, 1]")
    noise, times = seeded_noise(x, seed), np.linspace(start, end, steps + 1)

    def slope(x: Tensor, t: float, h: float) -> Tensor:
        velocity, score = fields(x, t)
        if not diffusion:
            return velocity
        if score is None:
            raise HastenError(f"diffusion: there is no score at time {t:g}; give 0, or stay away from the ends")
        return velocity + math.copysign(diffusion, h) * score

    for step, (s, t) in enumerate(pairwise(times.tolist())):
        h = t - s
        if diffusion:
            x = x + math.sqrt(2 * diffusion * abs(h)) * noise(step)
        first = slope(x, s, h)
        if not heun:
            x = x + h * first
            continue
        x = x + h / 2 * (first + slope(x + h * first, t, h))
    return x
