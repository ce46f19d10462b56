"""USF: a solver as a list of decisions, one a step. The search for the list is in `hasten.fit.decisions`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError, one_of, positive_int
from hasten.core.registry import Paper
from hasten.denoisers import DenoiserLike
from hasten.fit import Aim, integrate, solve
from hasten.fit.decisions import EXPANDED, Decision, Decisions, Scores, known, ranked, search, uniform
from hasten.grids import GridLike, schedule
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS, Path, Tabular, Update
from hasten.solvers.exponential import RULES, Frame


@SOLVERS.add
@dataclass(frozen=True)
class USF(Tabular):
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
    convergence = 2  # unfitted

    def __post_init__(self) -> None:
        decisions = tuple(Decision(*decision) for decision in self.decisions)  # type: ignore[arg-type]
        for i, decision in enumerate(decisions):
            one_of("decisions.order", decision.order, (1, 2, 3))
            one_of("decisions.expand", decision.expand, EXPANDED)
            one_of("decisions.rule", decision.rule, RULES)
            if decision.start and (decision.start != 1 or i == 0 or decisions[i - 1].start):
                raise HastenError(f"decisions.start: {decision.start} at step {i}; 1 may only follow a step with 0")
        object.__setattr__(self, "decisions", decisions)

    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        steps = len(times) - 1
        if self.decisions and len(self.decisions) != steps:
            raise HastenError(f"decisions: made for {len(self.decisions)} steps, the run has {steps}; fit again")
        decisions: Decisions = self.decisions or uniform(steps)  # type: ignore[assignment]
        used = {"data" if process.alpha(times[0]) == 0 else decisions[0].expand, *(d.expand for d in decisions)}
        kinds = tuple(kind for kind in EXPANDED if kind in used)
        return " ".join(kinds), _rows(decisions, process, tuple(map(float, times)), kinds)

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
    at = tuple(map(float, times))
    lists = [[row.b for row in _rows(decisions, process, at, EXPANDED)] for decisions in (*scores, *candidates)]
    depth = max(len(b) for rows in lists for b in rows)
    features = np.array([[np.pad(b, (0, depth - len(b))) for b in rows] for rows in lists])
    return ranked(features.reshape(len(lists), -1), list(scores.values()))


@functools.lru_cache(maxsize=4096)
def _rows(decisions: Decisions, process: Process, times: tuple[float, ...], kinds: tuple[str, ...]) -> list[Update]:
    """The rows of a decision list, over values of these kinds."""
    frames = {kind: Frame.of(process, np.array(times), kind) for kind in EXPANDED}

    def update(d: Decision, s: int, t: int, nodes: Sequence[int], size: int) -> tuple[float, Array]:
        a, by_node, _ = frames[d.expand].update(s, t, nodes, rule=d.rule, size=size)
        weights = np.zeros((len(kinds), size))
        weights[kinds.index(frames[d.expand].value(s))] = by_node
        return a, weights

    path, made = Path(), (decisions[0], 0, [0])  # how the current state came about
    for i, decision in enumerate(decisions):
        before, anchor, passed = made
        if i and before.correct:  # which a step from the state before leaves out
            path.correct(update(before, anchor, i, [*passed, i], i + 1)[1])
        s = i - decision.start
        nodes = [s, *(n for n in range(i, -1, -1) if n != s)][: min(decision.order, i + 1)]
        path.advance(times[i], s, *update(decision, s, i + 1, nodes, i + 1), step=i)
        made = decision, s, nodes
    return path.rows
