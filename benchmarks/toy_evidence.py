"""What the papers claim that takes many runs of small problems: consistent training, S3's search, lazy calls.

    python benchmarks/toy_evidence.py [--only gap search unmasking]

gap: a score network trained to obey the Fokker-Planck equation more and less: how far its ODE's samples are from its
SDE's and from the data. search: S3's predictor against blind evolution and random lists, at equal numbers of runs.
unmasking: the time that asking only when needed saves. Merged into benchmarks/results/toy_evidence.json.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import sections
from scipy.optimize import linear_sum_assignment
from tiny_models import fitted
from torch import Tensor, nn

from hasten import sample
from hasten.denoisers import GaussianMixture
from hasten.discrete import TauLeaping, expected_calls, generate
from hasten.discrete.text import MASK, Letters
from hasten.fit import Aim, integrate, solve
from hasten.fit.usf import breed, known, predicted
from hasten.fit.usf import search as evolve
from hasten.grids import schedule
from hasten.measure import bootstrap, fokker_planck_residual
from hasten.predictions import Prediction
from hasten.processes import VarianceExploding, VariancePreserving
from hasten.solvers import DDIM, USF
from hasten.solvers.usf import EXPANDED, uniform

RESULTS = Path(__file__).parent / "results" / "toy_evidence.json"

# --- the gap between ODE and SDE


class Potential(nn.Module):
    """A log density (rows, 2), u (rows,) -> (rows,) of noised points, u the log of the noise level."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(3, 80), nn.Softplus(5)]
        for _ in range(2):
            layers += [nn.Linear(80, 80), nn.Softplus(5)]
        self.layers = nn.Sequential(*layers, nn.Linear(80, 1))

    def forward(self, y: Tensor, u: Tensor) -> Tensor:
        y = y / (1 + u.exp().square()).sqrt()[:, None]
        return self.layers(torch.cat([y, u[:, None]], 1))[:, 0] - y.square().sum(1) / 2

    def score(self, y: Tensor, u: Tensor) -> Tensor:
        y = y if y.requires_grad else y.detach().requires_grad_()
        return torch.autograd.grad(self(y, u).sum(), y, create_graph=True)[0]


class Learnt:
    """A potential as a denoiser."""

    def __init__(self, potential: Any, process: Any) -> None:
        self.potential, self.process = potential, process

    def __call__(self, x: Tensor, t: Any) -> Prediction:
        with torch.enable_grad():
            u = torch.full((len(x),), float(np.log(t)))
            return Prediction(x, 1.0, float(t), torch.func.grad(lambda y: self.potential(y, u).sum())(x), "score")


