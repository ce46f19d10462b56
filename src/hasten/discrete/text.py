"""Real text without a download, Python's own documentation, and a small network that fills in its letters."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SYMBOLS = " abcdefghijklmnopqrstuvwxyz.,"
MASK = len(SYMBOLS)


def documentation() -> str:
    """The help topics that ship with Python, about 400,000 symbols, as lower-case words, commas and full stops."""
    from pydoc_data.topics import topics

    text = " ".join(topics[name] for name in sorted(topics)).lower()
    return re.sub(r" ([.,])", r"\1", re.sub(r"[^a-z.,]+", " ", text))


def encode(text: str) -> Tensor:
    """A text as tokens, (length,).

    text: of SYMBOLS, and "_" for the mask.
    Raises ValueError for other symbols.
    """
    return torch.tensor([MASK if symbol == "_" else SYMBOLS.index(symbol) for symbol in text])


def decode(tokens: Tensor) -> str:
    """The text of one row.

    tokens: integers, (length,); the mask becomes "_".
    """
    return "".join("_" if token == MASK else SYMBOLS[token] for token in tokens.tolist())


class Letters(nn.Module):
    """A residual network of dilated convolutions over (rows, length) tokens, with no notion of time.

    width: channels.
    dilations: of each layer, whose kernel is 5 wide.
    """

    def __init__(self, width: int = 96, dilations: tuple[int, ...] = (1, 1, 2, 4)) -> None:
        super().__init__()
        self.embed = nn.Embedding(MASK + 1, width)
        self.mix = nn.ModuleList(nn.Conv1d(width, width, 5, padding=2 * d, dilation=d) for d in dilations)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in dilations)
        self.answer = nn.Linear(width, MASK)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for norm, mix in zip(self.norms, self.mix, strict=True):
            x = x + F.gelu(mix(norm(x).transpose(1, 2)).transpose(1, 2))
        return self.answer(x)
