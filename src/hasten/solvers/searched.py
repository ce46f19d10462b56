"""USF: a solver as a list of decisions, one a step. The search for the list is in `hasten.fitting.decisions`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hasten.catalog import Paper
from hasten.denoisers import DenoiserLike
from hasten.errors import HastenError, one_of, positive_int
from hasten.fitting import Aim, integrate, solve
from hasten.fitting.decisions import EXPANDED, Decision, Decisions, Scores, known, ranked, search, uniform
from hasten.grids import GridLike, schedule
from hasten.predictions import combine
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS, Noise, Query, Solver, Walk
from hasten.solvers.exponential import RULES, Frame


@SOLVERS.add
@dataclass(frozen=True)
class USF(Solver):
    """Every step decides its own order, expansion, rule, corrector and start. Unfitted: DPM-Solver++ 2M.

    decisions: one tuple (order, expand, rule, correct, start) a step; later entries may be left out, see
    `Decision`. A step with start 1 cannot follow another. Source: Liu et al. 2023, section 3
    (without its v3 expansion, low-order derivatives and analytical first step).
    """

    decisions: tuple[tuple[object, ...], ...] = ()
    name = "usf"
    paper = Paper(
        "A Unified Sampling Framework for Solver Searching of Diffusion Probabilistic Models", 2023, "2312.07243"
    )
    needs_fit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        decisions = tuple(Decision(*decision) for decision in self.decisions)  # type: ignore[arg-type]
        for i, decision in enumerate(decisions):
            one_of("decisions.order", decision.order, (1, 2, 3))
            one_of("decisions.expand", decision.expand, EXPANDED)
            one_of("decisions.rule", decision.rule, RULES)
            if decision.start and (decision.start != 1 or i == 0 or decisions[i - 1].start):
                raise HastenError(f"decisions.start: {decision.start} at step {i}; 1 may only follow a step with 0")
        object.__setattr__(self, "decisions", decisions)

    def walk(self, process: Process, times: Array, x: Tensor, noise: Noise) -> Walk:
        steps = len(times) - 1
        if self.decisions and len(self.decisions) != steps:
            raise HastenError(f"decisions: made for {len(self.decisions)} steps, the run has {steps}; fit again")
        past: tuple[list[Tensor], ...] = ([], [])
        for i, (a, weights) in enumerate(_rows(self.decisions or uniform(steps), process, tuple(map(float, times)))):
            p = yield Query(x, float(times[i]), i, steps)
            for kept, value in zip(past, (p.data, p.noise)):
                kept.insert(0, value)
                del kept[weights.shape[1] :]
            terms = [(w, v) for row, kept in zip(weights, past) for w, v in zip(row, kept) if w]
            x = combine(p.state, a, terms[0][1], float(terms[0][0]))
            for weight, value in terms[1:]:
                x = torch.add(x, value, alpha=float(weight))
        return x

    @torch.no_grad()
    def fit(
        self, denoiser: DenoiserLike, noises: Tensor, steps: int = 6, grid: GridLike = "logsnr", end: str = "data",
        evaluations: int = 160, rounds: int = 5, seed: int = 0, aim: Aim | None = None,
    ) -> USF:  # fmt: skip
        """The solver whose decisions bring these runs nearest to the converged solution, with no more flips.

        noises: start states to learn on (use others to judge by). evaluations: how many lists are run, besides
        the known solvers the search starts from, in so many rounds of `fitting.decisions.search`. Its predictor is
        a kernel regression on ranks, not the paper's LSTM: some hundred lists do not feed one.
        aim: what to come near to, found here if None; see `FittedGrid.fit`. Source: Liu et al. 2023, section 4.
        """
        positive_int("rounds", rounds)
        process = denoiser.process
        times = schedule(grid, process, steps, end)
        steps = len(times) - 1
        if aim is None:
            fine = schedule("karras", process, 24) if times[-1] == 0 else times
            aim = Aim.of(lambda x: integrate(denoiser, x, fine, substeps=1 if times[-1] == 0 else 8)[-1], noises)

        def run(decisions: Decisions):
            return lambda x: solve(USF(decisions), denoiser, times, x)

        mine: list[Decisions] = [self.decisions] if self.decisions else []  # type: ignore[list-item]
        allowed = aim.judge(run(mine[0] if mine else uniform(steps)))[1]
        expanded = EXPANDED if process.alpha(times[0]) > 0 else EXPANDED[:1]
        best = search(
            [*mine, *known(steps, expanded)], lambda decisions: aim.loss(run(decisions), allowed),
            functools.partial(predicted, process=process, times=times), expanded, evaluations, rounds, seed,
        )  # fmt: skip
        return replace(self, decisions=best)


def predicted(scores: Scores, candidates: Sequence[Decisions], process: Process, times: Array) -> Array:
    """How the candidates will rank among the scored lists, 0 the best.

    Lists are compared by the weights that their decisions come to, so decisions without effect do not count.
    """
    lists = [_rows(decisions, process, tuple(map(float, times))) for decisions in (*scores, *candidates)]
    depth = max(weights.shape[1] for rows in lists for _, weights in rows)
    features = np.array([[np.pad(w, ((0, 0), (0, depth - w.shape[1]))).ravel() for _, w in rows] for rows in lists])
    return ranked(features.reshape(len(lists), -1), list(scores.values()))


@functools.lru_cache(maxsize=4096)
def _rows(decisions: Decisions, process: Process, times: tuple[float, ...]) -> list[tuple[float, Array]]:
    """Each step as weights of the current state and of past values: a, (data or noise, newest first)."""
    frames = {expand: Frame.of(process, np.array(times), expand) for expand in {d.expand for d in decisions}}

    def update(d: Decision, s: int, t: int, nodes: list[int], size: int) -> tuple[float, Array]:
        a, by_node, _ = frames[d.expand].update(s, t, nodes, rule=d.rule, size=size)
        weights = np.zeros((len(EXPANDED), size))
        weights[EXPANDED.index(d.expand)] = by_node
        return a, weights

    rows: list[tuple[float, Array]] = []
    made = Decision(), 0, 1.0, [0], np.zeros((2, 0))  # how the current state came about
    for i, decision in enumerate(decisions):
        before, anchor, made_a, made_nodes, made_weights = made
        made_weights = np.pad(made_weights, ((0, 0), (0, i + 1 - made_weights.shape[1])))
        s = i - decision.start
        nodes = [s, *(n for n in range(i, -1, -1) if n != s)][: min(decision.order, i + 1)]
        a, weights = update(decision, s, i + 1, nodes, i + 1)
        made = decision, s, a, nodes, weights
        if decision.start:  # the older state, in terms of the current one
            a, weights = a / made_a, weights - a / made_a * made_weights
        elif i and before.correct:
            weights = weights + a * (update(before, anchor, i, [*made_nodes, i], i + 1)[1] - made_weights)
        used = np.flatnonzero(weights.any(0))
        rows.append((float(a), weights[:, ::-1][:, : i + 1 - used[0]]))
    depth = max(weights.shape[1] for _, weights in rows)
    return [(a, np.pad(weights, ((0, 0), (0, depth - weights.shape[1])))) for a, weights in rows]
