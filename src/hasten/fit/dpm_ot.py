"""DPM-OT: the heights that give every target the same share of the noise, by Adam."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from hasten.core.errors import HastenError, positive_int
from hasten.core.fitters import fitters
from hasten.processes import Process
from hasten.starts import DPMOT
from hasten.starts.dpm_ot import highest

DRAWN = 10  # noises a target at first
MOST_DRAWN = 200  # noises a target at most
PATIENCE, CUT = 50, 0.8  # iterations without a smaller gradient, and what the rate is then multiplied with
MOMENTUM, POWER = (0.9, 0.1), (0.999, 0.001)  # of Adam: the shares of what was and of what is new
SMALLEST = 1e-8  # of Adam: added to what is divided by


@fitters.of(DPMOT)
def fit(
    start: DPMOT, process: Process, data: Tensor, at: float, iterations: int = 3000, rate: float = 0.1,
    batch: int | None = None, nearest: bool = True, tolerance: float = 8e-4, seed: int = 0,
) -> DPMOT:  # fmt: skip
    """`DPMOT().fit(process, data, at)`: with noised data, and the heights that make all cells of the same mass.

    process: of the model.
    data: clean, (n, ...).
    at: the time that they are noised to, above 0.
    iterations: at most so many. It ends early where the masses are off by less than `tolerance`.
    rate: of Adam; after 50 iterations without a smaller gradient it is cut by a fifth, and the batch doubled.
    batch: noises an iteration; None is 10 n.
    nearest: begin with each noise going to its nearest target, else with heights of 0.
    tolerance: 2-norm of how far the masses are off.
    seed: of all noise.

    Raises HastenError for a time that is not one of the process, or no data.
    Source: Li et al. 2023, the semi-discrete Brenier potential and its Adam solver.
    """
    positive_int("iterations", iterations)
    if len(data) < 1 or not 0 < at <= process.t_max:
        raise HastenError(f"at: {at:g} is not possible; give a time above 0 up to {process.t_max:g}, and some data")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(data.shape, generator=generator, dtype=data.dtype).to(data.device)
    targets = float(process.alpha(at)) * data + float(process.sigma(at)) * noise
    flat = targets.flatten(1)
    heights = flat.square().sum(1) / -2 if nearest else torch.zeros(len(data)).to(flat)
    heights = balanced(flat, heights, iterations, rate, batch or DRAWN * len(data), tolerance, generator)
    return replace(start, targets=targets, heights=heights, at=float(at))


def balanced(
    flat: Tensor, heights: Tensor, iterations: int, rate: float, drawn: int, tolerance: float,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """The heights that give all targets the same share of the noise, as nearly as was seen.

    flat: the targets, (n, size).
    heights: to begin with, (n,).
    drawn: noises an iteration at first.
    generator: of the noise.
    iterations, rate, tolerance: see `fit`.
    """
    count, stalled = len(flat), 0
    momentum, power = torch.zeros_like(heights), torch.zeros_like(heights)
    best, least = heights, float("inf")
    for _ in range(iterations):
        z = torch.randn(drawn, flat.shape[1], generator=generator, dtype=flat.dtype).to(flat.device)
        mass = torch.bincount(highest(z, flat, heights), minlength=count) / drawn
        gradient = (mass - 1 / count).to(heights)
        off = float(gradient.norm())
        stalled = 0 if off < least else stalled + 1
        if off < least:
            best, least = heights, off
        if least < tolerance and bool((mass > 0).all()):
            break
        if stalled == PATIENCE:
            drawn, rate, stalled, least = min(2 * drawn, MOST_DRAWN * count), CUT * rate, 0, float("inf")
        momentum = MOMENTUM[0] * momentum + MOMENTUM[1] * gradient
        power = POWER[0] * power + POWER[1] * gradient.square()
        heights = heights - rate * momentum / (power.sqrt() + SMALLEST)
        heights = heights - heights.mean()
    return best
