"""OptimalBoundary: the one noise whose results are best on average over a reference set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.core.fitters import fitters
from hasten.starts import OptimalBoundary

KEPT, GROWN = 4, 2  # halving keeps one candidate in so many, and then looks at so many times as many pairs

Solve = Callable[[Tensor, Tensor], Tensor]  # start noise (rows, ...), inputs (rows, ...) -> results
Distance = Callable[[Tensor, Tensor], Tensor]  # results, truths (rows, ...) -> one number a row, less is better


@fitters.of(OptimalBoundary)
def fit(
    start: OptimalBoundary, solve: Solve, candidates: Tensor, inputs: Tensor, truths: Tensor, distance: Distance,
    halving: bool = False, first: int = 4,
) -> OptimalBoundary:  # fmt: skip
    """`OptimalBoundary().fit(solve, candidates, ...)`: with the noise whose results are nearest to the truths.

    solve: noise and inputs -> the results of the very solver and steps to be used later, row by row.
    candidates: unit noises to choose from, (k, ...).
    inputs: of the reference pairs, (n, ...).
    truths: of the reference pairs, (n, ...).
    distance: results, truths -> one number a row; a perceptual one, mean squared error prefers blurry results.
    halving: score all on `first` pairs, then the better quarter on twice as many, and so on: about a quarter of the
        k n runs.
    first: how many pairs halving begins with.

    Raises HastenError if inputs, truths or candidates are missing, or inputs and truths are not as many.
    Source: Ma et al. 2023, the search for the boundary condition over a reference set.
    """
    if len(inputs) != len(truths) or not len(inputs) or not len(candidates):
        raise HastenError(
            f"inputs: give as many as truths, and at least one; got {len(inputs)} and {len(truths)}, "
            f"and {len(candidates)} candidates"
        )
    alive = torch.arange(len(candidates))
    pairs = min(first, len(inputs)) if halving else len(inputs)
    while True:
        distances = scores(solve, candidates[alive], inputs[:pairs], truths[:pairs], distance)
        if pairs == len(inputs):
            return replace(start, best=candidates[alive[distances.argmin()]].clone())
        alive = alive[distances.argsort()[: max(1, -(-len(alive) // KEPT))]]
        pairs = min(GROWN * pairs, len(inputs)) if len(alive) > 1 else len(inputs)


def scores(solve: Solve, candidates: Tensor, inputs: Tensor, truths: Tensor, distance: Distance) -> Tensor:
    """The mean distance of each candidate's results from the truths, (k,).

    solve, candidates, inputs, truths, distance: see `fit`.
    """
    return torch.stack(
        [distance(solve(one.expand(len(inputs), *one.shape), inputs), truths).mean() for one in candidates]
    )
