"""Weights of a linear multistep solver that lead along a known course, step by step, by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hasten.fitting.course import Course
from hasten.fitting.runs import shown
from hasten.processes import Array


def along(
    course: Course, denoiser: Any, x: Tensor, times: Array, start: Sequence[Sequence[float]], order: int, ridge: float
) -> list[list[float]]:
    """For each step the weights of the state and of the last `order` data predictions, newest first.

    Every step is fitted from where the steps before it really lead, so it makes up for their errors.
    start: weights of each step to start from, and to stay near where the states leave others undetermined:
    ridge times the square of what each term changes is added to the squared error.
    """
    found: list[list[float]] = []
    past: list[Tensor] = []
    for i in shown("weights of each step", range(len(times) - 1)):
        p = denoiser(x, times[i])
        past = [p.data, *past][:order]
        terms = [p.state, *past]
        first = torch.zeros(len(terms), dtype=torch.float64)
        known = start[i][: len(terms)]
        first[: len(known)] = torch.tensor(known, dtype=torch.float64)
        matrix = torch.stack([term.flatten().double() for term in terms], 1)
        gram = matrix.T @ matrix
        rest = course.at(times[i + 1]).flatten().double() - matrix @ first
        change = torch.linalg.solve(gram + ridge * torch.diag(gram.diagonal()), matrix.T @ rest)
        found.append((first + change).tolist())
        x = sum((weight * term for weight, term in zip(found[-1], terms)), torch.zeros_like(x))
    return found
