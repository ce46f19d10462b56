"""Weights of a linear step, by least squares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def least_squares(terms: Sequence[Tensor], aim: Tensor, start: Sequence[float], ridge: float) -> list[float]:
    """The weights with which the terms add up to what is nearest to the aim, all rows and entries alike.

    terms: shaped like the aim.
    aim: (rows, ...).
    start: the weights (fewer are filled up with 0) that they stay near where the terms leave them undetermined.
    ridge: times the square of what each change makes of its term, it is added to the squared error; above 0.
    """
    matrix = torch.stack([term.flatten().double() for term in terms], 1)
    first = torch.zeros(len(terms), dtype=torch.float64, device=matrix.device)
    known = list(start)[: len(terms)]
    first[: len(known)] = torch.tensor(known, dtype=torch.float64)
    gram = matrix.T @ matrix
    rest = aim.flatten().double() - matrix @ first
    change = torch.linalg.solve(gram + ridge * torch.diag(gram.diagonal()), matrix.T @ rest)
    return (first + change).tolist()
