"""Lists of decisions, one a step, and S3: the search among them for the list that suits a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hasten.fit.runs import shown
from hasten.processes import Array

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


Decisions = tuple[Decision, ...]
Scores = dict[Decisions, float]


def uniform(steps: int, **fields) -> Decisions:
    """The same decision at every step but the last, which is of order 1, as `lower_order_final` ends others."""
    order = fields.pop("order", 2)
    return tuple(Decision(min(order, steps - i), **fields) for i in range(steps))


def known(steps: int, expanded: Sequence[str] = EXPANDED) -> list[Decisions]:
    """The solvers of the literature that a search starts from: 2M, 3M, UniPC 2 and 3, log-rho DEIS 3."""
    lists = [
        uniform(steps), uniform(steps, rule="exact"), uniform(steps, order=3), uniform(steps, correct=True),
        uniform(steps, order=3, correct=True),
    ]  # fmt: skip
    return lists + ([uniform(steps, order=3, expand="noise", rule="exact")] if "noise" in expanded else [])


def breed(
    parents: Sequence[Decisions], rng: np.random.Generator, rate: float, expanded: Sequence[str] = EXPANDED
) -> Decisions:
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


def search(
    start: Iterable[Decisions], loss: Callable[[Decisions], float], guess: Callable[[Scores, list[Decisions]], Array],
    expanded: Sequence[str], evaluations: int, rounds: int, seed: int,
) -> Decisions:  # fmt: skip
    """S3: the list of least loss after `rounds` rounds, which try about `evaluations` lists in all.

    A round breeds lists from the best, tries those that `guess` (from the scored lists and the new ones: how the
    new ones will rank) finds most promising, and mutates less than the one before.
    Source: Liu et al. 2023, section 4.
    """
    scores, rng = {decisions: loss(decisions) for decisions in start}, np.random.default_rng(seed)
    for stage in shown("S3", range(rounds)):
        parents = sorted(scores, key=scores.__getitem__)[:TOP]
        rate = 0.4 * (1 - stage / rounds) + 0.1
        bred = {breed(parents, rng, rate, expanded): None for _ in range(OFFSPRING)}
        fresh = [child for child in bred if child not in scores]
        promising = np.argsort(guess(scores, fresh), kind="stable") if fresh else []
        for index in promising[: evaluations // rounds]:
            scores[fresh[index]] = loss(fresh[index])
    return min(scores, key=scores.__getitem__)


def ranked(features: Array, scores: Sequence[float]) -> Array:
    """How the later rows of `features` will rank among the first, which have `scores`: 0 the best, 1 the worst.

    features: (rows, numbers). By kernel regression on the ranks of the scores.
    """
    features = (features - features.mean(0)) / (features.std(0) + 1e-9)
    features = features[:, features.any(0)]  # entries that differ at all
    tried, asked = features[: len(scores)], features[len(scores) :]

    def likeness(a: Array, b: Array) -> Array:
        return np.exp(-2 * ((a**2).mean(1)[:, None] + (b**2).mean(1) - 2 * a @ b.T / a.shape[1]))

    ranks = np.argsort(np.argsort(scores)) / len(scores)
    solved = np.linalg.solve(likeness(tried, tried) + 0.01 * np.eye(len(tried)), ranks - ranks.mean())
    return likeness(asked, tried) @ solved + ranks.mean()
