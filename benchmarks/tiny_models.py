"""A small network and a training loop for benchmarks that need a model of their own in a minute on one core."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Net(nn.Module):
    """(rows, into, size, size), a number a row in [0, 1] or so, a class a row -> (rows, out, size, size).

    Residual convolutions at `levels` resolutions, each halving the size, with skips on the way up.
    """

    def __init__(self, into: int = 1, out: int = 1, width: int = 32, levels: int = 2, classes: int = 1) -> None:
        super().__init__()
        widths = [width * min(2**level, 2) for level in range(levels)]
        self.label, self.number = nn.Embedding(classes, 64), nn.Linear(32, 64)
        self.first = nn.Conv2d(into, width, 3, padding=1)
        self.down = nn.ModuleList(Block(a, b) for a, b in zip([width, *widths], widths))
        self.up = nn.ModuleList(Block(2 * b, a) for a, b in zip([width, *widths], widths))
        self.last = nn.Conv2d(width, out, 3, padding=1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, number: Tensor, label: Tensor | None = None) -> Tensor:
        angles = number[:, None] * torch.exp(torch.linspace(0, math.log(200), 16))
        known = F.silu(self.number(torch.cat([angles.sin(), angles.cos()], 1)))
        known = known + self.label(torch.zeros(len(x), dtype=torch.long) if label is None else label)
        x, skips = self.first(x), []
        for level, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if level else x, known)
            skips.append(x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](torch.cat([x, skips[level]], 1), known)
            x = F.interpolate(x, scale_factor=2.0) if level else x
        return self.last(x)


class Block(nn.Module):
    """Two convolutions, scaled and shifted by what is known, beside a shortcut."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(into, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.short, self.norm, self.known = nn.Conv2d(into, out, 1), nn.GroupNorm(4, out), nn.Linear(64, 2 * out)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        scale, shift = self.known(known)[..., None, None].chunk(2, 1)
        inside = F.silu(self.norm(self.one(x)) * (1 + scale) + shift)
        return self.short(x) + self.two(inside)


def fitted(
    network: nn.Module, loss: Callable[[nn.Module], Tensor], steps: int, rate: float = 2e-3, seed: int = 0
) -> nn.Module:
    """The moving average of a network trained by Adam at a falling rate. loss(network): of one fresh batch."""
    torch.manual_seed(seed)
    average, began = copy.deepcopy(network), time.monotonic()
    optimizer = torch.optim.Adam(network.parameters(), rate)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1, 10 * (1 - step / steps), (step + 1) / 50)
        optimizer.zero_grad()
        value = loss(network)
        value.backward()
        optimizer.step()
        with torch.no_grad():
            for kept, now in zip(average.parameters(), network.parameters()):
                kept.lerp_(now, max(0.005, 1 / (step + 1)))
        if (step + 1) % 500 == 0 or step + 1 == steps:
            print(f"  step {step + 1}: loss {value.item():.4f}, {time.monotonic() - began:.0f} s", flush=True)
    return average.eval().requires_grad_(False)
