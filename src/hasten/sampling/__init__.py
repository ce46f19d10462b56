"""Hosts for walks: `sample` runs one, `sample_many` runs many with one network batch a round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError, unknown
from hasten.denoisers import DenoiserLike
from hasten.grids import GridLike, schedule
from hasten.predictions import Prediction
from hasten.processes import Array, Process
from hasten.solvers import SOLVERS, DPMSolverPP, Query, Solver
from hasten.solvers.base import Noise, Walk

Callback = Callable[[Query, Prediction], Prediction | None]


class Asked(NamedTuple):
    """Whose rows the next call of a denoiser holds: a walk's, the index-th of `sample_many`'s runs."""

    walk: Walk
    index: int
    query: Query

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.query.x)


class Following(Protocol):
    """What a denoiser may have besides: `follow` is told before every call whose rows it is going to hold.

    Caches need this (`hasten.runtime.following.AcceleratedDenoiser`), and so does conditioning that differs by run.
    """

    def follow(self, asked: Sequence[Asked]) -> None:
        """The next call holds the rows of these queries, in this order."""
        ...


def sample(
    denoiser: DenoiserLike, noise: Tensor, solver: Solver | str | Mapping[str, Any] | None = None,
    steps: int = 10, grid: GridLike = "logsnr", end: str = "data", callback: Callback | None = None,
    seed: int = 0, brownian: bool = False,
) -> Tensor:  # fmt: skip
    """Solve from the start state to data.

    noise: the start state at the first time, (rows, ...): unit noise for variance-preserving and flow
    processes, sigma_max times that for exploding ones. solver: an instance, name or mapping; DPM-Solver++ 2M
    if None. steps, grid, end: see `hasten.grids.schedule`. callback(query, prediction) is called after each
    network call; a Prediction it returns replaces the network's. seed: of the noise that a stochastic solver
    asks for. brownian: take that noise from one Brownian path a seed, so that results at more and more steps
    approach one image (see `brownian_noise`); otherwise query i has noise of its own whatever the times.

    Half-precision states are stepped in float32; the result has the dtype of `noise`.
    Raises HastenError for unknown names, impossible fields, and non-finite start states.
    """
    walk = start(denoiser, noise, solver, steps, grid, end, seed, brownian)
    follow = getattr(denoiser, "follow", None)
    try:
        query = next(walk)
        while True:
            if follow is not None:
                follow([Asked(walk, 0, query)])
            prediction = denoiser(query.x, query.t)
            if callback is not None:
                prediction = callback(query, prediction) or prediction
            query = walk.send(prediction)
    except StopIteration as done:
        return done.value.to(noise.dtype)


def sample_many(
    denoiser: DenoiserLike,
    runs: Sequence[Mapping[str, Any]],
    callback: Callable[[int, int], None] | None = None,
) -> list[Tensor]:
    """Run many walks at once: each round gathers every waiting query into one network batch.

    runs: mappings with the keyword arguments of `sample` but denoiser and callback ("noise" is required).
    Solvers, step counts, grids and numbers of rows may differ; walks of the same shape and dtype share
    batches. callback(waiting, finished) is called after each round. Results are in the order of `runs`, each
    what `sample` alone would give. The number of rounds is that of the longest walk.
    """
    for run in runs:
        for key in run:
            if key not in _RUN_FIELDS:
                raise unknown("sample_many", key, _RUN_FIELDS)
    walks = [start(denoiser, **run) for run in runs]
    follow = getattr(denoiser, "follow", None)
    results: dict[int, Tensor] = {}
    waiting: dict[int, Query] = {}

    def advance(index: int, prediction: Prediction | None) -> None:
        try:
            waiting[index] = next(walks[index]) if prediction is None else walks[index].send(prediction)
        except StopIteration as done:
            waiting.pop(index, None)
            results[index] = done.value.to(runs[index]["noise"].dtype)

    for index in range(len(runs)):
        advance(index, None)
    while waiting:
        for group in _alike(waiting):
            queries = [waiting[i] for i in group]
            sizes = [len(q.x) for q in queries]
            if follow is not None:
                follow([Asked(walks[i], i, waiting[i]) for i in group])
            together = denoiser(torch.cat([q.x for q in queries]), np.repeat([q.t for q in queries], sizes))
            stops = np.cumsum(sizes)
            for index, stop, size in zip(group, stops, sizes):
                advance(index, together.rows(int(stop) - size, int(stop)))
        if callback is not None:
            callback(len(waiting), len(results))
    return [results[i] for i in range(len(runs))]


_RUN_FIELDS = ("noise", "solver", "steps", "grid", "end", "seed", "brownian")


def start(
    denoiser: DenoiserLike, noise: Tensor, solver: Solver | str | Mapping[str, Any] | None = None, steps: int = 10,
    grid: GridLike = "logsnr", end: str = "data", seed: int = 0, brownian: bool = False,
) -> Walk:  # fmt: skip
    """The walk of one run, with its input checked and half precision raised to float32."""
    if not torch.isfinite(noise).all():
        raise HastenError("noise: the start state has values that are not finite; give finite numbers")
    x = noise.float() if noise.dtype in (torch.float16, torch.bfloat16) else noise
    chosen = DPMSolverPP() if solver is None else SOLVERS.build(solver)
    times = schedule(grid, denoiser.process, steps, end)
    unit = seeded_noise(x, seed)
    if brownian and chosen.stochastic:
        asked = [query.t for query in chosen.query_times(denoiser.process, times)]
        unit = brownian_noise(x, seed, denoiser.process, np.array([*asked, times[-1]]))
    return chosen.walk(denoiser.process, times, x, unit)


def seeded_noise(like: Tensor, seed: int) -> Noise:
    """Unit noise shaped like a state: query i's draw depends on (seed, i) alone."""

    def draw(step: int) -> Tensor:
        generator = torch.Generator("cpu").manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))
        return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)

    return draw


def brownian_noise(like: Tensor, seed: int, process: Process, times: Array) -> Noise:
    """Unit noise shaped like a state: draw i is the increment of a Brownian path from times[i] to times[i + 1].

    The path runs over the level sigma / (alpha + sigma), which is finite wherever a run can be, and depends on
    the seed alone: an increment is the sum of those of its parts, at any number of steps.
    Raises HastenError if times rise: noise that is put back (churn) is not the increment of one path.
    """
    import torchsde

    if (np.diff(times) > 0).any():
        raise HastenError("brownian: this solver goes back up in noise, which no single path does; leave it out")
    alpha, sigma = process.alpha(times), process.sigma(times)
    levels = (sigma / (alpha + sigma)).tolist()
    path = torchsde.BrownianTree(0.0, torch.zeros_like(like, device="cpu"), 1.0, entropy=seed, tol=1e-8)

    def draw(step: int) -> Tensor:
        low, high = levels[step + 1], levels[step]
        return (path(low, high) / (high - low) ** 0.5).to(like.device)

    return draw


def _alike(waiting: Mapping[int, Query]) -> list[list[int]]:
    """The indices of waiting walks, grouped by what can share a batch."""
    groups: dict[Any, list[int]] = {}
    for index, query in waiting.items():
        groups.setdefault((query.x.shape[1:], query.x.dtype, query.x.device), []).append(index)
    return list(groups.values())
