"""A model's statistics l, s, b over lam, as DPM-Solver-v3 measures them: read between points, and integrated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hasten.fit.probe import Probe
from hasten.fit.runs import shown
from hasten.processes import Array

CELL = 0.1  # in lam: integrals are taken cell by cell
_NODES, _WEIGHTS = (a / 2 for a in np.polynomial.legendre.leggauss(4))
_NODES = _NODES + 0.5
_POWERS = np.vander(_NODES, increasing=True)
_PARTIAL = (_POWERS * _NODES[:, None] / np.arange(1, 5)) @ np.linalg.inv(_POWERS)  # \int_0^node of the cubic


class Integrals(NamedTuple):
    """Of one step, relative to its start: L, S, B at its end, \\int e^{L+S} u^k for k < 4, \\int e^{L+S} B."""

    L: Tensor
    S: Tensor
    B: Tensor
    moments: list[Tensor]
    C: Tensor


@dataclass(frozen=True)
class Statistics:
    """tables: (3, points, ...) of l, s, b, uniform in lam over `span`; None for 1, 0, 0 everywhere."""

    tables: Tensor | None
    span: tuple[float, ...]

    @classmethod
    def measured(cls, probe: Probe, points: int) -> Statistics:
        """Those of the probe's model, at `points` lams from lam(t_max) to lam(t_min).

        Source: Zheng et al. 2023, section 3.1 and appendix C.1.1.
        """
        process, step = probe.denoiser.process, probe.step
        start = process.t_max if np.isfinite(process.lam(process.t_max)) else process.t_max * (1 - 1e-3)
        lam = np.linspace(float(process.lam(start)) + step, float(process.lam(process.t_min)) - step, points)
        l = torch.stack([probe.slope(at) for at in shown("DPM-Solver-v3, linear part", lam)])  # noqa: E741
        (turn,) = torch.gradient(l, spacing=float(lam[1] - lam[0]), dim=0)
        affine = [probe.affine(at, *of) for at, *of in shown("DPM-Solver-v3, affine part", list(zip(lam, l, turn)))]
        s, b = (torch.stack(table) for table in zip(*affine))
        return cls(torch.stack([l, s, b]), (float(lam[0]), float(lam[-1])))

    def at(self, lam: Array) -> Tensor:
        """(3, len(lam), ...): l, s, b there, linear between the points and constant beyond them."""
        if self.tables is None:
            return torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)[:, None].expand(3, len(lam))
        tables = self.tables.to("cpu", torch.float64)
        where = torch.as_tensor(np.interp(lam, self.span, (0, tables.shape[1] - 1)))
        below = where.long().clamp(max=max(0, tables.shape[1] - 2))
        above = (below + 1).clamp(max=tables.shape[1] - 1)
        return torch.lerp(tables[:, below], tables[:, above], (where - below).reshape(-1, *[1] * (tables.ndim - 2)))

    def integrals(self, start: float, end: float) -> Integrals:
        """The integrals of a step from lam `start` to lam `end`."""
        cells = max(1, math.ceil((end - start) / CELL))
        width = (end - start) / cells
        offsets = width * (np.arange(cells)[:, None] + _NODES)  # (cells, 4)
        l, s, b = self.at(start + offsets.ravel()).unflatten(1, (cells, 4))  # noqa: E741
        weights, partial = torch.as_tensor(_WEIGHTS * width), torch.as_tensor(_PARTIAL * width)

        def total(values: Tensor) -> Tensor:
            return torch.einsum("g,cg...->...", weights, values)

        def cumulated(values: Tensor) -> Tensor:
            cell = torch.einsum("g,cg...->c...", weights, values)
            return (cell.cumsum(0) - cell)[:, None] + torch.einsum("hg,cg...->ch...", partial, values)

        L, S = cumulated(l), cumulated(s)
        inner = torch.exp(-S) * b
        B, growth = cumulated(inner), torch.exp(L + S)
        u = torch.as_tensor(offsets).reshape(cells, 4, *[1] * (l.ndim - 2))
        return Integrals(total(l), total(s), total(inner), [total(growth * u**k) for k in range(4)], total(growth * B))

    def along(self, lam: Array) -> tuple[list[Integrals], list[Tensor], list[Tensor]]:
        """The integrals of every step between these lams, and S and B from the first to each of them."""
        parts = [self.integrals(start, end) for start, end in pairwise(lam)]
        S, B = [torch.zeros((), dtype=torch.float64)], [torch.zeros((), dtype=torch.float64)]
        for part in parts:
            B.append(B[-1] + torch.exp(-S[-1]) * part.B)
            S.append(S[-1] + part.S)
        return parts, S, B


def powers_through(at: Array, pseudo: bool) -> Array:
    """(k, node): the coefficient of u^k in the polynomial through values at `at`.

    pseudo: the k-th divided difference over the first k + 1 nodes instead.
    """
    if not pseudo:
        return np.linalg.inv(np.vander(at, increasing=True))
    rows = np.zeros((len(at), len(at)))
    for k in range(1, len(at) + 1):
        rows[k - 1, :k] = 1 / (at[:k, None] - at[:k] + np.eye(k)).prod(1)
    return rows
