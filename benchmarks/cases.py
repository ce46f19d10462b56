"""The problems of `benchmarks/solvers.py`: denoisers, noises, and their converged solutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hasten import sample
from hasten.denoisers import DenoiserLike, GaussianMixture
from hasten.grids import settling
from hasten.processes import Process, RectifiedFlow, VariancePreserving
from hasten.runtime.denoiser import ConditionedDenoiser, conditioned

SPLITS = ("choose", "report")
SCREENED = 4  # rows on which candidates are compared first, where calls are dear
FITTED = 256  # rows that are fitted to, at most
EXACT = {"name": "unipc", "order": 2}


@dataclass
class Case:
    """A problem, twice: noises (and prompts) to choose by and others to report on, with their solutions.

    Two more splits are beginnings of "choose", or all of it: "screen", where calls are dear, and "fit", where states
    are many.
    finest: steps of the solutions. modes: what samples may flip between; the solutions themselves if None.
    settled: how far (RMSE) the solutions are from those with half the steps. bound: whether the denoiser belongs
    to the rows of its noises, each with a prompt. evaluations: how many tries a fit gets.
    """

    name: str
    denoisers: dict[str, DenoiserLike]
    noises: dict[str, Tensor]
    finest: int
    modes: Tensor | None = None
    solved: dict[str, Tensor] = field(default_factory=dict)
    settled: float = 0.0
    bound: bool = False
    evaluations: int = 60
    trajectory: Any = None  # of the noises to choose by, once somebody has solved it

    @property
    def process(self) -> Process:
        return self.denoisers["report"].process

    def solve(self) -> Case:
        grid = settling(self.process)
        for split, noise in self.noises.items():
            half, whole = (
                sample(self.denoisers[split], noise, EXACT, steps, grid) for steps in (self.finest // 2, self.finest)
            )
            self.solved[split] = whole
            self.settled = max(self.settled, float((half - whole).square().mean().sqrt()))
        for kept in (self.noises, self.solved):
            kept["screen"] = kept["choose"][:SCREENED] if self.bound else kept["choose"]
            kept["fit"] = kept["choose"][:FITTED]
        self.denoisers = {"screen": self.denoisers["choose"], "fit": self.denoisers["choose"]} | self.denoisers
        return self


def mixture(count: int = 4096) -> Case:
    """10 Gaussians in 64 dimensions."""
    means = np.random.default_rng(0).normal(size=(10, 64))
    return _exact("mixture", means, 0.3, None, count)


def latents(count: int = 256, data: Path | None = None) -> Case:
    """40 Gaussians fitted to the latents of the emoji, 1,024 dimensions."""
    from sklearn.cluster import KMeans

    from hasten.zoo import emoji, load
    from hasten.zoo_training.tensors import encode

    pictures = emoji.images(emoji.choose(emoji.emojis(data), 500))
    points = encode(load("emoji-sd").vae, pictures).flatten(1).double().numpy()
    fitted = KMeans(40, n_init=1, random_state=0).fit(points)
    spread = [float((points[fitted.labels_ == k] - c).std()) for k, c in enumerate(fitted.cluster_centers_)]
    weights = np.bincount(fitted.labels_, minlength=40)
    return _exact("latents", fitted.cluster_centers_, np.maximum(spread, 0.2), weights, count)


def emoji_sd(count: int = 16, guidance: float = 7.5) -> Case:
    """The zoo's Stable Diffusion, guided."""
    from hasten.zoo import load

    pipe = load("emoji-sd")
    return _of_network(
        "emoji-sd", lambda prompts: conditioned(pipe, prompts, guidance=guidance, gradients=False), count
    )


def emoji_flux(count: int = 16) -> Case:
    """The zoo's Flux, in the time that is its noise level, without the shift of its pipeline."""
    from hasten.zoo import call, folder, load

    pipe, length = load("emoji-flux"), call(folder("emoji-flux"))["max_sequence_length"]

    def bound(prompts: list[str]) -> ConditionedDenoiser:
        return replace(conditioned(pipe, prompts, max_sequence_length=length, gradients=False), process=RectifiedFlow())

    return _of_network("emoji-flux", bound, count)


CASES: dict[str, Callable[..., Case]] = {
    "mixture": mixture, "latents": latents, "emoji-sd": emoji_sd, "emoji-flux": emoji_flux,
}  # fmt: skip


def _exact(name: str, means: Any, stds: Any, weights: Any, count: int) -> Case:
    denoiser = GaussianMixture(means, stds, weights, VariancePreserving())
    noises = {split: _noise((count, means.shape[1]), seed, torch.float64) for seed, split in enumerate(SPLITS)}
    return Case(name, dict.fromkeys(SPLITS, denoiser), noises, 1600, denoiser.means)


def _of_network(name: str, bound: Callable[[list[str]], ConditionedDenoiser], count: int) -> Case:
    """A case whose splits have prompts of their own, those of the zoo's captions. bound: its denoiser for prompts."""
    from hasten.zoo import captions

    prompts = zip(SPLITS, (captions(name, split)[:count] for split in ("search", "confirm")), strict=True)
    denoisers: dict[str, Any] = {split: bound(listed) for split, listed in prompts}
    denoisers["screen"] = denoisers["choose"].rows(slice(SCREENED))
    noises = {split: _noise((count, 4, 16, 16), seed, torch.float32) for seed, split in enumerate(SPLITS)}
    return Case(name, denoisers, noises, 256, bound=True, evaluations=20)


def _noise(shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
