"""What a few-step run is fitted to, and a loss that sees flips."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hasten.core.console import tracked
from hasten.denoisers import DenoiserLike
from hasten.fit.runs import integrate
from hasten.grids import schedule
from hasten.processes import Array

OFFSETS = (0.003, 0.01, 0.03)  # radians from a watershed at which flips are looked for
FINE = 24  # steps of Karras times on which a run to data counts as converged
SUBSTEPS = 8  # Runge-Kutta steps an interval for a run that ends before data
NO_ERROR = 1e-12  # added to errors, whose logarithm is taken
TAIL = 0.5  # the weight of the 95th percentile of the errors beside their mean, of weight 1
SHARPNESS = 4  # the power of the odds of a flip: high enough to count flips, smooth enough to be searched
BROKEN = 1e3  # the loss of runs that are not finite
PENALTY = 3  # for each time that flips exceed what is allowed
ALLOWED = 0.9  # of the allowed share of flips: from there on they cost
FEWEST = 1e-3  # flips that are always allowed


@dataclass(frozen=True)
class Aim:
    """What a few-step run is judged by: converged solutions, and where they jump from one to another.

    A few rows say little about flips, which are rare; so pairs of start states with different results are bisected,
    along the arc between them, for the place where the result jumps. A run that flips near there has moved the
    watershed; how many do is proportional to the flips among random noises.

    x: start states, (rows, ...).
    solution: their converged results.
    near: states just beside such places, (rows, ...), or none.
    here: their converged results.
    across: the converged results on the other side.
    """

    x: Tensor
    solution: Tensor
    near: Tensor
    here: Tensor
    across: Tensor

    @classmethod
    def of(cls, converged: Callable[[Tensor], Tensor], noises: Tensor, bisections: int = 10) -> Aim:
        """The aim of known noises and of the watersheds between them.

        converged: start states -> their results.
        noises: the start states, rows of an even count paired up.
        bisections: of each pair, each one call of `converged`.
        """
        solution, half = converged(noises), len(noises) // 2
        a, b, to_a, to_b = noises[:half], noises[half : 2 * half], solution[:half], solution[half : 2 * half]
        low = torch.zeros(half, *(1,) * (noises.ndim - 1), dtype=noises.dtype, device=noises.device)
        high = low + math.pi / 2
        for _ in tracked(range(bisections), "where results jump"):
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
    def of_model(cls, denoiser: DenoiserLike, noises: Tensor, times: Array | None = None) -> Aim:
        """The aim of a model's runs, solved by Runge-Kutta.

        denoiser: the model.
        noises: the start states, rows of an even count paired up.
        times: of the runs, which matter where they do not end on data; None for runs that do.
        """
        if times is None or times[-1] == 0:
            fine = schedule("karras", denoiser.process, FINE)
            return cls.of(lambda x: integrate(denoiser, x, fine, substeps=1)[-1], noises)
        return cls.of(lambda x: integrate(denoiser, x, times, SUBSTEPS)[-1], noises)

    @classmethod
    def at(cls, noises: Tensor, solution: Tensor) -> Aim:
        """Known converged results and no states beside watersheds: flips are seen among the noises alone.

        noises: the start states, (rows, ...).
        solution: their converged results.
        """
        nothing = noises[:0]
        return cls(noises, solution, nothing, nothing, nothing)

    def judge(self, run: Callable[[Tensor], Tensor]) -> tuple[float, float]:
        """Mean log error (the 95th percentile counting half as much), and the share of flips near watersheds.

        run: start states -> their results.
        """
        y = run(torch.cat([self.x, self.near]))
        result, near = y[: len(self.x)], y[len(self.x) :]
        error = _gap(result, self.solution).double() + NO_ERROR
        size = (error.log().mean() + TAIL * error.quantile(0.95).log()).item() / (1 + TAIL)
        if not len(near):
            return size, 0.0
        # a power of the odds, so that the share is smooth in what is searched
        odds = _gap(near, self.here).double().log() - _gap(near, self.across).double().log()
        return size, torch.sigmoid(SHARPNESS * odds).mean().item()

    def loss(self, run: Callable[[Tensor], Tensor], flips: float) -> float:
        """One number to minimise: the log error, plus a penalty once flips exceed 0.9 of the allowed share.

        run: start states -> their results.
        flips: the allowed share.
        """
        size, share = self.judge(run)
        if not math.isfinite(size):
            return BROKEN
        return size + PENALTY * max(0.0, share / max(flips, FEWEST) - ALLOWED)


def _arc(a: Tensor, b: Tensor, angle: Tensor) -> Tensor:
    return angle.cos() * a + angle.sin() * b


def _gap(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).square().mean(1).sqrt()
