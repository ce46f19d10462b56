"""Two mixtures of Gaussians, between which every field is known exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from hasten.denoisers import GaussianMixture
from hasten.interpolants.paths import Fields, TwoSided, Weights


class MixtureBridge:
    """The exact fields between two mixtures of isotropic Gaussians; components pair up independently.

    base: where time is 1; its process does not matter.
    data: where time is 0; its process does not matter.
    interpolant: the path between them.
    """

    def __init__(self, base: GaussianMixture, data: GaussianMixture, interpolant: TwoSided) -> None:
        self.base, self.data, self.interpolant = base, data, interpolant

    def __call__(self, x: Tensor, t: float) -> Fields:
        """The fields at a time.

        x: states, (rows, ...).
        t: the time, within [0, 1].
        """
        w = Weights(*(float(v) for v in self.interpolant.weights(t)))
        base, data, flat = self.base, self.data, x.flatten(1)

        def pairs(of_base: Tensor, of_data: Tensor, b: float, a: float) -> Tensor:
            return (b * of_base[:, None] + a * of_data[None]).flatten(0, 1).to(x)

        ends = base.means.flatten(1), data.means.flatten(1)
        mean, drift = pairs(*ends, w.beta, w.alpha), pairs(*ends, w.beta_slope, w.alpha_slope)
        spreads = base.stds**2, data.stds**2
        variance = pairs(*spreads, w.beta**2, w.alpha**2) + w.gamma**2
        growth = pairs(*spreads, w.beta * w.beta_slope, w.alpha * w.alpha_slope) + w.gamma_rise
        offset = flat[:, None] - mean
        logits = pairs(base.weights.log(), data.weights.log(), 1, 1) - offset.square().sum(-1) / (2 * variance)
        share = torch.softmax(logits - flat.shape[1] / 2 * variance.log(), -1)[..., None]
        velocity = (share * (drift + (growth / variance)[:, None] * offset)).sum(1)
        score = -(share * offset / variance[:, None]).sum(1)
        return Fields(velocity.reshape(x.shape), score.reshape(x.shape))
