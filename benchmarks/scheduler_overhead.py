"""What a step of SolverScheduler costs, as a ratio to the diffusers scheduler of the same method.

    python benchmarks/scheduler_overhead.py [--out benchmarks/results/scheduler_overhead.json]

No model: the network's answers are drawn beforehand. The two schedulers take turns, run by run, in one process
on one thread, timed in CPU seconds (other processes on the machine then do not count). The ratio is that of a
pair of neighbouring runs; its median is reported with a bootstrap interval. "step" times the calls of `step`, the
coefficients of the run among them, "run" `set_timesteps` as well, and "fresh run" is a run whose times were never
seen before, so that nothing can be re-used.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from report import save
from rich.progress import track

from hasten.bridge import SolverScheduler

SHAPE = (4, 4, 64, 64)
LIMITS = {"dpm++ 2M": 0.4, "unipc": 0.25}


def pairs() -> dict[str, tuple[Any, Any]]:
    config = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True
    ).config
    return {
        "dpm++ 2M": (
            SolverScheduler.from_config(config, solver="dpm++"),
            diffusers.DPMSolverMultistepScheduler.from_config(config),
        ),
        "unipc": (
            SolverScheduler.from_config(config, solver="unipc"),
            diffusers.UniPCMultistepScheduler.from_config(config),
        ),
    }


def timed_run(scheduler: Any, steps: int, outputs: list[torch.Tensor], start: torch.Tensor) -> tuple[float, float]:
    """Seconds a step: of the calls of `step` alone, and with set_timesteps."""
    began = time.thread_time()
    scheduler.set_timesteps(steps)
    laid_out = time.thread_time()
    x = start
    for output, timestep in zip(outputs, scheduler.timesteps):
        x = scheduler.step(output, timestep, x, return_dict=False)[0]
    done = time.thread_time()
    return (done - laid_out) / steps, (done - began) / steps


def ratio(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    ratios = ours / theirs
    draws = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {
        "ours_us": round(float(np.median(ours)) * 1e6, 1),
        "diffusers_us": round(float(np.median(theirs)) * 1e6, 1),
        "ratio": round(float(np.median(ratios)), 4),
        "interval95": [round(float(low), 4), round(float(high), 4)],
        "runs": len(ratios),
    }


def measure(ours: Any, theirs: Any, rounds: int, steps: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(SHAPE, generator=generator)
    outputs = [torch.randn(SHAPE, generator=generator) for _ in range(steps + rounds)]
    for _ in range(5):
        timed_run(ours, steps, outputs, start), timed_run(theirs, steps, outputs, start)
    same = np.array(
        [[timed_run(s, steps, outputs, start) for s in (ours, theirs)] for _ in track(range(rounds), "same times")]
    )
    fresh = np.array(
        [
            [timed_run(s, steps + 1 + n, outputs, start) for s in (ours, theirs)]
            for n in track(range(min(rounds, 40)), "fresh times")
        ]
    )
    return {
        "step": ratio(same[:, 0, 0], same[:, 1, 0]),
        "run": ratio(same[:, 0, 1], same[:, 1, 1]),
        "fresh run": ratio(fresh[:, 0, 1], fresh[:, 1, 1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scheduler_overhead.json"))
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: measure(*pair, arguments.rounds, arguments.steps) for name, pair in pairs().items()}
    report = {
        "what": "microseconds a step without a model, ours / diffusers",
        "latent": list(SHAPE),
        "steps": arguments.steps,
        "limits": LIMITS,
        "threads": 1,
        "methods": found,
    }
    save(report, arguments.out)
    for name, kinds in found.items():
        for kind, figures in kinds.items():
            print(f"{name:10s} {kind:10s} {figures['ours_us']:8.1f} us  {figures['diffusers_us']:8.1f} us  "
                  f"ratio {figures['ratio']:.3f} {figures['interval95']} (limit {LIMITS[name]})")  # fmt: skip


if __name__ == "__main__":
    main()
