"""One noise for all pictures: the start that makes a super-resolution model best on average."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.core.registry import Paper
from hasten.processes import Process
from hasten.starts.base import STARTS, Start

Solve = Callable[[Tensor, Tensor], Tensor]  # start noise (rows, ...), inputs (rows, ...) -> results
Distance = Callable[[Tensor, Tensor], Tensor]  # results, truths (rows, ...) -> one number a row, less is better


@STARTS.add
@dataclass(frozen=True, eq=False)
class OptimalBoundary(Start):
    """The same searched noise for every row, for conditional models with one right answer (super-resolution).

    best (...): unit noise. Deterministic solvers only; results have no diversity, by design. For another size
    search again: noise must not be interpolated.
    Source: Ma et al. 2023, the search for the boundary condition over a reference set.
    """

    best: Tensor | None = None
    name = "optimal-boundary"
    paper = Paper("Solving Diffusion ODEs with Optimal Boundary Conditions for Better Super-Resolution", 2023,
                  "2305.15357")  # fmt: skip

    def fit(
        self, solve: Solve, candidates: Tensor, inputs: Tensor, truths: Tensor, distance: Distance,
        halving: bool = False, first: int = 4,
    ) -> OptimalBoundary:  # fmt: skip
        """With the one of `candidates` (k, ...), unit noises, whose results are nearest to the truths on average.

        solve(noise, inputs): the results of the very solver and steps to be used later, row by row. inputs,
        truths: the reference pairs (n, ...). distance: a perceptual one; mean squared error prefers blurry
        results. halving: score all on `first` pairs, then the better quarter on twice as many, and so on: about
        a quarter of the k n runs.
        """
        if len(inputs) != len(truths) or not len(inputs) or not len(candidates):
            raise HastenError(
                f"inputs: give as many as truths, and at least one; got {len(inputs)} and {len(truths)}, "
                f"and {len(candidates)} candidates"
            )
        alive = torch.arange(len(candidates))
        pairs = min(first, len(inputs)) if halving else len(inputs)
        while True:
            found = scores(solve, candidates[alive], inputs[:pairs], truths[:pairs], distance)
            if pairs == len(inputs):
                return dataclasses.replace(self, best=candidates[alive[found.argmin()]].clone())
            alive = alive[found.argsort()[: max(1, -(-len(alive) // 4))]]
            pairs = min(2 * pairs, len(inputs)) if len(alive) > 1 else len(inputs)

    def __call__(self, process: Process, noise: Tensor, time: float | None = None) -> tuple[Tensor, float]:
        best = self._fitted("best")
        self._check_shape(noise, best.shape)
        time = self._only_time(time, process.t_max)
        return best.to(noise).expand(noise.shape) * process.start_scale, time


def scores(solve: Solve, candidates: Tensor, inputs: Tensor, truths: Tensor, distance: Distance) -> Tensor:
    """The mean distance of each candidate's results from the truths, (k,)."""
    return torch.stack(
        [distance(solve(one.expand(len(inputs), *one.shape), inputs), truths).mean() for one in candidates]
    )
