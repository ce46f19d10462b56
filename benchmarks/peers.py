"""Solvers of other packages on the same denoiser and the same start noise, for `benchmarks/solvers.py`.

A peer is a function (denoiser, noise, steps) -> data. Every solver is listed with every way its package has of
placing the times, so that it is judged by its best one. Only deterministic solvers: all are held against the ODE.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import skramples
import torch
from torch import Tensor

from hasten.denoisers import DenoiserLike
from hasten.processes import Process

Peer = Callable[[DenoiserLike, Tensor, int], Tensor]

SPACINGS: dict[str, dict[str, Any]] = {
    "leading": {"timestep_spacing": "leading"},
    "linspace": {"timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "lu": {"use_lu_lambdas": True},
}
NOISY = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FLOWING = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}

SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"set_alpha_to_one": True, "clip_sample": False}),
    "pndm": ("PNDMScheduler", {"set_alpha_to_one": True, "skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "dpm++ 2M": ("DPMSolverMultistepScheduler", {"solver_order": 2}),
    "dpm++ 2M heun": ("DPMSolverMultistepScheduler", {"solver_order": 2, "solver_type": "heun"}),
    "dpm++ 3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "dpm++ 2S": ("DPMSolverSinglestepScheduler", {"solver_order": 2, "lower_order_final": True}),
    "dpm++ 3S": ("DPMSolverSinglestepScheduler", {"solver_order": 3, "lower_order_final": True}),
    "unipc 2 bh1": ("UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh1"}),
    "unipc 2 bh2": ("UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh2"}),
    "unipc 3 bh2": ("UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh2"}),
}
FLOW_SOLVERS = ("dpm++ 2M", "dpm++ 2M heun", "dpm++ 3M", "unipc 2 bh1", "unipc 2 bh2", "unipc 3 bh2", "deis")
SHIFTS = (1.0, 1.6, 3.0)


def available(process: Process) -> tuple[dict[str, Peer], dict[str, str]]:
    """The peers that work on a process, and why the others are missing."""
    flow = process.t_max == 1.0
    peers = dict(_diffusers_flow() if flow else _diffusers())
    missing: dict[str, str] = {}
    if not flow:
        try:
            peers |= _k_diffusion(process)
        except ImportError as error:
            missing["k-diffusion"] = f"{error}; pip install --no-deps k-diffusion torchdiffeq torchsde"
    if sys.version_info < (3, 12):
        missing["skrample"] = "needs Python 3.12"
    else:
        try:
            peers |= skramples.peers(process, flow)
        except ImportError as error:
            missing["skrample"] = f"{error}; pip install skrample"
    return peers, missing


def _diffusers() -> dict[str, Peer]:
    import diffusers

    peers: dict[str, Peer] = {}
    for (name, (cls, fields)), (spacing, placed) in itertools.product(SOLVERS.items(), SPACINGS.items()):
        kind = getattr(diffusers, cls)
        if set(placed) <= set(inspect.signature(kind.__init__).parameters):
            peers[f"diffusers {name} {spacing}"] = _hosted(kind, NOISY | fields | placed, lambda t: t + 1.0)
    return peers


def _diffusers_flow() -> dict[str, Peer]:
    import diffusers

    peers: dict[str, Peer] = {}
    for shift in SHIFTS:
        for name, cls in (("euler", "FlowMatchEulerDiscreteScheduler"), ("heun", "FlowMatchHeunDiscreteScheduler")):
            peers[f"diffusers flow {name} shift {shift}"] = _hosted(
                getattr(diffusers, cls), {"shift": shift}, _thousandth
            )
        for name in FLOW_SOLVERS:
            cls, fields = SOLVERS[name]
            kind, extra = getattr(diffusers, cls), FLOWING | {"flow_shift": shift}
            if set(extra) <= set(inspect.signature(kind.__init__).parameters):
                peers[f"diffusers {name} shift {shift}"] = _hosted(kind, NOISY | fields | extra, _thousandth)
    return peers


def _thousandth(t: float) -> float:
    return t / 1000


def _hosted(kind: Any, config: dict[str, Any], time: Callable[[float], float]) -> Peer:
    """A diffusers scheduler in the loop that every diffusers pipeline has. time: of a timestep."""
    flow = "shift" in config or "flow_shift" in config

    def run(denoiser: DenoiserLike, noise: Tensor, steps: int) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler = kind(**config)
            scheduler.set_timesteps(steps)
            x = noise if flow else noise * scheduler.init_noise_sigma
            for t in scheduler.timesteps:
                shown = x if flow else scheduler.scale_model_input(x, t)
                prediction = denoiser(shown.to(noise.dtype), time(float(t)))
                output = prediction.velocity if flow else prediction.noise
                x = scheduler.step(output, t, x, return_dict=False)[0]
        return x.to(noise.dtype)

    return run


def _k_diffusion(process: Process) -> dict[str, Peer]:
    sampling = _sampling()
    low, high = (float(process.sigma(t) / process.alpha(t)) for t in (process.t_min, process.t_max))
    rules = {
        "karras": lambda n: sampling.get_sigmas_karras(n, low, high),
        "exponential": lambda n: sampling.get_sigmas_exponential(n, low, high),
        "polyexponential": lambda n: sampling.get_sigmas_polyexponential(n, low, high, rho=1.5),
    }
    peers = {
        f"k-diffusion {name} {rule}": _scaled(getattr(sampling, f"sample_{name}"), sigmas, process)
        for name in ("euler", "heun", "dpm_2", "lms", "dpmpp_2m")
        for rule, sigmas in rules.items()
    }

    def fast(model: Any, x: Tensor, sigmas: Tensor, **options: Any) -> Tensor:
        return sampling.sample_dpm_fast(model, x, low, high, len(sigmas) - 1, **options)

    return peers | {"k-diffusion dpm_fast": _scaled(fast, rules["karras"], process)}


def _scaled(sampler: Any, sigmas: Any, process: Process) -> Peer:
    """A k-diffusion sampler, which works on x / alpha and sigma / alpha."""

    def run(denoiser: DenoiserLike, noise: Tensor, steps: int) -> Tensor:
        def model(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
            t = float(process.time(-sigma[0].double().log().item()))
            return denoiser(x * float(process.alpha(t)), t).data

        start = noise / float(process.alpha(process.t_max))
        return sampler(model, start, sigmas(steps).to(noise), disable=True)

    return run


def _sampling() -> types.ModuleType:
    """k_diffusion.sampling alone: the package imports torchvision, wandb and more, which only training needs."""
    if "k_diffusion.sampling" in sys.modules:
        return sys.modules["k_diffusion.sampling"]
    found = importlib.util.find_spec("k_diffusion")
    if found is None or not found.submodule_search_locations:
        raise ImportError("k-diffusion is not installed")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(found.submodule_search_locations)
    utils = types.ModuleType("k_diffusion.utils")
    source = (Path(package.__path__[0]) / "sampling.py").read_text()
    utils.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]  # type: ignore[attr-defined]
    assert "utils." not in source.replace("utils.append_dims", "")
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
    package.utils = utils  # type: ignore[attr-defined]
    return importlib.import_module("k_diffusion.sampling")


def evaluations(peer: Peer, process: Process, steps: int) -> int:
    """How often a run asks the network, found with a fake one."""
    from hasten.predictions import Prediction

    calls = 0

    class Fake:
        def __init__(self) -> None:
            self.process = process

        def __call__(self, x: Tensor, t: Any) -> Prediction:
            nonlocal calls
            calls += 1
            alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
            return Prediction(x, alpha, sigma, torch.zeros_like(x), "sample")

    peer(Fake(), torch.randn(1, 1, 2, 2, dtype=torch.float64), steps)
    return calls
