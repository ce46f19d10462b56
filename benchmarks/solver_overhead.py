"""What a step of each solver costs without the network, as a ratio to a DPM-Solver++ 2M step written out by hand.

    python benchmarks/solver_overhead.py [--out benchmarks/results/solver_overhead.json]

The network's answers are drawn beforehand. Every solver's run takes turns with the hand-written one in one process on
one thread, in CPU seconds; the ratio is that of neighbouring runs, its median with a bootstrap interval. Peers run on
the same answers: diffusers' schedulers and k-diffusion, each with its own loop. Coefficients are part of the cost.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from report import save
from rich.progress import track
from torch import Tensor

from hasten import sample, solvers
from hasten.core.errors import HastenError
from hasten.grids import schedule
from hasten.measure import bootstrap
from hasten.predictions import Prediction
from hasten.processes import VariancePreserving

SHAPE, STEPS = (4, 4, 64, 64), 20
LIMIT = 1.5  # of one-query solvers
PROCESS = VariancePreserving()
SHOWN = (
    "ddim karras",
    "dpm++ 2M karras",
    "dpm++ 3M karras",
    "unipc 2 bh2 karras",
    "deis karras",
    "lms karras",
    "dpmpp_2m karras",
)


class Replay:
    """Answers with noise drawn beforehand, at no cost but that of finding alpha and sigma."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.process, self.calls = PROCESS, 0
        self.outputs = [torch.randn(SHAPE, generator=generator) for _ in range(8)]
        self.known: dict[float, tuple[float, float]] = {}

    def __call__(self, x: Tensor, t: Any) -> Prediction:
        self.calls += 1
        if t not in self.known:
            self.known[t] = float(PROCESS.alpha(t)), float(PROCESS.sigma(t))
        return Prediction(x, *self.known[t], self.outputs[self.calls % 8])


def by_hand(denoiser: Replay, x: Tensor, times: Any) -> Tensor:
    """DPM-Solver++ 2M as one would write it down: coefficients as numbers, one line an equation."""
    alpha, sigma = PROCESS.alpha(times), PROCESS.sigma(times)
    lam = np.log(alpha[:-1] / sigma[:-1])
    before = None
    for i, t in enumerate(times[:-1]):
        noise = denoiser(x, float(t)).output
        data = (x - float(sigma[i]) * noise) / float(alpha[i])
        if i + 2 == len(times):
            return data
        h = float(lam[i + 1] - lam[i])
        mixed = data
        if before is not None:
            r = float(lam[i] - lam[i - 1]) / h
            mixed = (1 + 1 / (2 * r)) * data - 1 / (2 * r) * before
        x = float(sigma[i + 1] / sigma[i]) * x - float(alpha[i + 1]) * math.expm1(-h) * mixed
        before = data
    return x


def fitted() -> list[tuple[str, solvers.Solver]]:
    """Solvers as they are after a fit, with made-up results of it: what they cost does not depend on those."""
    tables = 0.5 + 0.1 * torch.rand(3, 50, *SHAPE[1:], generator=torch.Generator().manual_seed(2))
    span = float(PROCESS.lam(PROCESS.t_max)), float(PROCESS.lam(PROCESS.t_min))
    return [
        ("dc-solver fitted", solvers.DCSolver(ratios=(1.0, 1.0, *[1.1] * (STEPS - 2)))),
        ("dpm-v3 fitted", solvers.DPMSolverV3(statistics=tables, span=span)),
        ("dpm-v3 fitted, one number a level", solvers.DPMSolverV3(statistics=tables.mean((2, 3, 4)), span=span)),
    ]


def seconds(run: Callable[[], Any]) -> float:
    began = time.thread_time()
    run()
    return time.thread_time() - began


def ratio(run: Callable[[], Any], base: Callable[[], Any], denoiser: Replay, rounds: int) -> dict[str, Any]:
    """The run's cost a network call over the hand-written run's."""
    denoiser.calls = 0
    run()
    calls = denoiser.calls
    for _ in range(3):
        run(), base()
    pairs = np.array([[seconds(run) / calls, seconds(base) / STEPS] for _ in range(rounds)])
    return bootstrap(pairs[:, 0] / pairs[:, 1], "median").to_json() | {
        "microseconds": float(np.median(pairs[:, 0])) * 1e6
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "solver_overhead.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    denoiser, start = Replay(), torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    times = schedule("logsnr", PROCESS, STEPS)
    runs: dict[str, Callable[[], Any]] = {}
    for name, solver in [*((cls.name, cls()) for cls in solvers.all()), *fitted()]:
        if not solver.adaptive:
            runs[f"hasten {name}"] = lambda solver=solver: sample(denoiser, start, solver, STEPS, "logsnr")
    for name, peer in peers.available(PROCESS)[0].items():
        if name.split(" ", 1)[1] in SHOWN:
            runs[name] = lambda peer=peer: peer(denoiser, start, STEPS)
    found: dict[str, Any] = {}
    for name, run in track(runs.items(), "overhead"):
        try:
            found[name] = ratio(run, lambda: by_hand(denoiser, start, times), denoiser, given.rounds)
        except HastenError as error:
            found[name] = {"refused": str(error)}
            continue
        print(f"{name:36s} {found[name]['value']:6.2f} [{found[name]['low']:.2f}, {found[name]['high']:.2f}]")
    report = {
        "what": "CPU time a network call without the network, over a hand-written DPM-Solver++ 2M step",
        "latent": list(SHAPE), "steps": STEPS, "limit": LIMIT, "threads": 1, "methods": found,
    }  # fmt: skip
    save(report, given.out)


if __name__ == "__main__":
    main()
