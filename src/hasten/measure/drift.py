"""How far results are from their references, sample by sample, and how many landed on another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hasten.core.errors import HastenError, unknown
from hasten.core.estimates import Estimate, bootstrap, bootstrap_ratio, wilson
from hasten.measure.features import activation_distance, check_images, distances, embed, signature, signatures
from hasten.measure.pixels import decibels, rmse, ssim

Kind = Literal["images", "states"]
HIGHER_IS_BETTER = frozenset({"psnr", "ssim"})
TIE = 1e-4  # relative; a network's output for one image differs by rounding from batch to batch
FLIP_DISTANCE = {
    "images": "angle between EfficientNet-Lite0 signatures (five depths on a 4 x 4 grid)",
    "states": "root mean square difference",
}


@dataclass(frozen=True)
class Drift:
    """Distances of results from their references, sample by sample in order, and which samples flipped.

    kind: "images" or "states".
    samples: metric name -> (n,) array. "rmse" always; for images also "psnr" (dB, at most 100), "ssim" and "effnet"
        (EfficientNet distance, not LPIPS); "latent_rmse" where latents were given.
    flipped: whether another reference is nearer by `flip_distance`, (n,) booleans; empty if there was no other.
    candidates: how many references each sample could have been nearest to.
    """

    kind: Kind
    samples: Mapping[str, NDArray[np.float64]]
    flipped: NDArray[np.bool_]
    candidates: int

    @property
    def n(self) -> int:
        """How many samples."""
        return len(self.samples["rmse"])

    @property
    def flip_distance(self) -> str:
        """The distance that says which reference a sample is nearest to."""
        return FLIP_DISTANCE[self.kind]

    @property
    def flips(self) -> Estimate:
        """Share of samples nearer to another reference than to their own, with Wilson's interval."""
        return wilson(int(self.flipped.sum()), len(self.flipped)).named("flips")

    def estimate(self, metric: str = "rmse", statistic: str = "median", *, seed: int = 0) -> Estimate:
        """A metric over all samples, with a bootstrap interval.

        metric: one of `samples`.
        statistic: "median", "mean" or "p95", which is what 95 % of the samples are no worse than: for PSNR and SSIM,
            where more is better, their fifth percentile.
        seed: of the bootstrap.
        Raises HastenError for a metric that was not measured.
        """
        x = self._metric(metric)
        lower_tail = statistic == "p95" and metric in HIGHER_IS_BETTER
        estimate = bootstrap(x, "p05" if lower_tail else statistic, seed=seed)
        return estimate.named(f"{metric} {statistic}", " dB" if metric == "psnr" else "")

    def to_json(self) -> dict[str, Any]:
        """Every metric's median and p95, the share of flips and what judged them, as plain JSON values."""
        table = {m: {s: self.estimate(m, s).to_json() for s in ("median", "p95")} for m in self.samples}
        flips = {**self.flips.to_json(), "distance": self.flip_distance, "candidates": self.candidates}
        return {"kind": self.kind, "n": self.n, "metrics": table, "flips": flips}

    def __str__(self) -> str:
        lines = [str(self.estimate(metric, s)) for metric in self.samples for s in ("median", "p95")]
        return "\n".join([*lines, f"{self.flips}, by {self.flip_distance}"])

    def _metric(self, metric: str) -> NDArray[np.float64]:
        if metric not in self.samples:
            raise unknown("metric", metric, self.samples)
        return self.samples[metric]


