"""USF: a solver as a list of decisions, one a step; and S3, the search for the list that suits a model."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hasten.catalog import Paper
from hasten.denoisers import DenoiserLike
from hasten.errors import HastenError, one_of, positive_int
from hasten.fitting import Aim, integrate, shown, solve
from hasten.grids import GridLike, schedule
from hasten.predictions import combine
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS, Noise, Query, Solver, Walk
from hasten.solvers.exponential import RULES, Frame

EXPANDED = ("data", "noise")
SEARCHED_RULES = ("exact", "midpoint", "linear")
TOP = 15  # lists that have offspring
OFFSPRING = 300  # guessed at a round, of which the most promising are tried


class Decision(NamedTuple):
    """How one step is made.

    order: how many values it passes through (fewer while there are fewer). expand: "data" or "noise". rule:
    see `exponential.apply_rule`. correct: whether the state it reaches is corrected once the network has
    answered there. start: 0 from the current state, 1 from the one before (singlestep methods).
    """

    order: int = 2
    expand: str = "data"
    rule: str = "midpoint"
    correct: bool = False
    start: int = 0


def uniform(steps: int, **fields) -> tuple[Decision, ...]:
    """The same decision at every step but the last, which is of order 1, as `lower_order_final` ends others."""
    order = fields.pop("order", 2)
    return tuple(Decision(min(order, steps - i), **fields) for i in range(steps))


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
        the known solvers the search starts from. S3 in rounds: lists bred from the best are ranked by a
        predictor learnt from all lists run so far, the most promising are run, and mutation gets rarer. The
        predictor is a kernel regression on ranks, not the paper's LSTM: some hundred lists do not feed one.
        aim: what to come near to, found here if None; see `FittedGrid.fit`.
        Source: Liu et al. 2023, section 4.
        """
        positive_int("rounds", rounds)
        process = denoiser.process
        times = schedule(grid, process, steps, end)
        steps, rng = len(times) - 1, np.random.default_rng(seed)
        if aim is None:
            fine = schedule("karras", process, 24) if times[-1] == 0 else times
            aim = Aim.of(lambda x: integrate(denoiser, x, fine, substeps=1 if times[-1] == 0 else 8)[-1], noises)

        def run(decisions: tuple[Decision, ...]):
            return lambda x: solve(USF(decisions), denoiser, times, x)

        allowed = aim.judge(run(self.decisions or uniform(steps)))[1]  # type: ignore[arg-type]
        expanded = EXPANDED if process.alpha(times[0]) > 0 else EXPANDED[:1]
        start = [*([self.decisions] if self.decisions else []), *known(steps, expanded)]
        scores = {decisions: aim.loss(run(decisions), allowed) for decisions in start}  # type: ignore[arg-type]
        for stage in shown("S3", range(rounds)):
            parents = sorted(scores, key=scores.__getitem__)[:TOP]
            rate = 0.4 * (1 - stage / rounds) + 0.1
            bred = {breed(parents, rng, rate, expanded): None for _ in range(OFFSPRING)}
            fresh = [child for child in bred if child not in scores]
            promising = np.argsort(predicted(scores, fresh, process, times), kind="stable") if fresh else []
            for index in promising[: evaluations // rounds]:
                scores[fresh[index]] = aim.loss(run(fresh[index]), allowed)
        return replace(self, decisions=min(scores, key=scores.__getitem__))


def known(steps: int, expanded: Sequence[str] = EXPANDED) -> list[tuple[Decision, ...]]:
    """The solvers of the literature that a search starts from: 2M, 3M, UniPC 2 and 3, log-rho DEIS 3."""
    lists = [
        uniform(steps), uniform(steps, rule="exact"), uniform(steps, order=3), uniform(steps, correct=True),
        uniform(steps, order=3, correct=True),
    ]  # fmt: skip
    return lists + ([uniform(steps, order=3, expand="noise", rule="exact")] if "noise" in expanded else [])


def breed(
    parents: Sequence[tuple[Decision, ...]], rng: np.random.Generator, rate: float, expanded: Sequence[str] = EXPANDED
) -> tuple[Decision, ...]:
    """A child: each step from one of two parents, and each decision drawn anew with probability `rate`."""
    mother, father = (parents[i] for i in rng.integers(len(parents), size=2))
    child: list[Decision] = []
    for i, (one, other) in enumerate(zip(mother, father)):
        old = one if rng.random() < 0.5 else other
        new = Decision(
            int(rng.choice([1, 2, 3], p=[0.2, 0.4, 0.4])), str(rng.choice(expanded)), str(rng.choice(SEARCHED_RULES)),
            bool(rng.random() < 0.5), int(rng.random() < 0.2),
        )  # fmt: skip
        mixed = Decision._make(n if rng.random() < rate else o for n, o in zip(new, old))
        startable = i > 0 and not child[-1].start and mixed.order > 1
        child.append(mixed._replace(start=mixed.start if startable else 0, order=min(mixed.order, i + 1)))
    return tuple(child)


def predicted(scores: dict, candidates: Sequence[tuple[Decision, ...]], process: Process, times: Array) -> Array:
    """How the candidates will rank among the scored lists, 0 the best.

    Lists are compared by the weights that their decisions come to, so decisions without effect do not count.
    """
    lists = [_rows(decisions, process, tuple(map(float, times))) for decisions in (*scores, *candidates)]
    depth = max(weights.shape[1] for rows in lists for _, weights in rows)
    features = np.array([[np.pad(w, ((0, 0), (0, depth - w.shape[1]))).ravel() for _, w in rows] for rows in lists])
    features = features.reshape(len(lists), -1)
    features = (features - features.mean(0)) / (features.std(0) + 1e-9)
    features = features[:, features.any(0)]  # entries that differ at all
    tried, asked = features[: len(scores)], features[len(scores) :]

    def likeness(a: Array, b: Array) -> Array:
        return np.exp(-2 * ((a**2).mean(1)[:, None] + (b**2).mean(1) - 2 * a @ b.T / a.shape[1]))

    ranks = np.argsort(np.argsort(list(scores.values()))) / len(scores)
    solved = np.linalg.solve(likeness(tried, tried) + 0.01 * np.eye(len(tried)), ranks - ranks.mean())
    return likeness(asked, tried) @ solved + ranks.mean()


@functools.lru_cache(maxsize=4096)
def _rows(decisions: tuple[Decision, ...], process: Process, times: tuple[float, ...]) -> list[tuple[float, Array]]:
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
