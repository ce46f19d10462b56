"""The layout of one run of a scheduler: its times, the queries that the solver makes, what the network is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hasten.bridge.spacing import Shipped, is_uniform, run_times
from hasten.core.errors import HastenError
from hasten.grids import Grid
from hasten.processes import Array, Process, RectifiedFlow, dynamic_process
from hasten.solvers import Query, Solver


@dataclass(frozen=True)
class Layout:
    """A run that was laid out.

    process: of the model, shifted for this run where the model does that.
    times: of the steps, noisiest first, the end included.
    queries: every call of the network, in order.
    numbers: what the network is shown as time, one a query.
    levels: (alpha, sigma), one a query.
    end: (alpha, sigma) at the end of the run.
    """

    process: Process
    times: Array
    queries: list[Query]
    numbers: Array
    levels: list[tuple[float, float]]
    end: tuple[float, float]

    @classmethod
    def of(
        cls, config: Mapping[str, Any], resting: Process, solver: Solver, grid: Grid | None, end: str,
        steps: int | None, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None, mu: float | None,
    ) -> Layout:  # fmt: skip
        """Lay out a run; the other arguments are as of `SolverScheduler.set_timesteps`.

        config: of the scheduler.
        resting: the process without a shift by mu.
        solver: of the run.
        grid: of its times; None visits those of the original scheduler.
        end: "data" or "min".

        Raises HastenError for contradictory or impossible values.
        """
        process = dynamic_process(config, resting, mu)
        if sigmas is not None and grid is not None and is_uniform(sigmas):
            steps, sigmas = len(sigmas), None  # flow pipelines fill these in; the user chose a grid
        placed = Shipped(config) if grid is None else grid
        times = run_times(config, process, placed, end, steps, timesteps, sigmas)
        queries = solver.query_times(process, times)
        at = np.array([query.t for query in queries])
        numbers = process.network_time(at)
        if timesteps is not None and sigmas is not None:
            numbers = np.asarray(timesteps, float)
            if len(numbers) != len(at):
                raise HastenError(f"timesteps: {len(numbers)} were given with sigmas, but {len(at)} queries need one")
        levels = list(zip(process.alpha(at).tolist(), process.sigma(at).tolist()))
        return cls(
            process, times, queries, numbers, levels, (float(process.alpha(times[-1])), float(process.sigma(times[-1])))
        )

    @property
    def steps(self) -> int:
        """How many."""
        return len(self.times) - 1

    def timesteps(self, device: str | torch.device | None) -> Tensor:
        """The numbers as diffusers has them: whole ones where the model has a table of them."""
        whole = self.process.discrete and (self.numbers == np.round(self.numbers)).all()
        return torch.tensor(self.numbers, dtype=torch.int64 if whole else torch.float32).to(device)

    def sigmas(self) -> Tensor:
        """The noise levels as diffusers has them: sigma of flow models, else sigma / alpha; with that of the end."""
        alphas, sigmas = (np.array(values) for values in zip(*[*self.levels, self.end]))
        if not isinstance(self.process, RectifiedFlow):
            with np.errstate(divide="ignore"):
                sigmas = sigmas / alphas
        return torch.tensor(np.append(sigmas[:-1], abs(sigmas[-1])), dtype=torch.float32)

    def index_of(self, timestep: Any, timesteps: Tensor) -> int:
        """The first query that starts a step and shows the network this number.

        timestep: the number.
        timesteps: those of the run, as of `timesteps`.
        """
        number = torch.as_tensor(timestep, device=timesteps.device)
        for index in (timesteps == number).nonzero().flatten().tolist():
            if self.queries[index].stage == 0:
                return index
        raise HastenError(f"timestep: {float(number):g} is not one at which a step of this run begins")

    def tail(self, solver: Solver, index: int) -> list[Query]:
        """The queries of a run that starts midway, without a history.

        solver: of the run.
        index: the query that it starts at.

        Raises HastenError if there is no such query, or the solver would make others from there.
        """
        count = len(self.queries)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
            raise HastenError(f"begin_index: {index!r} is not one of the {count} queries of this run")
        if not index:
            return self.queries
        tail = solver.query_times(self.process, self.times[self.queries[index].step :])
        if [q.t for q in tail] != [q.t for q in self.queries[index:]]:
            raise HastenError(
                f"begin_index: {solver.name!r} cannot start at query {index} of this run; "
                "choose another strength or solver"
            )
        return tail
