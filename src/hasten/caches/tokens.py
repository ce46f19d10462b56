"""A site inside U-Nets: of the tokens in a transformer block, some are computed and the others held."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from hasten.caches.stability import SCHEMES, scores_of
from hasten.caching.gates import GATES, Gate
from hasten.caching.history import History
from hasten.caching.memory import Memory
from hasten.caching.sites import SITES, Site
from hasten.core.errors import HastenError, UnsupportedModel, one_of, positive_int
from hasten.runtime.anatomy import is_attention
from hasten.runtime.rows import picked
from hasten.runtime.run import Run
from hasten.runtime.view import wrap


@SITES.add
@dataclass(frozen=True)
class Tokens(Site):
    """The tokens of a U-Net's transformer blocks, of which some are computed at every step.

    Where the gate is shut a block runs on one random token in each window, and on the tokens that are unstable: those
    where the channels' mean score (see `stability.Stable`) is at least 0. They attend to one another only, and replace
    their like in what the block gave out before.

    sx: width of a window, in tokens, at least 1.
    sy: height of a window, in tokens, at least 1.
    max_downsample: leave blocks alone whose tokens stand for more latent pixels than that in a row, at least 1.
    max_fix: how many unstable tokens are computed at most, the worst of them.
    scheme: of the score, of `stability.SCHEMES`.
    seed: of the random tokens, which are the same for all images of a step.

    Source: Jiang et al. 2025 (SADA), section 3, token-wise.
    """

    sx: int = 3
    sy: int = 3
    max_downsample: int = 1
    max_fix: int = 5 * 1024
    scheme: str = "paper"
    seed: int = 0

    name = "tokens"

    def __post_init__(self) -> None:
        for field in ("sx", "sy", "max_downsample"):
            positive_int(field, getattr(self, field))
        if isinstance(self.max_fix, bool) or not isinstance(self.max_fix, int) or self.max_fix < 0:
            raise HastenError(f"max_fix: {self.max_fix!r} is not possible; give a whole number of at least 0")
        one_of("scheme", self.scheme, SCHEMES)

    def inside(self, network: nn.Module) -> list[nn.Module]:
        """The transformer blocks of a U-Net, however deep.

        Raises UnsupportedModel if there are none.
        """
        blocks = [part for part in network.modules() if any(map(is_attention, part.children())) and _has_context(part)]
        if not blocks or not hasattr(network, "up_blocks"):
            raise UnsupportedModel(
                f"model: {type(network).__name__} is no U-Net with transformer blocks; give a U-Net such as "
                "UNet2DConditionModel with cross-attention"
            )
        return blocks

    def check(self, network: nn.Module) -> None:
        self.inside(network)

    def attach(self, network: nn.Module, memory: Memory) -> None:
        for i, block in enumerate(self.inside(network)):
            wrap(block, _Sparse(self, memory, (self.name, i)))

    def chosen(self, run: Run, image: int, height: int, width: int) -> Tensor | None:
        """Which tokens of an image are computed, sorted indices; None for all.

        run: the request.
        image: which of its images.
        height: of the grid of tokens.
        width: of the grid of tokens.
        """
        kept = run.notes.get(self)
        if kept is None or kept[0] != run.step:
            kept = run.notes[self] = run.step, {}
        at = image, height, width
        if at not in kept[1]:
            kept[1][at] = self._choose(run, *at)
        return kept[1][at]

    def _choose(self, run: Run, image: int, height: int, width: int) -> Tensor | None:
        score = scores_of(run, [image], self.scheme)
        if score is None:
            return None
        coarse = adaptive_avg_pool2d(score.mean(1), (height, width)).flatten()
        unstable = ~(coarse < 0)
        count = min(self.max_fix, int(unstable.sum()))
        worst = torch.where(unstable, coarse, -math.inf).nan_to_num(math.inf, neginf=-math.inf).topk(count).indices
        return torch.cat([worst, self._spread(run.step, height, width).to(worst.device)]).unique()

    def _spread(self, step: int, height: int, width: int) -> Tensor:
        """One token at random in each window; windows at the edges may be smaller."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        rows, columns = -(-height // self.sy), -(-width // self.sx)
        draw = torch.rand(2, rows, columns, generator=generator)
        top, left = torch.arange(rows)[:, None] * self.sy, torch.arange(columns) * self.sx
        y = top + (draw[0] * (height - top).clamp(max=self.sy)).long()
        x = left + (draw[1] * (width - left).clamp(max=self.sx)).long()
        return (y * width + x).flatten()


def _has_context(part: nn.Module) -> bool:
    names = inspect.signature(type(part).forward).parameters
    return "hidden_states" in names and "encoder_hidden_states" in names and not is_attention(part)


class _Sparse:
    """In place of a transformer block's forward."""

    def __init__(self, site: Tokens, memory: Memory, key: Hashable) -> None:
        self.site, self.memory, self.key = site, memory, key

    def __call__(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        grid = self._grid(hidden)
        if grid is None or kwargs.get("attention_mask") is not None:
            return inner(*args, **kwargs)
        memory = self.memory
        split = memory.split(self.key)
        computed = None if split.none else memory.compute(split, inner, args, kwargs)
        result = memory.settle(self.key, computed)
        if split.all:
            return result
        result = result.clone()
        owners, together = memory.owners, {}
        for i in split.forecast:
            together.setdefault((owners[i].part, owners[i].image), []).append(i)
        for (part, image), rows in together.items():
            which = self.site.chosen(part, image, *grid)
            tokens = slice(None) if which is None else which
            given, named = picked(args, len(hidden), rows), picked(kwargs, len(hidden), rows)
            if args:
                given = given[0][:, tokens], *given[1:]
            else:
                named["hidden_states"] = named["hidden_states"][:, tokens]
            with memory.only(rows):
                fresh = inner(*given, **named)
            for row, new in zip(rows, fresh):
                result[row, tokens] = new
        memory.revise(self.key, result, split.forecast)
        return result

    def _grid(self, hidden: Tensor) -> tuple[int, int] | None:
        """Rows and columns of tokens, if the block is one of those that are treated."""
        height, width = self.memory.shape[0][-2:]
        if hidden.ndim != 3:
            return None
        factor = max(1, round(math.sqrt(height * width / hidden.shape[1])))
        grid = -(-height // factor), -(-width // factor)
        return grid if factor <= self.site.max_downsample and grid[0] * grid[1] == hidden.shape[1] else None


@GATES.add
@dataclass(frozen=True)
class Refresh(Gate):
    """Open at the first call after a gap, and every `interval` steps from there; before any gap, from `start` on.

    A gap is a number of steps at which the site was not asked, because a cache around it skipped them.

    interval: at least 1, which is always open and so off.
    start: a fraction of the run, 0 to 1.
    tail: how many last steps it is open at.

    Source: Jiang et al. 2025 (SADA), its code.
    """

    interval: int = 4
    start: float = 0.2
    tail: int = 0

    name = "refresh"

    def __post_init__(self) -> None:
        positive_int("interval", self.interval)

    def decide(self, run: Run, histories: Sequence[History], scores: Sequence[float | None]) -> Sequence[bool]:
        first = math.ceil(self.start * run.steps)
        answers = []
        for history in histories:
            if history.step < run.step - 1:
                history.notes[self.name] = run.step
            anchor = max(first, history.notes.get(self.name, first))
            answers.append(
                run.step <= anchor or run.step >= run.steps - self.tail or (run.step - anchor) % self.interval == 0
            )
        return answers
