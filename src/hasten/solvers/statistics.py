"""A model's statistics l, s, b over lam, as DPM-Solver-v3 has them: read between points, and integrated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hasten.processes import Array

CELL = 0.1  # in lam: integrals are taken cell by cell
POINTS = 4  # of Gauss-Legendre in a cell
MOMENTS = 4  # of a step: an update weighs up to four values
_NODES, _WEIGHTS = (a / 2 for a in np.polynomial.legendre.leggauss(POINTS))
_NODES = _NODES + 0.5
_POWERS = np.vander(_NODES, increasing=True)
_PARTIAL = (_POWERS * _NODES[:, None] / np.arange(1, POINTS + 1)) @ np.linalg.inv(_POWERS)  # \int_0^node of the cubic


class Integrals(NamedTuple):
    r"""Of one step, relative to its start.

    L: \int l over the step.
    S: \int s over the step.
    B: \int e^{-S} b over the step.
    moments: \int e^{L+S} u^k for k < 4, u the distance from the start in lam.
    C: \int e^{L+S} B.
    """

    L: Tensor
    S: Tensor
    B: Tensor
    moments: list[Tensor]
    C: Tensor


@dataclass(frozen=True)
class Statistics:
    """A model's statistics l, s and b over lam.

    tables: (3, points, ...) of l, s, b, uniform in lam over `span`; None for 1, 0, 0 everywhere.
    span: the first and the last lam of the tables.
    """

    tables: Tensor | None
    span: tuple[float, ...]

    def at(self, lam: Array) -> Tensor:
        """(3, len(lam), ...): l, s, b at these lams, linear between the points and constant beyond them."""
        if self.tables is None:
            return torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)[:, None].expand(3, len(lam))
        tables = self.tables.to("cpu", torch.float64)
        where = torch.as_tensor(np.interp(lam, self.span, (0, tables.shape[1] - 1)))
        below = where.long().clamp(max=max(0, tables.shape[1] - 2))
        above = (below + 1).clamp(max=tables.shape[1] - 1)
        return torch.lerp(tables[:, below], tables[:, above], (where - below).reshape(-1, *[1] * (tables.ndim - 2)))

    def integrals(self, start: float, end: float) -> Integrals:
        """The integrals of a step.

        start: lam where it begins.
        end: lam where it ends.
        """
        cells = max(1, math.ceil((end - start) / CELL))
        width = (end - start) / cells
        offsets = width * (np.arange(cells)[:, None] + _NODES)  # (cells, POINTS)
        l, s, b = self.at(start + offsets.ravel()).unflatten(1, (cells, POINTS))  # noqa: E741
        weights, partial = torch.as_tensor(_WEIGHTS * width), torch.as_tensor(_PARTIAL * width)

        def total(values: Tensor) -> Tensor:
            return torch.einsum("g,cg...->...", weights, values)

        def cumulated(values: Tensor) -> Tensor:
            cell = torch.einsum("g,cg...->c...", weights, values)
            return (cell.cumsum(0) - cell)[:, None] + torch.einsum("hg,cg...->ch...", partial, values)

        L, S = cumulated(l), cumulated(s)
        inner = torch.exp(-S) * b
        B, growth = cumulated(inner), torch.exp(L + S)
        u = torch.as_tensor(offsets).reshape(cells, POINTS, *[1] * (l.ndim - 2))
        moments = [total(growth * u**k) for k in range(MOMENTS)]
        return Integrals(total(l), total(s), total(inner), moments, total(growth * B))

    def along(self, lam: Array) -> tuple[list[Integrals], list[Tensor], list[Tensor]]:
        """The integrals of every step between these (rising) lams, and S and B from the first to each of them."""
        parts = [self.integrals(start, end) for start, end in pairwise(lam)]
        S, B = [torch.zeros((), dtype=torch.float64)], [torch.zeros((), dtype=torch.float64)]
        for part in parts:
            B.append(B[-1] + torch.exp(-S[-1]) * part.B)
            S.append(S[-1] + part.S)
        return parts, S, B


def powers_through(at: Array, pseudo: bool) -> Array:
    """(k, node): the coefficient of u^k in the polynomial through values at some nodes.

    at: u of the nodes.
    pseudo: the k-th divided difference over the first k + 1 nodes instead.
    """
    if not pseudo:
        return np.linalg.inv(np.vander(at, increasing=True))
    differences = np.zeros((len(at), len(at)))
    for k in range(1, len(at) + 1):
        differences[k - 1, :k] = 1 / (at[:k, None] - at[:k] + np.eye(k)).prod(1)
    return differences
