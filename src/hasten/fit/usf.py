"""USF: S3, the search among lists of decisions for the one that suits a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from hasten.core.console import tracked
from hasten.core.errors import positive_int
from hasten.core.fitters import fitters
from hasten.denoisers import DenoiserLike
from hasten.fit.aim import Aim
from hasten.fit.runs import solve
from hasten.grids import GridLike, schedule
from hasten.processes import Array, Process
from hasten.solvers import USF
from hasten.solvers.usf import EXPANDED, Decision, Decisions, uniform, updates_of

SEARCHED_RULES = ("exact", "midpoint", "linear")
PARENTS = 15  # lists that have offspring
OFFSPRING = 300  # guessed at a round, of which the most promising are tried
ORDERS = {1: 0.2, 2: 0.4, 3: 0.4}  # how often a mutation draws each
CORRECTED, SINGLESTEP = 0.5, 0.2  # how often a mutation draws a corrector, and a start from the state before
MUTATIONS = (0.5, 0.1)  # the probability with which a decision is drawn anew, in the first round and after the last
WIDTH = 2.0  # of the kernel that compares lists: how fast likeness falls with the square of their mean distance
SMOOTHING = 0.01  # of the regression on ranks
NO_SPREAD = 1e-9  # added to standard deviations, by which is divided

Scores = Mapping[Decisions, float]


@fitters.of(USF)
@torch.no_grad()
def fit(
    solver: USF, denoiser: DenoiserLike, noises: Tensor, steps: int = 6, grid: GridLike = "logsnr", end: str = "data",
    evaluations: int = 160, rounds: int = 5, seed: int = 0, aim: Aim | None = None,
) -> USF:  # fmt: skip
    """`USF().fit(denoiser, noises)`: with decisions that bring these runs nearest to the converged solution.

    Flips are no more frequent than by the decisions that it starts from. The predictor of the search is a kernel
    regression on ranks, not the paper's LSTM: some hundred lists do not feed one.

    denoiser: the model.
    noises: start states to learn on (use others to judge by), (rows, ...).
    steps: of the runs that it is fitted for.
    grid: their times.
    end: where they end, "data" or "min".
    evaluations: how many lists are run, besides the known solvers that the search starts from.
    rounds: of the search, at least 1.
    seed: of the search.
    aim: what to come near to; None solves it here. A denoiser that is bound to the rows of `noises` needs
        `Aim.at(noises, converged results)`.

    Source: Liu et al. 2023, section 4.
    """
    positive_int("rounds", rounds)
    process = denoiser.process
    times = schedule(grid, process, steps, end)
    steps = len(times) - 1
    target = Aim.of_model(denoiser, noises, times) if aim is None else aim

    def run(decisions: Decisions) -> Callable[[Tensor], Tensor]:
        return lambda x: solve(USF(decisions), denoiser, times, x)

    mine: list[Decisions] = [solver.decisions] if solver.decisions else []  # type: ignore[list-item]
    allowed = target.judge(run(mine[0] if mine else uniform(steps)))[1]
    expanded = EXPANDED if process.alpha(times[0]) > 0 else EXPANDED[:1]
    best = search(
        [*mine, *known(steps, expanded)], lambda decisions: target.loss(run(decisions), allowed),
        functools.partial(predicted, process=process, times=times), expanded, evaluations, rounds, seed,
    )  # fmt: skip
    return replace(solver, decisions=best)


def known(steps: int, expanded: Sequence[str] = EXPANDED) -> list[Decisions]:
    """The solvers of the literature that a search starts from: 2M, 3M, UniPC 2 and 3, log-rho DEIS 3.

    steps: of the run.
    expanded: what may be expanded, of `EXPANDED`.
    """
    lists = [
        uniform(steps), uniform(steps, rule="exact"), uniform(steps, order=3), uniform(steps, correct=True),
        uniform(steps, order=3, correct=True),
    ]  # fmt: skip
    return lists + ([uniform(steps, order=3, expand="noise", rule="exact")] if "noise" in expanded else [])


def breed(
    parents: Sequence[Decisions], rng: np.random.Generator, rate: float, expanded: Sequence[str] = EXPANDED
) -> Decisions:
    """A child of two of the parents, each step from one of them, and some decisions drawn anew.

    parents: lists of equal length.
    rng: what chance is drawn from.
    rate: the probability of a decision to be drawn anew.
    expanded: what may be expanded, of `EXPANDED`.
    """
    mother, father = (parents[i] for i in rng.integers(len(parents), size=2))
    child: list[Decision] = []
    for i, (one, other) in enumerate(zip(mother, father)):
        old = one if rng.random() < 0.5 else other
        new = Decision(
            int(rng.choice(list(ORDERS), p=list(ORDERS.values()))), str(rng.choice(expanded)),
            str(rng.choice(SEARCHED_RULES)), bool(rng.random() < CORRECTED), int(rng.random() < SINGLESTEP),
        )  # fmt: skip
        mixed = Decision._make(n if rng.random() < rate else o for n, o in zip(new, old))
        startable = i > 0 and not child[-1].start and mixed.order > 1
        child.append(mixed._replace(start=mixed.start if startable else 0, order=min(mixed.order, i + 1)))
    return tuple(child)


def search(
    start: Iterable[Decisions], loss: Callable[[Decisions], float], guess: Callable[[Scores, list[Decisions]], Array],
    expanded: Sequence[str], evaluations: int, rounds: int, seed: int,
) -> Decisions:  # fmt: skip
    """S3: the list of least loss after some rounds of breeding.

    A round breeds lists from the best, tries those that are guessed to be the most promising, and mutates less than
    the one before.

    start: the lists it begins with.
    loss: of a list.
    guess: the scored lists and new ones -> how the new ones will rank, less is better.
    expanded: what may be expanded, of `EXPANDED`.
    evaluations: about how many lists are tried in all.
    rounds: at least 1.
    seed: of what chance draws.

    Source: Liu et al. 2023, section 4.
    """
    scores, rng = {decisions: loss(decisions) for decisions in start}, np.random.default_rng(seed)
    for stage in tracked(range(rounds), "S3"):
        parents = sorted(scores, key=scores.__getitem__)[:PARENTS]
        rate = (MUTATIONS[0] - MUTATIONS[1]) * (1 - stage / rounds) + MUTATIONS[1]
        bred = {breed(parents, rng, rate, expanded): None for _ in range(OFFSPRING)}
        fresh = [child for child in bred if child not in scores]
        promising = np.argsort(guess(scores, fresh), kind="stable") if fresh else []
        for index in promising[: evaluations // rounds]:
            scores[fresh[index]] = loss(fresh[index])
    return min(scores, key=scores.__getitem__)


def predicted(scores: Scores, candidates: Sequence[Decisions], process: Process, times: Array) -> Array:
    """How the candidates will rank among the scored lists, 0 the best.

    Lists are compared by the weights that their decisions come to, so decisions without effect do not count.

    scores: list -> its loss.
    candidates: lists without a score.
    process: of the network.
    times: of the runs.
    """
    at = tuple(map(float, times))
    tables = [updates_of(decisions, process, at, EXPANDED) for decisions in (*scores, *candidates)]
    depth = max(len(update.b) for updates in tables for update in updates)
    features = np.array([[np.pad(update.b, (0, depth - len(update.b))) for update in updates] for updates in tables])
    return ranked(features.reshape(len(tables), -1), list(scores.values()))


def ranked(features: Array, scores: Sequence[float]) -> Array:
    """How the later rows of features will rank among the first, which have scores: 0 the best, 1 the worst.

    By kernel regression on the ranks of the scores.

    features: (rows, numbers).
    scores: one for each of the first rows.
    """
    features = (features - features.mean(0)) / (features.std(0) + NO_SPREAD)
    features = features[:, features.any(0)]  # entries that differ at all
    tried, asked = features[: len(scores)], features[len(scores) :]

    def likeness(a: Array, b: Array) -> Array:
        return np.exp(-WIDTH * ((a**2).mean(1)[:, None] + (b**2).mean(1) - 2 * a @ b.T / a.shape[1]))

    ranks = np.argsort(np.argsort(scores)) / len(scores)
    solved = np.linalg.solve(likeness(tried, tried) + SMOOTHING * np.eye(len(tried)), ranks - ranks.mean())
    return likeness(asked, tried) @ solved + ranks.mean()
