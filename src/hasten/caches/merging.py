"""Token merging: self-attention runs on fewer tokens, each the mean of tokens that are alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from hasten.caching.cache import CACHES, Cache
from hasten.core.errors import HastenError, UnsupportedModel, one_of
from hasten.core.registry import Paper, Span
from hasten.runtime.acceleration import Acceleration, Phase
from hasten.runtime.anatomy import batch_of
from hasten.runtime.run import Run
from hasten.runtime.view import wrap


@CACHES.add
@dataclass(frozen=True)
class TokenMerging(Cache):
    """Merge the most alike tokens before each self-attention over a grid of tokens, and copy the results back.

    Cross-attention and feed-forward layers run on all tokens.

    ratio: share of the tokens to merge away, 0 to 0.75; 0 is off.
    downsample: 1, 2, 4 or 8: only blocks whose grid is at most so much coarser than the finest there can be; SDXL has
        no attention below 2.
    random: draw the token of each 2 x 2 cell that others are merged into, from seed, step and block alone; else take
        the top left one.
    seed: of the draws, a whole number of at least 0.

    Source: Bolya & Hoffman 2023, sections 3 and 4.
    """

    ratio: float = 0.5
    downsample: int = 1
    random: bool = True
    seed: int = 0

    name = "tome"
    search_space: ClassVar[Mapping[str, Any]] = {"ratio": Span(0.1, 0.5)}
    paper = Paper("Token Merging for Fast Stable Diffusion", 2023, "2303.17604")
    off: ClassVar[Mapping[str, Any]] = {"ratio": 0.0}

    def waits_for(self, other: Acceleration) -> bool:
        return other.phase <= Phase.CACHE  # what other caches hold has all tokens

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 0.75:
            raise HastenError(f"ratio: {self.ratio!r} is not possible; give a share from 0 to 0.75")
        one_of("downsample", self.downsample, (1, 2, 4, 8))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise HastenError(f"seed: {self.seed!r} is not possible; give a whole number of at least 0")

    def check(self, network: nn.Module) -> None:
        _patch(network)
        if not any(_blocks(network)):
            raise UnsupportedModel(
                f"tome: {type(network).__name__} has no blocks with a self-attention `attn1` after `norm1`; give a "
                "U-Net or a transformer made of such blocks, such as UNet2DConditionModel"
            )
        finest = _finest(network)
        if finest > self.downsample:
            raise UnsupportedModel(
                f"tome: {type(network).__name__} attends on grids {finest} times coarser than its finest at best; "
                f"give downsample={finest}"
            )

    def attach(self, network: nn.Module, run: Run) -> None:
        if not self.ratio:
            return
        batch, size = batch_of(network), _Size(_patch(network))

        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            run.act(self.name, False)
            size.of(batch(args, kwargs))
            return inner(*args, **kwargs)

        wrap(network, forward)
        for number, block in enumerate(_blocks(network)):
            merging = _Merging(self, run, size, number)
            wrap(block, merging.block)
            wrap(block.attn1, merging.attention)


def _blocks(network: nn.Module) -> Iterator[Any]:
    """The transformer blocks that attend to themselves first, in the order of their registration."""
    for module in network.modules():
        if isinstance(getattr(module, "attn1", None), nn.Module) and hasattr(module, "norm1"):
            yield module


def _finest(network: nn.Module) -> int:
    """How much coarser than the network's finest grid the finest is that it attends on; 1 if it cannot be told."""
    for level, down in enumerate(getattr(network, "down_blocks", ())):
        if any(_blocks(down)):
            return 2**level
    return 1