def drift(
    result: Tensor,
    reference: Tensor,
    *,
    others: Tensor | None = None,
    latents: tuple[Tensor, Tensor] | None = None,
    kind: Kind | None = None,
    batch: int = 32,
) -> Drift:
    """Distance of each result from its own reference, and whether another reference is nearer (a flip).

    result: images in [0, 1], (N, C, H, W), H and W at least 8; or states of any shape (N, ...): latents, points.
    reference: what each result should be, of the same shape.
    others: further references that a result may be nearest to, (M, ...); a tie with the own one is no flip.
    latents: (result, reference) latents of the same samples, reported as "latent_rmse" beside the images' metrics.
    kind: "images" or "states"; if None, 4-D tensors of 1 or 3 channels are images.
    batch: how many images pass the network of the perceptual distance at a time.
    Raises HastenError for unequal shapes, values that are not finite (a run that diverged), images outside [0, 1].
    """
    kind = kind or ("images" if result.ndim == 4 and result.shape[1] in (1, 3) else "states")
    if kind not in FLIP_DISTANCE:
        raise unknown("kind", kind, FLIP_DISTANCE)
    _check_pair(result, reference)
    if others is not None and others.shape[1:] != reference.shape[1:]:
        raise HastenError(f"others must be (M, {str(tuple(reference.shape[1:]))[1:]}, got {tuple(others.shape)}")
    result, reference = result.detach(), reference.detach().to(result.device)
    samples = {"rmse": rmse(result, reference)}
    if kind == "images":
        check_images(result, "result")
        check_images(reference, "reference")
        samples |= {"psnr": decibels(samples["rmse"]), "ssim": ssim(result, reference)}
        samples["effnet"], ours, theirs = _perceive(result, reference, batch)
        with torch.no_grad():
            rivals = None if others is None else signatures(others.to(result.device), batch=batch)
    else:
        scale = result[0].numel() ** 0.5
        ours, theirs = (x.flatten(1).double() / scale for x in (result, reference))
        rivals = None if others is None else others.detach().flatten(1).to(theirs) / scale
    if latents is not None:
        _check_pair(*latents, names=("result latents", "reference latents"))
        if len(latents[0]) != len(result):
            raise HastenError(f"latents: {len(latents[0])} samples, but there are {len(result)} results")
        samples["latent_rmse"] = rmse(*(x.detach() for x in latents))
    flipped = _flips(ours, theirs, rivals)
    candidates = len(theirs) + (0 if rivals is None else len(rivals))
    return Drift(kind, {k: v.double().cpu().numpy() for k, v in samples.items()}, flipped, candidates)


def relative(ours: Drift, theirs: Drift, metric: str = "rmse", statistic: str = "median", *, seed: int = 0) -> Estimate:
    """How many times further from the reference `ours` is than `theirs`, with a paired bootstrap interval.

    Two exact results compare as 1, anything against an exact one as infinity.

    ours: a drift; below 1 it is the closer one.
    theirs: a drift of the same samples in the same order.
    metric: "rmse", "ssim" (compared as 1 - SSIM), "effnet" or "latent_rmse".
    statistic: of both: "median", "mean" or "p95".
    seed: of the bootstrap.
    Raises HastenError for "psnr", a logarithm whose ratio means nothing, and for drifts that are not paired.
    """
    if metric == "psnr":
        raise HastenError("metric: a ratio of 'psnr' (decibels) means nothing; use 'rmse', which orders alike")
    a, b = ours._metric(metric), theirs._metric(metric)
    if ours.n != theirs.n:
        raise HastenError(f"drifts of {ours.n} and {theirs.n} samples are not paired; measure both on the same ones")
    if metric == "ssim":
        a, b = 1 - a, 1 - b
    return bootstrap_ratio(a, b, statistic, seed=seed).named(f"relative {metric} {statistic}", "x")


def _flips(ours: Tensor, theirs: Tensor, rivals: Tensor | None) -> NDArray[np.bool_]:
    """Per sample: is a reference other than its own nearer? Empty without any other reference."""
    table = distances(ours, theirs if rivals is None else torch.cat([theirs, rivals]))
    if table.shape[1] == 1:
        return np.zeros(0, dtype=np.bool_)
    return (table.amin(1) < table.diagonal() * (1 - TIE)).cpu().numpy()


def _perceive(result: Tensor, reference: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Perceptual distances (N,) and both sets of signatures (N, D), each image passing the network once."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.no_grad():
        for x, y in zip(result.split(batch), reference.split(batch), strict=True):
            a, b = embed(x)[1], embed(y)[1]
            parts.append((activation_distance(a, b), signature(a), signature(b)))
    gap, ours, theirs = (torch.cat(part) for part in zip(*parts, strict=True))
    return gap, ours, theirs


def _check_pair(a: Tensor, b: Tensor, names: tuple[str, str] = ("result", "reference")) -> None:
    if a.shape != b.shape or a.ndim < 2 or not a.numel():
        raise HastenError(
            f"{names[0]} and {names[1]} must be equal (N, ...), got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    for name, x in zip(names, (a, b), strict=True):
        broken = int((~x.detach().flatten(1).isfinite().all(1)).sum())
        if broken:
            raise HastenError(f"{name}: {broken} of {len(x)} samples are not finite (the run diverged)")
