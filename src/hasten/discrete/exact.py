"""Tiny state spaces, enumerated: the conditionals of a known joint distribution, and the bound as a finite sum."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from hasten.core.errors import HastenError

Network = Callable[[Tensor], Tensor]  # tokens (rows, length) -> logits (rows, length, V)


class Joint:
    """The exact network for a joint distribution.

    table: positive numbers in the shape (V,) * length; they are divided by their sum.
    Raises HastenError for another shape or numbers that are not positive.
    """

    def __init__(self, table: ArrayLike) -> None:
        self.table = torch.as_tensor(table, dtype=torch.float64)
        if len(set(self.table.shape)) != 1 or not (self.table > 0).all():
            raise HastenError(
                f"table: give positive numbers in the shape (V,) * length; got shape {tuple(self.table.shape)}"
            )
        self.table = self.table / self.table.sum()
        self.length, self.vocabulary = self.table.ndim, self.table.shape[0]

    def __call__(self, tokens: Tensor) -> Tensor:
        return torch.stack([self._logits(row) for row in tokens.tolist()])

    def _logits(self, row: list[int]) -> Tensor:
        logits = torch.zeros(self.length, self.vocabulary, dtype=torch.float64)
        for place in range(self.length):
            seen = [slice(None) if i == place or v == self.vocabulary else slice(v, v + 1) for i, v in enumerate(row)]
            rest = [i for i in range(self.length) if i != place]
            logits[place] = self.table[tuple(seen)].sum(rest).log()
        return logits


def exact_bound(network: Network, tokens: Tensor, mask: int) -> Tensor:
    """What `hasten.train.discrete.AnyOrder` estimates, as the sum over all 2^length masks: at least -log p.

    A mask of k of L tokens weighs (k - 1)! (L - k)! / L!, both the integral of lambda^(k-1) (1 - lambda)^(L-k)
    and its share among all orders; the sum is -log p for true conditionals.

    network: tokens (rows, length) -> logits (rows, length, V).
    tokens: integers, (rows, length), few a row.
    mask: the token that stands for a hidden one.
    Returns nats, (rows,).
    Source: Ou et al. 2024 (lambda-DCE, k-DCE and any-order losses are one).
    """
    length = tokens.shape[1]
    total = torch.zeros(len(tokens), dtype=torch.float64)
    for hidden in itertools.product((False, True), repeat=length):
        k = sum(hidden)
        if k:
            weight = 1 / (k * math.comb(length, k))
            total += weight * surprise(network, tokens, torch.tensor(hidden).expand_as(tokens), mask)
    return total


def surprise(network: Network, tokens: Tensor, hidden: Tensor, mask: int) -> Tensor:
    """-log of the probability given to the hidden tokens, summed over each row, (rows,) nats.

    network: tokens (rows, length) -> logits (rows, length, V).
    tokens: integers, (rows, length).
    hidden: where the network sees `mask` instead, (rows, length) booleans.
    mask: the token that stands for a hidden one.
    """
    logs = torch.log_softmax(network(torch.where(hidden, mask, tokens)).double(), -1)
    picked = logs.gather(-1, tokens[..., None])[..., 0]
    return -torch.where(hidden, picked, 0.0).sum(1)
