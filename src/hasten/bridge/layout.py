"""The layout of one run of a scheduler: its times, the queries that the solver makes, what the network is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hasten.bridge.lists import asked, run_times
from hasten.bridge.spacing import Shipped
from hasten.core.errors import HastenError, natural
from hasten.grids import Grid
from hasten.predictions import Reading
from hasten.processes import Array, Process, RectifiedFlow, VarianceExploding, dynamic_process
from hasten.processes.understood import Row
from hasten.solvers import Query, Solver

PURE = 1e-5  # the alpha below which a state is noise and nothing else


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
        cls, config: Mapping[str, Any], reading: Reading, solver: Solver, grid: Grid | None, end: str | None,
        steps: int | None, timesteps: Sequence[float] | None, sigmas: Sequence[float] | None, mu: float | None,
        extra: Mapping[str, Any] | None = None, given: frozenset[str] | None = None,
    ) -> Layout:  # fmt: skip
        """Lay out a run; the other arguments are as of `SolverScheduler.set_timesteps`.

        config: of the original scheduler.
        reading: of the network, with the process as it is without a shift by mu.
        solver: of the run.
        grid: of its times; None visits those of the original scheduler.
        end: "data" or "min"; None ends where the original would.
        extra: what else a pipeline asks its scheduler for.
        given: see `hasten.bridge.lists.asked`.
        Raises HastenError for contradictory or impossible values.
        """
        process = dynamic_process(config, reading.process, mu)
        steps, timesteps, sigmas = asked(grid, given, steps, timesteps, sigmas)
        placed = Shipped(config, extra or {}) if grid is None else grid
        times = run_times(config, process, placed, end if grid is None else end or "data", steps, timesteps, sigmas)
        queries = solver.query_times(process, times)
        at = np.array([query.t for query in queries])
        numbers = process.network_time(at)
        if timesteps is not None and sigmas is not None:
            numbers = _shown(timesteps, times, at)
        levels = list(zip(process.alpha(at).tolist(), process.sigma(at).tolist()))
        if levels[0][0] < PURE and reading.kind in ("epsilon", "score") and reading.sigma_data is None:
            raise HastenError(
                f"prediction_type: {reading.kind!r} says nothing of the data at pure noise, where this run begins; "
                "give sigmas or timesteps that begin below it"
            )
        return cls(
            process, times, queries, numbers, levels, (float(process.alpha(times[-1])), float(process.sigma(times[-1])))
        )

    def start_scale(self, row: Row, config: Mapping[str, Any]) -> float:
        """What unit noise is multiplied by to become the first state, as the original scheduler does it.

        row: of the original.
        config: of the original.
        """
        return start_scale(self.process, row, config, *self.levels[0])

    def __deepcopy__(self, memo: Any) -> Layout:
        return self  # nothing in it is ever changed

    @property
    def steps(self) -> int:
        """How many."""
        return len(self.times) - 1

    def timesteps(self, device: str | torch.device | None, closes: bool = False) -> Tensor:
        """The numbers as diffusers has them: whole ones where the model has a table of them.

        device: where they are put.
        closes: whether that of the end is among them.
        """
        whole = self.process.discrete and (self.numbers == np.round(self.numbers)).all()
        numbers = np.append(self.numbers, self.process.network_time(self.times[-1])) if closes else self.numbers
        return torch.tensor(numbers, dtype=torch.int64 if whole else torch.float32).to(device)

    def sigmas(self) -> Tensor:
        """The noise levels as diffusers has them: sigma of flow models, else sigma / alpha; with that of the end.

        Models that count their levels backwards have 1 - sigma.
        """
        alphas, sigmas = (np.array(values) for values in zip(*[*self.levels, self.end]))
        if getattr(self.process, "inverted", False):
            return torch.tensor(alphas, dtype=torch.float32)
        if not isinstance(self.process, RectifiedFlow):
            with np.errstate(divide="ignore"):
                sigmas = sigmas / alphas
        return torch.tensor(np.append(sigmas[:-1], abs(sigmas[-1])), dtype=torch.float32)

    def index_of(self, timestep: Any, timesteps: Tensor) -> int:
        """The first query that starts a step and shows the network this number.

        timestep: the number; an element of `timesteps` is known by its place, which tells apart equal ones.
        timesteps: as of `timesteps`.
        Raises HastenError if no step of the run begins with it.
        """
        own = isinstance(timestep, Tensor) and timestep.dtype == timesteps.dtype and timestep.numel() == 1
        if own and timestep.untyped_storage().data_ptr() == timesteps.untyped_storage().data_ptr():
            index = int(timestep.storage_offset()) - int(timesteps.storage_offset())
            if self.queries[index].stage:
                raise HastenError(
                    f"timestep: the pipeline begins inside step {self.queries[index].step} of this run, whose solver "
                    "asks more than once a step; choose another strength, or a solver of one evaluation a step"
                )
            return index
        timestep = torch.as_tensor(timestep).flatten()[0]  # pipelines may give one an image
        number = timestep.to(timesteps.device)
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
        if natural("begin_index", index) >= count:
            raise HastenError(f"begin_index: {index!r} is not one of the {count} queries of this run")
        index = natural("begin_index", index)
        if not index:
            return self.queries
        tail = solver.query_times(self.process, self.times[self.queries[index].step :])
        if [q.t for q in tail] != [q.t for q in self.queries[index:]]:
            raise HastenError(
                f"begin_index: {solver.name!r} cannot start at query {index} of this run; "
                "choose another strength or solver"
            )
        return tail


def start_scale(process: Process, row: Row, config: Mapping[str, Any], alpha: float, sigma: float) -> float:
    """What unit noise is multiplied by to become a state at this alpha and sigma, as the original scheduler does it.

    process: of the model.
    row: of the original scheduler.
    config: of the original scheduler.
    """
    if row.in_levels:
        level = sigma / alpha
        return level if config.get("timestep_spacing", "linspace") != "leading" else (level**2 + 1) ** 0.5
    if isinstance(process, VarianceExploding) and row.kind != "consistency":
        return (sigma**2 + 1) ** 0.5
    if row.spacing == "angles":  # the pipeline multiplies by sigma_data itself
        return 1.0
    return process.start_scale


def _shown(timesteps: Sequence[float], times: Array, at: Array) -> Array:
    """The numbers to show at each query, where a pipeline gives one a step.

    Those of queries inside a step are read off between their neighbours, linearly in time, with 0 for data.
    """
    numbers = np.asarray(timesteps, float)
    if len(numbers) not in (len(times) - 1, len(at)):
        raise HastenError(f"timesteps: {len(numbers)} were given with sigmas for {len(times) - 1} steps; give one each")
    if len(numbers) == len(at):
        return numbers
    ends = np.array([*times[:-1], 0.0])[::-1]
    return np.interp(at, ends, np.append(numbers, 0.0)[::-1])
