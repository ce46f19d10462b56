"""Averages of a network's derivatives over noised data, by central differences (no automatic ones needed)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hasten.denoisers import DenoiserLike

VANISHING = 1e-6  # share of the noise prediction's own variance that keeps a regression on nothing at 0


@dataclass(frozen=True)
class Probe:
    """Averages over noised data at a lam.

    denoiser: the model.
    data: clean, (rows, ...).
    step: of central differences, in lam and in units of the state.
    seed: of the noise.
    batch: how many rows the network sees at once.
    over: the dimensions averaged; 0 is rows.
    """

    denoiser: DenoiserLike
    data: Tensor
    step: float
    seed: int
    batch: int
    over: tuple[int, ...]

    def slope(self, lam: float) -> Tensor:
        """The mean diagonal of sigma times the noise prediction's Jacobian, by random signs."""
        total = torch.zeros(())
        for x, alpha, sigma, t, generator in self._noised(lam):
            signs = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
            move = self.step * math.hypot(alpha, sigma) * signs
            ahead, behind = (self.denoiser(x + side * move, t).noise for side in (1, -1))
            total = total + (sigma * (ahead - behind) / (2 * move)).sum(self.over).cpu()
        return total / self._count

    def affine(self, lam: float, l: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:  # noqa: E741
        """s and b of the regression f' = s f + b, f' along the ODE.

        lam: where.
        l: the linear part there, for every coordinate or one number.
        turn: its derivative in lam.
        """
        sums: list[Tensor] = [torch.zeros(())] * 5
        process = self.denoiser.process
        l, turn = l.to(self.data), turn.to(self.data)  # noqa: E741
        for x, alpha, sigma, t, _ in self._noised(lam):
            p = self.denoiser(x, t)
            sides = []
            for shift in (self.step, -self.step):
                at = float(process.time(lam + shift))
                along = float(process.alpha(at)) * p.data + float(process.sigma(at)) * p.noise
                sides.append(self.denoiser(along, at).noise)
            change = (sides[0] - sides[1]) / (2 * self.step)
            f = (sigma * p.noise - l * x) / alpha
            slope = sigma / alpha * ((l - 1) * p.noise + change) - turn * x / alpha
            terms = (f, slope, f * f, f * slope, (sigma / alpha * p.noise) ** 2)
            sums = [total + term.sum(self.over).cpu() for total, term in zip(sums, terms)]
        f, slope, ff, fs, scale = (total / self._count for total in sums)
        s = (fs - f * slope) / (ff - f * f + VANISHING * scale)  # where f vanishes there is nothing to model
        return s, slope - s * f

    @property
    def _count(self) -> int:
        return math.prod(self.data.shape[d] for d in self.over)

    def _noised(self, lam: float) -> Iterator[tuple[Tensor, float, float, float, torch.Generator]]:
        """Batches of noised data, the same noise at every lam: x, alpha, sigma, t, a generator."""
        t = float(self.denoiser.process.time(lam))
        alpha, sigma = float(self.denoiser.process.alpha(t)), float(self.denoiser.process.sigma(t))
        generator = torch.Generator().manual_seed(self.seed)
        for clean in self.data.split(self.batch):
            noise = torch.randn(clean.shape, dtype=clean.dtype, generator=generator).to(clean.device)
            yield alpha * clean + sigma * noise, alpha, sigma, t, generator
