"""What a few-step run is fitted to, and a loss that sees flips."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hasten.fit.runs import shown

OFFSETS = (0.003, 0.01, 0.03)  # radians from a watershed at which flips are looked for


@dataclass(frozen=True)
class Aim:
    """What a few-step run is judged by: converged solutions, and where they jump from one to another.

    x, solution: start states and their converged results, (rows, ...). A few rows say little about flips,
    which are rare; so pairs of start states with different results are bisected, along the arc between them,
    for the place where the result jumps. `near` holds states just beside such places, `here` their converged
    results, `across` the results on the other side. A run that flips there has moved the watershed; how many
    do is proportional to the flips among random noises.
    """

    x: Tensor
    solution: Tensor
    near: Tensor
    here: Tensor
    across: Tensor

    @classmethod
    def of(cls, converged: Callable[[Tensor], Tensor], noises: Tensor, bisections: int = 10) -> Aim:
        """converged: start states -> their results. noises: the start states, rows of an even count paired up."""
        solution, half = converged(noises), len(noises) // 2
        a, b, to_a, to_b = noises[:half], noises[half : 2 * half], solution[:half], solution[half : 2 * half]
        low = torch.zeros(half, *(1,) * (noises.ndim - 1), dtype=noises.dtype, device=noises.device)
        high = low + math.pi / 2
        for _ in shown("where results jump", range(bisections)):
            middle = (low + high) / 2
            y = converged(_arc(a, b, middle))
            nearer_a = (_gap(y, to_a) < _gap(y, to_b)).reshape(low.shape)
            low, high = torch.where(nearer_a, middle, low), torch.where(nearer_a, high, middle)
        angles = [(low + high) / 2 + side * offset for side in (-1, 1) for offset in OFFSETS]
        near = torch.stack([_arc(a, b, angle) for angle in angles])
        here = converged(near.flatten(0, 1)).reshape(near.shape)
        across = here.roll(len(OFFSETS), 0)
        jumps = _gap(here[0], across[0]) > _gap(to_a, to_b) / 2
        return cls(noises, solution, *(z[:, jumps].flatten(0, 1) for z in (near, here, across)))

    @classmethod
    def at(cls, noises: Tensor, solution: Tensor) -> Aim:
        """Known converged results and no states beside watersheds: flips are seen among the noises alone."""
        nothing = noises[:0]
        return cls(noises, solution, nothing, nothing, nothing)

    def judge(self, run: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """Mean log error (the 95th percentile counting half as much), and the share of flips near watersheds."""
        y = run(torch.cat([self.x, self.near]))
        result, near = y[: len(self.x)], y[len(self.x) :]
        error = _gap(result, self.solution).double() + 1e-12
        size = (error.log().mean() + 0.5 * error.quantile(0.95).log()).item() / 1.5
        if not len(near):
            return size, 0.0
        # the fourth power of the odds, so that the share is smooth in what is searched
        odds = _gap(near, self.here).double().log() - _gap(near, self.across).double().log()
        return size, torch.sigmoid(4 * odds).mean().item()

    def loss(self, run: Callable[[Tensor], Tensor], flips: float) -> float:
        """One number to minimise: the log error, plus a penalty once flips exceed 0.9 of the allowed share."""
        size, share = self.judge(run)
        if not math.isfinite(size):
            return 1e3
        return size + 3 * max(0.0, share / max(flips, 1e-3) - 0.9)


def _arc(a: Tensor, b: Tensor, angle: Tensor) -> Tensor:
    return angle.cos() * a + angle.sin() * b


def _gap(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).square().mean(1).sqrt()
