"""What a report says about how it was made: the model, the samples, the machine, and what to know."""

from __future__ import annotations

import copy
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hasten
from hasten.evaluate.problem import Pictures, Problem
from hasten.evaluate.references import TOLERANCE, References
from hasten.processes import from_config
from hasten.runtime.anatomy import network_of

UNEVEN = 8  # times the median, above which the 95th percentile of the default's drift is worth a note
EARLY = 0.5  # by how many network times the default may start below the highest one without a note


def gather(problem: Problem, references: References, seed: int, command: str) -> dict[str, Any]:
    """Plain JSON values: model, default, reference, samples, notes, command, versions.

    problem: that was measured.
    references: of the problem, drawn.
    seed: of the samples and the search.
    command: what was typed.
    """
    pipe, settled = problem.pipe, references.convergence
    return {
        "model": problem.name,
        "source": problem.source,
        "pipeline": type(pipe).__name__,
        "network": type(network_of(pipe)).__name__,
        "default": {
            "scheduler": type(pipe.scheduler).__name__,
            "steps": problem.steps,
            "guidance": problem.guidance,
            "call": {name: str(value) for name, value in problem.call.items()},
        },
        "reference": {
            "solver": "UniPC of order 2 with its corrector",
            "steps": [min(settled.steps), max(settled.steps)],
            "change": sorted(settled.changes)[len(settled.changes) // 2],
            "largest_change": max(settled.changes),
            "unsettled": settled.unsettled,
            "tolerance": TOLERANCE,
        },
        "samples": {
            split: {
                "count": len(samples),
                "prompts": len(set(samples.prompts)),
                "seeds": [samples.seeds[0], samples.seeds[-1]],
            }
            for split, samples in problem.samples.items()
        },
        "batch": problem.batch,
        "seed": seed,
        "notes": notes(problem, references),
        "command": command,
        "environment": environment(pipe),
    }


def notes(problem: Problem, references: References) -> list[str]:
    """What a reader should know before trusting the numbers, one sentence or two each."""
    told = []
    settled = references.convergence
    if settled.unsettled:
        told.append(
            f"{settled.unsettled} of {len(settled.steps)} references have not converged: the last doubling, to "
            f"{max(settled.steps)} steps, changed them by up to {max(settled.changes):.2g} RMSE (aim: {TOLERANCE:g})."
        )
    if "confirm" in problem.samples:
        drifts = _distances(references.default("confirm"), references.reference("confirm"))
        median, worst = (float(drifts.quantile(q)) for q in (0.5, 0.95))
        if worst > UNEVEN * median:
            told.append(
                f"The default drifts unevenly: latent RMSE {median:.3f} in the median, {worst:.2f} for the worst 5 %, "
                "which land on other images. A ratio of medians says little alone; look at the p95 column as well."
            )
    first, highest = start_times(problem)
    if first is not None and first < highest - EARLY:
        told.append(
            f"The default starts at time {first:g} of {highest:g}, as its scheduler is configured; the reference and "
            "the recipes start at the end. That is a part of the default's drift."
        )
    return told


def _distances(a: Pictures, b: Pictures) -> Tensor:
    return (a.latents - b.latents).flatten(1).square().mean(1).sqrt()


def start_times(problem: Problem) -> tuple[float | None, float]:
    """The first time that the default shows the network (None if only a run tells it), and the highest there is."""
    scheduler = copy.deepcopy(problem.pipe.scheduler)
    process = from_config(scheduler.config)
    highest = float(process.network_time(process.t_max))
    try:
        scheduler.set_timesteps(problem.steps)
        return float(scheduler.timesteps[0]), highest
    except (TypeError, ValueError):  # one that wants more, such as a shift for the picture size
        return None, highest


def environment(pipe: Any) -> dict[str, str]:
    """Versions of the libraries, and the machine."""
    import diffusers

    device = next(network_of(pipe).parameters()).device
    return {
        "hasten": hasten.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": str(torch.get_num_threads()),
        "dtype": str(next(network_of(pipe).parameters()).dtype).removeprefix("torch."),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"
