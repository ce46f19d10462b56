"""What the networks of a stochastic interpolant are trained with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from hasten.interpolants import TwoSided
from hasten.train.objectives import Objective


class Interpolating(Objective):
    """Trains networks to predict the fields of a path between `batch["sample"]` and `batch["base"]`.

    Rows are paired as they come. The velocity is regressed on the slope of the path with +z and with -z, which
    cancels the part of its variance that grows like 1 / t at the ends.

    velocity: a network (x, t) -> like x, with t (rows,).
    noise: a network of the same kind that predicts z; None for none.
    interpolant: the path.
    cut: times are uniform in [cut, 1 - cut].
    Source: Albergo et al. 2023, arXiv 2303.08797 (losses of b and eta; antithetic sampling).
    """

    def __init__(self, velocity: nn.Module, noise: nn.Module | None, interpolant: TwoSided, cut: float = 1e-3):
        super().__init__()
        self.velocity, self.noise, self.interpolant, self.cut = velocity, noise, interpolant, cut

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        data, base = batch["sample"], batch["base"]
        t = self.cut + (1 - 2 * self.cut) * torch.rand(len(data))
        z = torch.randn_like(data)
        total = velocity_loss(self.velocity, self.interpolant, data, base, z, t).mean()
        if self.noise is None:
            return total
        x, _ = _draw(self.interpolant, data, base, z, t)
        answer = self.noise(x, t)
        return total + (0.5 * answer.square() - z * answer).flatten(1).sum(1).mean()


def velocity_loss(
    velocity: Callable[[Tensor, Tensor], Tensor], interpolant: TwoSided, data: Tensor, base: Tensor, z: Tensor,
    t: Tensor, antithetic: bool = True,
) -> Tensor:  # fmt: skip
    """|b|^2 / 2 - b . slope for each row, (rows,), with b the predicted velocity.

    velocity: (x, t) -> like x, with t (rows,).
    interpolant: the path.
    data: samples at time 0, (rows, ...).
    base: samples at time 1, (rows, ...).
    z: unit noise, (rows, ...).
    t: a time a row, (rows,).
    antithetic: average over z and -z.
    """
    signs = (1.0, -1.0) if antithetic else (1.0,)
    total = torch.zeros(len(data), dtype=data.dtype, device=data.device)
    for sign in signs:
        x, slope = _draw(interpolant, data, base, sign * z, t)
        b = velocity(x, t)
        total = total + (0.5 * b.square() - b * slope).flatten(1).sum(1) / len(signs)
    return total


def _draw(interpolant: TwoSided, data: Tensor, base: Tensor, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """States at times t (rows,), and the slopes of their paths."""
    w = interpolant.weights(t.double().cpu().numpy())
    steep = np.divide(w.gamma_rise, w.gamma, out=np.zeros_like(w.gamma), where=w.gamma > 0)
    a, b, g, da, db, dg = (torch.as_tensor(v).to(data).reshape(-1, *[1] * (data.ndim - 1)) for v in (*w[:5], steep))
    return a * data + b * base + g * z, da * data + db * base + dg * z
