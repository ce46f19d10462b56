"""One noise for all pictures: the start that makes a super-resolution model best on average."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hasten.core.registry import Paper
from hasten.processes import Process
from hasten.starts.base import STARTS, Start


@STARTS.add
@dataclass(frozen=True, eq=False)
class OptimalBoundary(Start):
    """The same searched noise for every row, for conditional models with one right answer (super-resolution).

    Deterministic solvers only; results have no diversity, by design. For another size search again: noise must not
    be interpolated. Fitted by `fit`, see `hasten.fit.boundary`.

    best: unit noise, (...).

    Source: Ma et al. 2023, the search for the boundary condition over a reference set.
    """

    best: Tensor | None = None
    name = "optimal-boundary"
    paper = Paper("Solving Diffusion ODEs with Optimal Boundary Conditions for Better Super-Resolution", 2023,
                  "2305.15357")  # fmt: skip

    @property
    def needs_fit(self) -> bool:
        return self.best is None

    def __call__(self, process: Process, noise: Tensor, time: float | None = None) -> tuple[Tensor, float]:
        best = self._fitted("best")
        self._check_shape(noise, best.shape)
        time = self._only_time(time, process.t_max)
        return best.to(noise).expand(noise.shape) * process.start_scale, time
