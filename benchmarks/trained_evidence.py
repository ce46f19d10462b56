"""What the papers claim of methods that need a trained model, on models trained here in a minute or two each.

    python benchmarks/trained_evidence.py [--only steps pfgm restoration boundary] [--quick]

steps: One More Step on pictures of black and of white ground. pfgm: PFGM++ against diffusion under injected noise
and rounded weights. restoration: the MR sampler against the posterior step. boundary: one start for all pictures of
a super-resolution model. All on scikit-learn's digits, one thread; results are merged into
benchmarks/results/trained_evidence.json. Every number says over how many pictures.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import save
from scipy import stats
from tiny_models import Net, fitted
from torch import Tensor
from torch.nn import functional as F

from hasten import sample
from hasten.denoisers import AroundMean, Denoiser
from hasten.grids import schedule
from hasten.measure import bootstrap, frechet_distance
from hasten.predictions import Prediction
from hasten.processes import MeanReverting, PFGMPlusPlus, VariancePreserving
from hasten.solvers import DDIM, SOLVERS, DPMSolverPP, Heun
from hasten.starts import OneMoreStep, OptimalBoundary, one_more_step
from hasten.starts.boundary import scores
from hasten.zoo_training.digits import data

VP = VariancePreserving()
RESULTS = Path(__file__).parent / "results" / "trained_evidence.json"


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noised(clean: Tensor, process: Any, low: float, high: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """At random times of a process: the states, their noise, what the network is shown, and sigma over alpha."""
    t = np.random.default_rng(int(torch.randint(2**31, ()))).uniform(low, high, len(clean))
    alpha, sigma, shown = (
        torch.as_tensor(f(t)).float().reshape(-1, 1, 1, 1) for f in (process.alpha, process.sigma, process.network_time)
    )
    noise = torch.randn_like(clean)
    return alpha * clean + sigma * noise, noise, shown.flatten(), sigma / alpha


# --- One More Step


def grounds(count: int, label: int, seed: int, size: int = 24) -> Tensor:
    """Pictures in [-1, 1] of a small digit somewhere on a black (label 0) or white (label 1) ground."""
    generator = torch.Generator().manual_seed(seed)
    digits = data()[0]
    pictures = -torch.ones(count, 1, size, size)
    for picture in pictures:
        top, left = torch.randint(size - 7, (2,), generator=generator).tolist()
        picture[:, top : top + 8, left : left + 8] = digits[torch.randint(len(digits), (), generator=generator)]
    return pictures if label == 0 else -pictures


def steps(scale: float) -> dict[str, Any]:
    """Distance of the brightness of drawn pictures from that of the data, with and without the step."""
    pools = [grounds(2000, label, seed=label) for label in (0, 1)]

    def loss(network: Any) -> Tensor:
        label = torch.randint(2, (32,))
        clean = torch.stack([pools[int(k)][int(torch.randint(2000, ()))] for k in label])
        x, noise, shown, _ = noised(clean, VP, 1.0, VP.t_max)
        return F.mse_loss(network(x, shown / 1000, label), noise)

    def step_loss(network: Any) -> Tensor:
        label = torch.randint(2, (32,))
        clean = torch.stack([pools[int(k)][int(torch.randint(2000, ()))] for k in label])
        return F.mse_loss(network(torch.randn_like(clean), torch.zeros(32), label), -clean)  # v where alpha is 0

    network = fitted(Net(width=16, levels=3, classes=2), loss, int(1000 * scale))
    module = fitted(Net(width=8, levels=2, classes=2), step_loss, int(300 * scale))
    found: dict[str, Any] = {
        "alpha at the start": float(VP.alpha(VP.t_max)),
        "pictures": 128,
        "solver": "dpm++",
        "steps": 20,
    }
    for label, name in enumerate(("black", "white")):
        every = torch.full((128,), label)
        denoiser = Denoiser(lambda x, n, every=every: network(x, n / 1000, every), VP)
        fit, noise, real = OneMoreStep(rank=64).fit(pools[label][:1000]), draw(128, 1, 24, 24, seed=5), pools[label]
        starts = {
            "plain": noise,
            "mean": fit(VP, noise)[0],
            "trained": one_more_step(VP, -module(noise, torch.zeros(128), every), noise, VP.t_max),
            "mean and spread": OneMoreStep(fit.mean, fit.basis, fit.variances, spread=True)(VP, noise)[0],
        }
        drawn = {how: sample(denoiser, x.float(), steps=20, grid="trailing").clamp(-1, 1) for how, x in starts.items()}
        fine = {how: x - F.avg_pool2d(x, 9, 1, 4, count_include_pad=False) for how, x in drawn.items()}
        for how, x in drawn.items():
            far = stats.wasserstein_distance(x.mean((1, 2, 3)).numpy(), real.mean((1, 2, 3)).numpy())
            like = torch.corrcoef(torch.stack([fine[how].flatten(), fine["plain"].flatten()]))[0, 1]
            found[f"{name}, {how}"] = {
                "brightness": x.mean().item(), "of the data": real.mean().item(), "distance": far,
                "likeness of fine detail to plain": like.item(),
            }  # fmt: skip
            print(name, how, found[f"{name}, {how}"], flush=True)
    return found


# --- PFGM++


def pfgm(scale: float) -> dict[str, Any]:
    """Frechet distance of pixels from the data, clean, with noise in every step, and with weights of few bits."""
    digits, deviation = data()[0], 0.5
    found: dict[str, Any] = {"pictures": 1500, "solver": "heun", "steps": 18, "deviation of the data": deviation}
    for extra in (8.0, 128.0, math.inf):
        process = PFGMPlusPlus(extra=extra)

        def answer(network: Any, x: Tensor, sigma: Tensor, shown: Tensor) -> Tensor:
            whole = (sigma**2 + deviation**2).sqrt()
            said = network(x / whole, shown)
            return x * (deviation / whole) ** 2 + said * sigma * deviation / whole

        def loss(network: Any, process: Any = process, answer: Any = answer) -> Tensor:
            clean = digits[torch.randint(len(digits), (64,))]
            sigma = torch.exp(1.2 * torch.randn(64, 1, 1, 1) - 1.2)
            heavy = process.noise(clean.shape, np.random.default_rng(int(torch.randint(2**31, ()))))
            x = clean + sigma * torch.as_tensor(heavy).float()
            weight = (sigma**2 + deviation**2) / (sigma * deviation) ** 2
            return (weight * (answer(network, x, sigma, sigma.log().flatten() / 4) - clean).square()).mean()

        network = fitted(Net(width=24), loss, int(1000 * scale))
        start = process.start_scale * torch.as_tensor(process.noise((1500, 1, 8, 8), np.random.default_rng(0))).float()
        for bits in (32, 5, 4, 3):
            rounded = rounding(network, bits)
            for jitter in (0.0, 0.1, 0.2) if bits == 32 else (0.0,):
                ends = sample(Jittered(rounded, answer, process, jitter), start, Heun(), 18, "karras")
                distance = frechet_distance(ends.flatten(1), digits[:1500].flatten(1))
                found[f"D {extra:g}, {bits} bits, noise {jitter:g}"] = distance.to_json()
                print(extra, bits, jitter, distance, flush=True)
    return found


class Jittered:
    """The denoiser of a network that answers about x + jitter sigma z instead of x."""

    def __init__(self, network: Any, answer: Any, process: Any, jitter: float) -> None:
        self.network, self.answer, self.process, self.jitter = network, answer, process, jitter
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, x: Tensor, t: Any) -> Prediction:
        sigma = torch.full((len(x), 1, 1, 1), float(t))
        moved = x + self.jitter * sigma * torch.randn(x.shape, generator=self.generator)
        clean = self.answer(self.network, moved, sigma, torch.full((len(x),), math.log(t) / 4))
        return Prediction(moved, 1.0, float(t), clean, "sample")


def rounding(network: Any, bits: int) -> Any:
    """The network with every weight tensor at 2^bits levels between its smallest and largest."""
    if bits == 32:
        return network
    rounded = copy.deepcopy(network)
    for weight in rounded.parameters():
        low, step = weight.min(), (weight.max() - weight.min()) / (2**bits - 1)
        weight.copy_(low + step * ((weight - low) / step.clamp(min=1e-12)).round())
    return rounded


# --- mean-reverting restoration


def degraded(clean: Tensor, seed: int) -> Tensor:
    """Blurred, and with noise."""
    blurred = F.avg_pool2d(F.pad(clean, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return (blurred + 0.1 * draw(*clean.shape, seed=seed)).clamp(0, 1)


def restoration(scale: float) -> dict[str, Any]:
    """PSNR of restored digits, and the Frechet distance of pixels, by solver and steps."""
    process, digits = MeanReverting(), (data()[0] + 1) / 2
    seen, unseen = digits[:1400], digits[1400:]

    def loss(network: Any) -> Tensor:
        clean = seen[torch.randint(len(seen), (64,))]
        mean = degraded(clean, int(torch.randint(2**31, ())))
        x, noise, shown, _ = noised(clean - mean, process, process.t_min, process.t_max)
        return F.mse_loss(network(torch.cat([x + mean, mean], 1), shown / 100), noise)

    network = fitted(Net(into=2, width=24), loss, int(1500 * scale))
    mean = degraded(unseen, 1)
    denoiser = AroundMean(lambda x, mu, n: network(torch.cat([x, mu], 1), n / 100), mean, process)
    noise = process.start_scale * draw(*unseen.shape, seed=2)
    found: dict[str, Any] = {"pictures": len(unseen), "grid": "trailing"}

    def judged(pictures: Tensor) -> dict[str, Any]:
        psnr = -10 * torch.log10((pictures - unseen).square().mean((1, 2, 3)))
        return {
            "psnr": bootstrap(psnr.numpy(), "mean").to_json(),
            "frechet": frechet_distance(pictures.flatten(1), unseen.flatten(1)).to_json(),
        }

    found["degraded"] = judged(mean)
    runs = [(name, n) for name in ("mr-sampler", "mr-sampler-noise", "mr-sampler-sde") for n in (5, 10, 20)]
    for name, count in [*runs, *(("posterior", n) for n in (5, 10, 20, 100)), ("mr-sampler", 100)]:
        solver = DDIM(eta=1.0) if name == "posterior" else SOLVERS.build(name)
        pictures = (mean + sample(denoiser, noise, solver, count, "trailing")).clamp(0, 1)
        found[f"{name}, {count}"] = row = judged(pictures)
        print(name, count, f"{row['psnr']['value']:.2f} dB, {row['frechet']['value']:.3f}", flush=True)
    return found


# --- optimal boundary conditions


def boundary(scale: float) -> dict[str, Any]:
    """Perceptual distance of digits enlarged from 4 x 4, from the chosen start and from others."""
    digits, labels = data()
    seen, held_out = torch.arange(1200), torch.arange(1400, 1797)
    small = lambda x: F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0)  # noqa: E731

    def loss(network: Any) -> Tensor:
        clean = digits[seen[torch.randint(len(seen), (64,))]]
        x, noise, shown, _ = noised(clean, VP, 1.0, VP.t_max)
        return F.mse_loss(network(torch.cat([x, small(clean)], 1), shown / 1000), noise)

    network = fitted(Net(into=2, width=24), loss, int(1500 * scale))
    judge = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 32, 3, 2, 1), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(512, 10),
    )  # fmt: skip

    def classify(net: Any) -> Tensor:
        rows = torch.randint(1200, (64,))
        return F.cross_entropy(net(digits[rows]), labels[rows])

    judge = fitted(judge, classify, int(400 * scale) + 50)
    features = lambda x: F.normalize(judge[:4](x), dim=1)  # noqa: E731  # as a learnt perceptual distance does it
    distance = lambda a, b: (features(a) - features(b)).square().sum(1).mean((1, 2))  # noqa: E731

    def solving(count: int) -> Any:
        def solve(noise: Tensor, inputs: Tensor) -> Tensor:
            denoiser = Denoiser(lambda x, n: network(torch.cat([x, inputs], 1), n / 1000), VP)
            return sample(denoiser, noise, DPMSolverPP(), count, schedule("trailing", VP, count)).clamp(-1, 1)

        return solve

    candidates, solve = draw(64, 1, 8, 8, seed=3), solving(10)
    first, second = digits[1200:1232], digits[1232:1264]
    one, other = (scores(solve, candidates, small(x), x, distance) for x in (first, second))
    chosen = OptimalBoundary().fit(solve, candidates, small(first), first, distance)
    truths = digits[held_out]
    start = chosen(VP, torch.zeros_like(truths))[0]
    ours = distance(solve(start, small(truths)), truths)
    twice = float((solve(start, small(truths)) - solve(start, small(truths))).abs().max())
    random = torch.stack([distance(solve(c.expand_as(truths), small(truths)), truths) for c in candidates[:32]])
    slow = torch.stack([distance(solving(20)(c.expand_as(truths), small(truths)), truths) for c in candidates[:8]])
    found = {
        "pictures": len(truths), "candidates": 64, "references": 32, "steps": 10,
        "chosen": bootstrap(ours.numpy(), "mean").to_json(),
        "random": bootstrap(random.mean(0).numpy(), "mean").to_json(),
        "random at 20 steps": bootstrap(slow.mean(0).numpy(), "mean").to_json(),
        "best of 32 on these very pictures": float(random.mean(1).min()),
        "p of a paired test": float(stats.ttest_rel(ours.numpy(), random.mean(0).numpy(), alternative="less").pvalue),
        "rank correlation of two reference sets": float(stats.spearmanr(one, other)[0]),
        "difference of two calls": twice,
    }  # fmt: skip
    print(json.dumps(found, indent=1), flush=True)
    return found


SECTIONS = {"steps": steps, "pfgm": pfgm, "restoration": restoration, "boundary": boundary}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="a tenth of the training, nothing written")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.only:
        print(name, flush=True)
        found = SECTIONS[name](0.1 if given.quick else 1.0)
        if not given.quick:
            before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            save({**before, name: found}, RESULTS)


if __name__ == "__main__":
    main()
