"""What an absorbing model is trained with: one loss, three ways to draw what is hidden."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from hasten.core.errors import one_of
from hasten.core.estimates import Estimate, bootstrap
from hasten.discrete.exact import Network, surprise
from hasten.discrete.masking import LogLinear, Schedule
from hasten.train.objectives import Objective

Draw = Callable[[Tensor], tuple[Tensor, Tensor]]  # tokens -> what is hidden, and the weight (rows,)
WAYS = ("lambda", "count", "time")
EARLIEST = 1e-3  # of the times that are drawn


class AnyOrder(Objective):
    """Trains a network on `batch["tokens"]`, integers (rows, length), to fill in what is hidden.

    The mean loss is an upper bound of -log p of a sequence, in nats, the same one for every way but for the ends
    that "time" leaves out. Levels are spread evenly over the batch.

    network: tokens (rows, length) -> logits (rows, length, V).
    mask: the token that stands for a hidden one.
    way: "lambda" hides each token with a probability uniform in [0, 1] (lambda-DCE), "count" a uniform number of
        them (k-DCE, any-order autoregression), "time" what `schedule` hides at a uniform time (t-DCE).
    schedule: of "time"; LogLinear if None.
    Raises HastenError for another way.
    Source: Ou et al. 2024, arXiv 2406.03736.
    """

    def __init__(self, network: nn.Module, mask: int, way: str = "lambda", schedule: Schedule | None = None):
        super().__init__()
        one_of("way", way, WAYS)
        self.network, self.mask = network, mask
        self.draw = drawing(way, schedule)

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        tokens = batch["tokens"]
        hidden, weight = self.draw(tokens)
        return (weight * surprise(self.network, tokens, hidden, self.mask)).mean()


def bound(network: Network, tokens: Tensor, mask: int, way: str = "lambda", draws: int = 16, seed: int = 0) -> Estimate:
    """The mean over rows of the upper bound of -log p, in nats a sequence, with an interval over rows.

    network: tokens (rows, length) -> logits (rows, length, V).
    tokens: integers, (rows, length).
    mask: the token that stands for a hidden one.
    way: how masks are drawn, as of `AnyOrder`.
    draws: masks a row.
    seed: of the masks.
    """
    one_of("way", way, WAYS)
    draw = drawing(way)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        many = []
        for _ in range(draws):
            hidden, weight = draw(tokens)
            many.append(weight * surprise(network, tokens, hidden, mask))
    return bootstrap(torch.stack(many).mean(0).numpy(), "mean").named("bound", " nats")


def drawing(way: str, schedule: Schedule | None = None) -> Draw:
    """A function from tokens (rows, length) to what is hidden of them, (rows, length), and its weight, (rows,).

    way: as of `AnyOrder`.
    schedule: of "time"; LogLinear if None.
    """
    return {"lambda": _by_lambda, "count": _by_count, "time": partial(_by_time, schedule or LogLinear())}[way]


def _by_lambda(tokens: Tensor) -> tuple[Tensor, Tensor]:
    level = _spread(len(tokens))
    return _hide(tokens, level), 1 / level


def _by_count(tokens: Tensor) -> tuple[Tensor, Tensor]:
    length = tokens.shape[1]
    count = torch.floor(_spread(len(tokens)) * length).clamp(max=length - 1) + 1
    rank = torch.rand(tokens.shape).argsort(1).argsort(1)
    return (rank < count[:, None]).to(tokens.device), length / count


def _by_time(schedule: Schedule, tokens: Tensor) -> tuple[Tensor, Tensor]:
    t = EARLIEST + (1 - EARLIEST) * _spread(len(tokens)).numpy()
    weight = torch.from_numpy(np.asarray(schedule.rate(t))) * (1 - EARLIEST)
    return _hide(tokens, torch.from_numpy(np.asarray(schedule.masked(t)))), weight


def _spread(rows: int) -> Tensor:
    """Uniform numbers in (0, 1), one in each of `rows` equal parts, in random order."""
    return (torch.randperm(rows) + torch.rand(rows, dtype=torch.float64).clamp(min=1e-9)) / rows


def _hide(tokens: Tensor, level: Tensor) -> Tensor:
    return (torch.rand(tokens.shape, dtype=torch.float64) < level[:, None]).to(tokens.device)