class _Size:
    """Height and width, in the finest tokens there can be, of what the network is working on."""

    def __init__(self, patch: int) -> None:
        self.patch = patch
        self.height = self.width = 0

    def of(self, x: Tensor) -> None:
        self.height, self.width = (-(-n // self.patch) for n in x.shape[-2:]) if x.ndim == 4 else (0, 0)

    def grid(self, tokens: int, downsample: int) -> tuple[int, int] | None:
        """Height and width of a grid of so many tokens, if it is at most `downsample` times coarser."""
        while self.height and downsample:
            height, width = -(-self.height // downsample), -(-self.width // downsample)
            if height * width == tokens:
                return height, width
            downsample //= 2
        return None


class _Merging:
    """In place of the forwards of a block and of its self-attention."""

    def __init__(self, settings: TokenMerging, run: Run, size: _Size, number: int) -> None:
        self.settings, self.run, self.size, self.number = settings, run, size, number
        self.tokens: Tensor | None = None  # what entered the block, which tells what is alike

    def block(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.tokens = args[0] if args else kwargs["hidden_states"]
        try:
            return inner(*args, **kwargs)
        finally:
            self.tokens = None

    def attention(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        x, args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), args)
        matching = None
        if (
            self.tokens is not None
            and x.ndim == 3
            and not any(isinstance(v, Tensor) for v in (*args, *kwargs.values()))
        ):
            matching = self._matching(self.tokens)  # neither a mask nor other keys, which know nothing of merging
        if matching is None:
            return inner(x, *args, **kwargs)
        return matching.unmerge(inner(matching.merge(x), *args, **kwargs))

    def _matching(self, tokens: Tensor) -> Matching | _Apart | None:
        count, settings = tokens.shape[1], self.settings
        grid = self.size.grid(count, settings.downsample)
        merged = int(settings.ratio * count)
        if grid is None or min(grid) < 2 or not merged:
            return None
        rows = self.run.rows(len(tokens))
        steps = [self.run.step] * len(tokens) if rows is None else [row.part.step for row in rows]

        def matching(x: Tensor, step: int) -> Matching:
            key = [settings.seed, step, self.number] if settings.random else None
            self.run.act(TokenMerging.name)
            return Matching(x, destinations(*grid, key).to(x.device), merged)

        if not settings.random or len(set(steps)) == 1:
            return matching(tokens, steps[0])
        groups = [[i for i, at in enumerate(steps) if at == step] for step in sorted(set(steps))]
        return _Apart(groups, [matching(tokens[group], steps[group[0]]) for group in groups])


class _Apart:
    """Matchings for groups of rows, which belong to requests at different steps, as one for all rows."""

    def __init__(self, groups: list[list[int]], matchings: list[Matching]) -> None:
        self.groups, self.matchings = groups, matchings
        order = [i for group in groups for i in group]
        self.back = [order.index(i) for i in range(len(order))]

    def merge(self, x: Tensor) -> Tensor:
        return torch.cat([m.merge(x[group]) for group, m in zip(self.groups, self.matchings)])[self.back]

    def unmerge(self, y: Tensor) -> Tensor:
        return torch.cat([m.unmerge(y[group]) for group, m in zip(self.groups, self.matchings)])[self.back]


def destinations(height: int, width: int, key: list[int] | None) -> Tensor:
    """Indices of the tokens that others are merged into, one for each whole 2 x 2 cell.

    height: of the grid, in tokens.
    width: of the grid, in tokens.
    key: what the token of a cell is drawn by; None takes the top left one.
    """
    cells = (height // 2, width // 2)
    corner = np.zeros(cells, int) if key is None else np.random.default_rng(key).integers(4, size=cells)
    rows = 2 * np.arange(cells[0])[:, None] + corner // 2
    columns = 2 * np.arange(cells[1])[None, :] + corner % 2
    return torch.from_numpy((rows * width + columns).ravel())


class Matching:
    """Which tokens are merged into which: the sources that are most alike to a destination.

    tokens: (rows, tokens, channels), compared by cosine.
    destinations: indices, the same for all rows; every other token is a source.
    merged: how many sources are merged; all, if there are fewer.

    Source: Bolya & Hoffman 2023, section 3 and figure 2.
    """

    def __init__(self, tokens: Tensor, destinations: Tensor, merged: int) -> None:
        count = tokens.shape[1]
        is_source = torch.ones(count, dtype=torch.bool, device=tokens.device)
        is_source[destinations] = False
        self.sources, self.destinations = is_source.nonzero().flatten(), destinations
        unit = tokens / tokens.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(tokens.dtype).tiny)
        alike, nearest = (unit[:, self.sources] @ unit[:, destinations].mT).max(-1)
        order = alike.argsort(-1, descending=True)
        gone, self.kept = order[:, :merged], order[:, merged:]  # places among the sources, (rows, ...)
        self.gone, self.into = gone, nearest.gather(1, gone)  # into: places among the destinations

    def merge(self, x: Tensor) -> Tensor:
        """From (rows, tokens, channels) to (rows, tokens - merged, channels): the kept sources, then the means."""
        sources, into = x[:, self.sources], _wide(self.into, x)
        kept, gone = (sources.gather(1, _wide(places, x)) for places in (self.kept, self.gone))
        return torch.cat([kept, x[:, self.destinations].scatter_reduce(1, into, gone, "mean")], 1)

    def unmerge(self, y: Tensor) -> Tensor:
        """The inverse of `merge`, except that each merged source is a copy of what it was merged into."""
        kept, means = y.split([self.kept.shape[1], len(self.destinations)], 1)
        sources = y.new_empty(len(y), len(self.sources), y.shape[2])
        sources.scatter_(1, _wide(self.kept, y), kept)
        sources.scatter_(1, _wide(self.gone, y), means.gather(1, _wide(self.into, y)))
        x = y.new_empty(len(y), len(self.sources) + len(self.destinations), y.shape[2])
        x[:, self.sources], x[:, self.destinations] = sources, means
        return x


def _wide(places: Tensor, x: Tensor) -> Tensor:
    return places[..., None].expand(-1, -1, x.shape[2])


def _patch(network: nn.Module) -> int:
    """The side of the patches that a network makes tokens of. Raises UnsupportedModel if they reach over frames."""
    patch = getattr(getattr(network, "config", None), "patch_size", None) or 1
    if not isinstance(patch, int):
        raise UnsupportedModel(
            f"tome: {type(network).__name__} makes tokens of patches {patch} of videos, and this merges those of "
            "pictures; leave it out"
        )
    return patch
