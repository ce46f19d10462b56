"""Solvers that reveal tokens, and the host that asks the network no more often than an answer can be used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hasten.core.errors import HastenError, one_of, positive_int
from hasten.core.registry import Paper, Registry
from hasten.discrete.exact import Network
from hasten.discrete.masking import LogLinear, Schedule
from hasten.processes import Array


class TokenQuery(NamedTuple):
    """What an unmasker asks the network.

    tokens: integers, (rows, length).
    needed: the rows whose answer will be looked at, (rows,) booleans.
    """

    tokens: Tensor
    needed: Tensor


Uniforms = Callable[[], Tensor]  # fresh float64 numbers in [0, 1), (rows, length, 2): what to reveal, and as what
Walk = Generator[TokenQuery, Tensor, Tensor]  # is sent probabilities (rows, length, V)


class Unmasker(ABC):
    """How to reveal masked tokens. Subclasses are frozen dataclasses."""

    name: ClassVar[str]
    paper: ClassVar[Paper] = Paper(
        "Your Absorbing Discrete Diffusion Secretly Models the Conditional Distributions of Clean Data", 2024,
        "2406.03736",
    )  # fmt: skip

    @abstractmethod
    def walk(self, schedule: Schedule, tokens: Tensor, mask: int, uniforms: Uniforms) -> Walk:
        """A generator that yields TokenQueries, is sent probabilities (rows, length, V), and returns the tokens.

        schedule: how likely a token is masked at which time.
        tokens: integers, (rows, length).
        mask: the token that is to be revealed wherever it is.
        uniforms: fresh random numbers whenever it is called.
        """


UNMASKERS: Registry[Unmasker] = Registry("unmasker", Unmasker)


@UNMASKERS.add
@dataclass(frozen=True)
class TauLeaping(Unmasker):
    """In each of `steps` equal steps of time every token is revealed on its own, with its exact probability.

    Exact but for tokens revealed in the same step, which do not see one another.

    steps: how many, at least 1.
    Source: Ou et al. 2024 (Tweedie tau-leaping).
    """

    steps: int = 64
    name = "tau-leaping"

    def __post_init__(self) -> None:
        positive_int("steps", self.steps)

    def chances(self, schedule: Schedule) -> Array:
        """The probability that a token masked before a step is revealed in it, (steps,); 1 in the last.

        schedule: how likely a token is masked at which time.
        """
        masked = schedule.masked(np.linspace(1, 0, self.steps + 1))
        return np.append(1 - masked[1:-1] / masked[:-2], 1.0)

    def walk(self, schedule: Schedule, tokens: Tensor, mask: int, uniforms: Uniforms) -> Walk:
        for chance in self.chances(schedule):
            reveal, which = uniforms().unbind(-1)
            reveal = (tokens == mask) & (reveal < chance)
            probabilities = yield TokenQuery(tokens, reveal.any(1))
            tokens = torch.where(reveal, _pick(probabilities, which), tokens)
        return tokens


@UNMASKERS.add
@dataclass(frozen=True)
class Euler(TauLeaping):
    """As tau-leaping, with the probabilities linear in the step: the same for LogLinear."""

    name = "euler"

    def chances(self, schedule: Schedule) -> Array:
        times = np.linspace(1, 0, self.steps + 1)[:-1]
        return np.append(np.minimum(schedule.rate(times[:-1]) / self.steps, 1.0), 1.0)


@UNMASKERS.add
@dataclass(frozen=True)
class Ordered(Unmasker):
    """One token a call: exact for exact conditionals, the limit of many steps at `length` calls.

    order: "random", a fresh one for every row (any-order autoregression), or "left-to-right".
    """

    order: str = "random"
    name = "ordered"

    def __post_init__(self) -> None:
        one_of("order", self.order, ("random", "left-to-right"))

    def walk(self, schedule: Schedule, tokens: Tensor, mask: int, uniforms: Uniforms) -> Walk:
        hidden = tokens == mask
        priority = uniforms()[..., 0] if self.order == "random" else torch.arange(tokens.shape[1]).expand_as(tokens)
        rank = torch.where(hidden, priority.to(torch.float64), torch.inf).argsort(1).argsort(1)
        for k in range(int(hidden.sum(1).max())):
            reveal = hidden & (rank == k)
            probabilities = yield TokenQuery(tokens, reveal.any(1))
            tokens = torch.where(reveal, _pick(probabilities, uniforms()[..., 1]), tokens)
        return tokens


@dataclass(frozen=True)
class Generated:
    """What `generate` made.

    tokens: integers, (rows, length), none of them masked.
    calls: how often the network was asked for each row, (rows,).
    """

    tokens: Tensor
    calls: Tensor


def generate(
    network: Network, tokens: Tensor, vocabulary: int, unmasker: Unmasker | str = "tau-leaping",
    schedule: Schedule | None = None, seed: int = 0, lazy: bool = True,
) -> Generated:  # fmt: skip
    """Fill in every masked token. Picks are made in float64 by inverting the cumulative distribution.

    network: tokens (rows, length) -> logits (rows, length, V).
    tokens: integers, (rows, length), `vocabulary` (the mask) where a token is wanted; the others stay.
    vocabulary: how many tokens there are, which is the number of the mask too.
    unmasker: an instance or a name.
    schedule: how likely a token is masked at which time; LogLinear if None.
    seed: of all picks; row i depends on (seed, i) alone.
    lazy: ask the network about a row only in steps that reveal something in it. Because answers do not depend on
        time this changes no token: it is the paper's cache without anything to keep.
    Raises HastenError for tokens out of range.
    """
    if tokens.ndim != 2 or tokens.is_floating_point() or not ((tokens >= 0) & (tokens <= vocabulary)).all():
        raise HastenError(f"tokens: give (rows, length) integers from 0 to {vocabulary}, the mask")
    generators = [np.random.default_rng([seed, row]) for row in range(len(tokens))]

    def uniforms() -> Tensor:
        return torch.from_numpy(np.stack([g.random((tokens.shape[1], 2)) for g in generators]))

    walk = UNMASKERS.build(unmasker).walk(schedule or LogLinear(), tokens, vocabulary, uniforms)
    calls = torch.zeros(len(tokens), dtype=torch.long)
    probabilities = torch.full((*tokens.shape, vocabulary), 1 / vocabulary, dtype=torch.float64)
    try:
        query = next(walk)
        while True:
            asked = query.needed if lazy else torch.ones_like(query.needed)
            if asked.any():
                with torch.no_grad():
                    logits = network(query.tokens[asked])
                probabilities[asked] = torch.softmax(logits[..., :vocabulary].double(), -1)
                calls += asked
            query = walk.send(probabilities)
    except StopIteration as done:
        return Generated(done.value, calls)


def expected_calls(length: int, masked: ArrayLike) -> float:
    """The mean number of lazy calls for one sequence; with n equal steps n (1 - (1 - 1/n)^length).

    length: how many tokens are masked at first.
    masked: the falling probabilities of being masked at the times of a run, from 1 to 0.
    Source: Ou et al. 2024 (expected NFEs).
    """
    return float((1 - (1 + np.diff(np.asarray(masked, float))) ** length).sum())


def _pick(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The token where the cumulative distribution passes a uniform number."""
    cumulative = probabilities.cumsum(-1)
    return (cumulative <= uniform[..., None] * cumulative[..., -1:]).sum(-1)
