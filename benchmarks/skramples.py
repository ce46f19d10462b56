"""Solvers of skrample (Python 3.12 or newer), for `benchmarks/peers.py`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from hasten.denoisers import DenoiserLike
from hasten.processes import Process


def peers(process: Process, flow: bool) -> dict[str, Callable[[DenoiserLike, Tensor, int], Tensor]]:
    """Every deterministic sampler with every schedule. Raises ImportError where skrample is not installed."""
    from skrample.sampling.functional import RKUltra
    from skrample.sampling.interface import StructuredFunctionalAdapter
    from skrample.sampling.structured import DPM, SPC, Adams, Euler, UniP, UniPC

    stepping = {
        "euler": Euler(), "dpm 2": DPM(order=2), "dpm 3": DPM(order=3), "adams 2": Adams(order=2),
        "adams 4": Adams(order=4), "unip 3": UniP(order=3), "unipc 2": UniPC(order=2), "unipc 3": UniPC(order=3),
        "unipc 2 fast": UniPC(order=2, fast_solve=True), "spc": SPC(), "spc dpm": SPC(predictor=DPM(order=2)),
    }  # fmt: skip
    samplers = {name: StructuredFunctionalAdapter(sampler) for name, sampler in stepping.items()}
    samplers |= {f"rk {order}": RKUltra(order=order) for order in (2, 3, 4)}
    return {
        f"skrample {name} {placed}": _run(sampler, spaced, process, flow)
        for name, sampler in samplers.items()
        for placed, spaced in _spacings(flow).items()
    }


def _spacings(flow: bool) -> dict[str, Callable[[int], Any]]:
    """Schedules for a number of steps: some take their smallest level from it."""
    from skrample import scheduling as s

    base = s.Linear() if flow else s.Scaled()
    spaced = {"uniform": lambda n: base, "beta": lambda n: s.Beta(base), "probit": lambda n: s.Probit(base)}
    spaced |= {f"shift {shift}": lambda n, k=shift: s.FlowShift(base, shift=k) for shift in (0.6, 1.6, 3.0)}
    if not flow:
        spaced |= {
            "karras": lambda n: s.Karras(base), "karras of the steps": lambda n: s.Karras(base, steps=n),
            "exponential": lambda n: s.Exponential(base),
            "exponential of the steps": lambda n: s.Exponential(base, steps=n),
        }  # fmt: skip
    return spaced


def _run(sampler: Any, spaced: Callable[[int], Any], process: Process, flow: bool) -> Any:
    """skrample's loop. Its continuous noise level is not the trained table's: the network is shown the level's time."""
    from skrample.common import Point
    from skrample.sampling.models import FlowModel, NoiseModel

    def run(denoiser: DenoiserLike, noise: Tensor, steps: int) -> Tensor:
        def model(x: Tensor, timestep: float, sigma: float, alpha: float) -> Tensor:
            prediction = denoiser(x.to(noise), _time(process, Point(timestep, sigma, alpha)))
            return prediction.velocity if flow else prediction.noise

        return sampler.sample_model(noise, model, FlowModel() if flow else NoiseModel(), spaced(steps), steps).to(noise)

    return run


def _time(process: Process, point: Any) -> float:
    if point.alpha <= 0:
        return float(process.t_max)
    found = float(process.time(math.log(point.alpha / point.sigma)))
    return min(max(found, float(process.t_min)), float(process.t_max))