def checker(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Points of the black squares of a board of 4 x 4, from -2 to 2."""
    cell = torch.randint(8, (count,), generator=generator)
    row, column = cell // 2, 2 * (cell % 2) + (cell // 2) % 2
    return torch.stack([column, row], 1) - 2 + torch.rand(count, 2, generator=generator)


def wasserstein(a: Tensor, b: Tensor) -> float:
    costs = torch.cdist(a.double(), b.double()).square().numpy()
    return float(np.sqrt(costs[linear_sum_assignment(costs)].mean()))


def gap() -> dict[str, Any]:
    process, low, high = VarianceExploding(0.05, 6.0), np.log(0.05), np.log(6.0)
    generator = torch.Generator().manual_seed(9)
    sets = [checker(1000, generator) for _ in range(2)]
    found: dict[str, Any] = {"points": 1000, "W2 of two sets of data": wasserstein(*sets), "steps": 100}
    for weight in (0.0, 0.1, 1.0, 10.0):

        def loss(potential: Any, weight: float = weight) -> Tensor:
            u = torch.rand(512) * (high - low) + low
            r, z = u.exp()[:, None], torch.randn(512, 2)
            y = (checker(512) + r * z).requires_grad_()
            score = potential.score(y, u)
            plain = (r * score + z).square().sum(1).mean()
            if not weight:
                return plain
            u = u.clone().requires_grad_()
            value = potential(y, u)
            slope, rise = torch.autograd.grad(value.sum(), (y, u), create_graph=True)
            second = sum(torch.autograd.grad(slope[:, k].sum(), y, create_graph=True)[0][:, k] for k in range(2))
            return plain + weight * (rise - r[:, 0] ** 2 * (second + slope.square().sum(1))).square().mean()

        denoiser = Learnt(fitted(Potential(), loss, 1500, 3e-3), process)
        start, grid = 6.0 * torch.randn(1000, 2, generator=generator), np.geomspace(6.0, 0.05, 101)
        ends = [sample(denoiser, start, DDIM(eta=eta), grid=grid) for eta in (0.0, 1.0)]
        x = checker(300, generator) + 0.5 * torch.randn(300, 2, generator=generator)
        found[f"weight {weight:g}"] = row = {
            "W2 of ODE and SDE": wasserstein(*ends), "W2 of ODE and data": wasserstein(ends[0], sets[0]),
            "W2 of SDE and data": wasserstein(ends[1], sets[0]),
            "residual at 0.5": fokker_planck_residual(denoiser, x, 0.5).value,
        }  # fmt: skip
        print(weight, row, flush=True)
    return found


# --- the search for decisions


def search() -> dict[str, Any]:
    process, steps = VariancePreserving(), 6
    rng = np.random.default_rng(0)
    denoiser = GaussianMixture(rng.normal(size=(5, 8)), rng.uniform(0.2, 0.3, 5), None, process)
    times, fine = schedule("logsnr", process, steps), schedule("karras", process, 24)
    draw = lambda rows, seed: torch.randn(rows, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))  # noqa: E731
    exact = lambda x: integrate(denoiser, x, fine, substeps=1)[-1]  # noqa: E731
    aim, held_out = Aim.of(exact, draw(32, 1)), draw(600, 5)
    truth = exact(held_out)
    run = lambda decisions: lambda x: solve(USF(decisions), denoiser, times, x)  # noqa: E731
    allowed = aim.judge(run(uniform(steps)))[1]
    loss = lambda decisions: aim.loss(run(decisions), allowed)  # noqa: E731

    def judged(decisions: Any) -> tuple[float, float]:
        off = (run(decisions)(held_out) - truth).square().mean(1).sqrt()
        return loss(decisions), float(off.log().mean().exp())

    found: dict[str, Any] = {"lists run": 120, "best hand-made": min(judged(d)[1] for d in known(steps))}
    ways: dict[str, list[tuple[float, float]]] = {"predictor": [], "evolution": [], "random": []}
    for seed in range(6):
        blind = np.random.default_rng(100 + seed)
        guesses = {
            "predictor": lambda scores, fresh: predicted(scores, fresh, process, times),
            "evolution": lambda scores, fresh, blind=blind: blind.random(len(fresh)),
        }
        for way, guess in guesses.items():
            ways[way].append(judged(evolve(known(steps), loss, guess, EXPANDED, 120, 4, seed)))
        lists = {breed(known(steps), blind, 1.0): None for _ in range(120)}
        ways["random"].append(judged(min([*known(steps), *lists], key=loss)))
        print(seed, {way: round(of[-1][1], 4) for way, of in ways.items()}, flush=True)
    for way, of in ways.items():
        on_search, on_new = np.array(of).T
        found[way] = {
            "loss of the search": bootstrap(on_search, "mean").to_json(),
            "geometric mean of the error on 600 new noises": bootstrap(on_new, "mean").to_json(),
        }
    return found


# --- calls only when something is revealed


def unmasking() -> dict[str, Any]:
    length, steps = 64, 256
    network, start = Letters(), torch.full((1, length), MASK)

    def seconds(lazy: bool, seed: int) -> float:
        began = time.thread_time()
        generate(network, start, MASK, TauLeaping(steps), seed=seed, lazy=lazy)
        return time.thread_time() - began

    seconds(True, 0), seconds(False, 0)
    pairs = np.array([[seconds(False, seed), seconds(True, seed)] for seed in range(12)])
    expected = expected_calls(length, np.linspace(1, 0, steps + 1))
    return {
        "length": length, "steps": steps, "fewer calls": steps / expected,
        "faster": bootstrap(pairs[:, 0] / pairs[:, 1], "median").to_json(),
    }  # fmt: skip


SECTIONS = {"gap": gap, "search": search, "unmasking": unmasking}


if __name__ == "__main__":
    torch.set_num_threads(1)
    sections(__doc__, SECTIONS, RESULTS)
