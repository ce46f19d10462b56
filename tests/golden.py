"""The golden record: what hasten computes today, as numbers that a change of its source must leave alone.

python tests/golden.py             compare, and print each difference
python tests/golden.py NAME ...    only the entries whose names contain one of these
python tests/golden.py --write     record anew, in tests/golden.json

An entry is a name and what a few lines of public API give: tensors and plain data. Of a tensor the record keeps
dtype, shape, the first half of the sha256 of its bytes, and a few numbers. Equal bytes are equal; where they are not,
the numbers must agree within a tolerance (see `allowed`), and the script says by how much they do not. Plain data
must be equal, key by key in order.

Two things are inputs and never written by `--write`: "texts" in golden.json, recipes of version 1 that must load
for ever, and tests/golden-recipe/, a fitted recipe as `Recipe.save` wrote it.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pipelines
import torch
from torch import Tensor
from working import WORKING

import hasten
from hasten import grids, solvers, starts
from hasten.denoisers import Denoiser, GaussianMixture
from hasten.fit.dc_solver import fit_cascade
from hasten.fit.teleport import fit_model
from hasten.processes import Cosine, RectifiedFlow, VarianceExploding, VariancePreserving

torch.set_num_threads(1)

HERE = Path(__file__).parent
RECORD, FOLDER = HERE / "golden.json", HERE / "golden-recipe"


def methods() -> list[dict[str, Any]]:
    """What `hasten methods --json` prints: a name, a family, settings, aliases and more of each.

    The one place here that knows where hasten keeps its lists.
    """
    from hasten import methods

    return methods.methods()


def grid_names() -> list[str]:
    """Every name that `grid=` takes; likewise."""
    return grids.GRIDS.names()


def part_names() -> dict[str, list[str]]:
    """The parts that a composed cache is made of; likewise."""
    from hasten import caches

    families = {
        "site": caches.SITES, "gate": caches.GATES, "forecaster": caches.FORECASTERS, "indicator": caches.INDICATORS,
    }  # fmt: skip
    return {name: family.names() for name, family in families.items()}


# what an entry is


class Tolerance(NamedTuple):
    """How far a number may be from the record: absolutely up to 1, relatively above."""

    absolute: float
    relative: float

    def bound(self, number: float) -> float:
        return self.absolute if abs(number) <= 1 else self.relative * abs(number)


EXACT = Tolerance(1e-6, 1e-5)
HERE_AND_ELSEWHERE = {  # on the kind of machine that made the record, and on any other
    "float64": (EXACT, EXACT),
    "float32": (EXACT, Tolerance(5e-4, 1e-3)),
    "bfloat16": (Tolerance(2e-2, 2e-2), Tolerance(1e-1, 1e-1)),
}
"""Networks in 32 and 16 bits, with guidance on top, make more of another processor's rounding than 1e-6: with torch
held to SSE instructions, latents of emoji-sd move by up to 1e-4, those in bfloat16 by 0.1."""

Found = Mapping[str, Any]  # tensors and plain data, each by a label


class Entry(NamedTuple):
    """run() gives what is recorded; bits: those that it is computed in."""

    run: Callable[[], Found]
    bits: str = "float64"


Entries = Iterator[tuple[str, Entry]]


# solvers on exact denoisers

STEPS = 6
PROCESSES = {"vp": VariancePreserving(), "flow": RectifiedFlow()}
OTHERS = {"ve": VarianceExploding(), "cosine": Cosine()}
FREE = ["logsnr", "karras"]


def mixture(process: Any) -> GaussianMixture:
    """Three Gaussians in three dimensions."""
    means = [[1.0, -0.5, 0.2], [-0.8, 0.9, -1.1], [0.3, 0.4, 1.2]]
    return GaussianMixture(means, [0.2, 0.3, 0.4], [0.5, 0.3, 0.2], process)


def randn(*shape: int, seed: int = 0) -> Tensor:
    """The same numbers on every call."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def noise(process: Any, rows: int = 4, seed: int = 0) -> Tensor:
    """Start states for `mixture`."""
    return randn(rows, 3, seed=seed) * process.start_scale


def solver_names() -> list[str]:
    """The classes' names, then the aliases."""
    listed = [method for method in methods() if method["family"] == "solver"]
    return [cls.name for cls in solvers.all()] + [alias for method in listed for alias in method["aliases"]]


def solved(process: Any, solver: Any, **settings: Any) -> Found:
    """A run from the usual start."""
    return {"x": hasten.sample(mixture(process), noise(process), solver, **({"steps": STEPS} | settings))}


def solver_entries() -> Entries:
    """Every solver by its name, and by its class without arguments, which must be the same."""
    for kind, process in PROCESSES.items():
        for grid in FREE:
            for name in solver_names():
                yield f"solver {name} {kind} {grid}", Entry(functools.partial(solved, process, name, grid=grid))
    for cls in solvers.all():
        both = functools.partial(_by_class, cls)
        yield f"solver class {cls.__name__}", Entry(both)
    for kind, process in OTHERS.items():
        for name in ("ddim", "dpm++", "unipc", "heun", "euler-ancestral"):
            yield f"solver {name} {kind} karras", Entry(functools.partial(solved, process, name, grid="karras"))
    settings: dict[str, tuple[Any, dict[str, Any]]] = {
        "default": (None, {}),
        "end-min": ("dpm++", {"end": "min"}),
        "explicit": ("unipc", {"grid": [1000.0, 700.0, 400.0, 150.0, 20.0, 0.0]}),
        "brownian": ("euler-ancestral", {"brownian": True, "seed": 3}),
        "churn": (solvers.EDM(churn=2.0), {"grid": "karras", "seed": 5}),
        "ddim-eta": (solvers.DDIM(eta=0.5), {"seed": 2}),
        "unipc-bh1": (solvers.UniPC(order=3, variant="bh1"), {"grid": "trailing"}),
        "dpm++-3": (solvers.DPMSolverPP(order=3), {"grid": {"name": "karras", "rho": 5.0}}),
        "thresholded-unipc": ({"name": "thresholded", "solver": "unipc", "quantile": 0.9}, {}),
        "heavy-ball-nesterov": ({"name": "heavy-ball", "beta": 0.7, "nesterov": True}, {}),
        "one-step": ("dpm++", {"steps": 1}),
    }
    for name, (solver, more) in settings.items():
        yield f"solver vp {name}", Entry(functools.partial(solved, PROCESSES["vp"], solver, **more))
    yield "solver network", Entry(_network)


def _by_class(cls: type[Any]) -> Found:
    process = PROCESSES["vp"]
    made, named = (solved(process, solver)["x"] for solver in (cls(), cls.name))
    return {"name": cls.name, "same as by name": torch.equal(made, named), "repr": repr(cls())}


def _network() -> Found:
    """A torch network of each kind of prediction, and the numbers that it is shown."""
    found: dict[str, Any] = {}
    for kind in ("epsilon", "sample", "v_prediction", "flow_prediction"):
        shown: list[float] = []

        def network(x: Tensor, number: Tensor, shown: list[float] = shown) -> Tensor:
            shown.append(float(number[0]))
            return torch.tanh(x * 0.7) + number[:, None].to(x) / 5000

        process = PROCESSES["flow" if kind == "flow_prediction" else "vp"]
        found[kind] = hasten.sample(Denoiser(network, process, kind), noise(process), "unipc", STEPS, "karras")
        found[f"{kind} shown"] = torch.tensor(shown)
    return found


# grids

GRID_SETTINGS: dict[str, Any] = {
    "ays-sdxl": {"name": "ays", "model": "sdxl"},
    "leading-1": {"name": "uniform", "spacing": "leading", "offset": 1},
    "power-3": {"name": "quadratic", "power": 3.0},
    "karras-3": {"name": "karras", "rho": 3.0},
    "shift-5": {"name": "flow-shifted", "shift": 5.0},
    "bent-0.5": {"name": "bent", "slope": 0.5, "curve": -0.2, "twist": 0.1, "rest": 0.3},
}


def grid_entries() -> Entries:
    """The times of every grid."""
    listed = {name: name for name in grid_names() if name != "explicit"} | GRID_SETTINGS
    for name, grid in listed.items():
        yield f"grid {name}", Entry(functools.partial(_times, grid))


def _times(grid: Any) -> Found:
    found: dict[str, Any] = {}
    for kind, process in PROCESSES.items():
        for steps, end in ((7, "data"), (12, "min")):
            found[f"{kind} {steps} {end}"] = torch.from_numpy(grids.schedule(grid, process, steps, end))
    return found


# what is fitted


def fit_entries() -> Entries:
    """Solvers, grids and starts with a small fit each."""
    for kind in PROCESSES:
        for name in FITS if kind == "vp" else ("dpm-v3", "dc-solver", "bns"):  # the others search, which takes longer
            yield f"fit {name} {kind}", Entry(functools.partial(_fitted, name, kind))
    for name, fit in START_FITS.items():
        yield f"start {name}", Entry(fit)


@functools.cache
def fitted(name: str, kind: str) -> Any:
    """A solver (or grid) fitted to the mixture."""
    return FITS[name](mixture(PROCESSES[kind]), noise(PROCESSES[kind], 24, seed=1))


FITS: dict[str, Callable[[GaussianMixture, Tensor], Any]] = {
    "dpm-v3": lambda d, _: solvers.DPMSolverV3().fit(d, d.sample(64, torch.Generator().manual_seed(1)), points=24),
    "dpm-v3-numbers": lambda d, _: solvers.DPMSolverV3(order=2).fit(
        d, d.sample(32, torch.Generator().manual_seed(1)), points=12, elementwise=False
    ),
    "dc-solver": lambda d, x: solvers.DCSolver().fit(d, x[:8], steps=STEPS, grid="karras", substeps=4),
    "dc-cascade": lambda d, x: fit_cascade(solvers.DCSolver(), {1.0: d}, x[:4], (4, 5, 6), grid="karras"),
    "usf": lambda d, x: solvers.USF().fit(d, x[:16], steps=4, grid="karras", evaluations=6, rounds=1),
    "bns": lambda d, x: solvers.BNS().fit(d, x, steps=STEPS, grid="karras"),
    "fitted-grid": lambda d, x: grids.FittedGrid().fit(d, solvers.DPMSolverPP(), x, steps=STEPS, evaluations=16),
}


def _fitted(name: str, kind: str) -> Found:
    result = fitted(name, kind)
    found: dict[str, Any] = {"solver": result.name} if name != "fitted-grid" else {"grid": result.name}
    for field, value in vars(result).items():
        if isinstance(value, Tensor):
            found[field] = value
        elif isinstance(value, tuple) and value and all(isinstance(number, float) for number in value):
            found[field] = torch.tensor(value, dtype=torch.float64)
        elif isinstance(value, tuple) and value and all(isinstance(row, tuple) for row in value):
            found[field] = json.loads(json.dumps(value)) if name == "usf" else _flat(value)
    run = {"grid": "karras", "steps": 4 if name == "usf" else STEPS} if name != "fitted-grid" else {"grid": result}
    return found | solved(PROCESSES[kind], None if name == "fitted-grid" else result, **run)


def _flat(value: Any) -> Tensor:
    """Nested tuples of numbers as one row."""
    flat = [number for inner in value for number in (_flat(inner).tolist() if isinstance(inner, tuple) else [inner])]
    return torch.tensor(flat, dtype=torch.float64)


def _start_data() -> Tensor:
    return mixture(PROCESSES["vp"]).sample(40, torch.Generator().manual_seed(2))


def _started(start: Any, time: float | None = None) -> Found:
    found: dict[str, Any] = {}
    for kind, process in (PROCESSES | OTHERS).items():
        state, at = start(process, randn(5, 3), time)
        found |= {kind: state, f"{kind} time": torch.tensor([at], dtype=torch.float64)}
    return found


def _moments(start: Any) -> Found:
    done = start.fit(_start_data())
    return {"mean": done.mean, "variances": done.variances} | _started(done)


def _one_more_step_spread() -> Found:
    return _started(starts.OneMoreStep(spread=True).fit(_start_data()))


def _fitted_to_a_model() -> Found:
    done = fit_model(starts.GaussianTeleport(), mixture(PROCESSES["vp"]), (3,), count=50, steps=8)
    return {"mean": done.mean, "variances": done.variances}


def _optimal_boundary() -> Found:
    def solve(x: Tensor, inputs: Tensor) -> Tensor:
        return x * 0.5 + inputs

    inputs = randn(8, 3, seed=3)
    start = starts.OptimalBoundary().fit(
        solve, randn(16, 3, seed=4), inputs, inputs + 0.2, lambda a, b: (a - b).square().mean(1), halving=True
    )
    state, at = start(PROCESSES["flow"], randn(5, 3))
    return {"best": start.best, "flow": state, "time": at}


def _optimal_transport() -> Found:
    process = PROCESSES["vp"]
    start = starts.DPMOT().fit(process, _start_data()[:12], 400.0, iterations=40)
    state, at = start(process, randn(5, 3))
    return {"heights": start.heights, "targets": start.targets, "vp": state, "time": at}


def _saved_start() -> Found:
    with tempfile.TemporaryDirectory() as folder:
        starts.OneMoreStep(rank=2).fit(_start_data()).save(Path(folder) / "start.safetensors")
        return _started(starts.Start.load(Path(folder) / "start.safetensors"))


START_FITS: dict[str, Callable[[], Found]] = {
    "gaussian-teleport": lambda: _moments(starts.GaussianTeleport()),
    "one-more-step": lambda: _moments(starts.OneMoreStep()),
    "one-more-step-spread": _one_more_step_spread,
    "fit-model": _fitted_to_a_model,
    "optimal-boundary": _optimal_boundary,
    "dpm-ot": _optimal_transport,
    "student-t": lambda: _started(starts.StudentT(dimensions=16.0)),
    "saved": _saved_start,
}


# inversion


def invert_entries() -> Entries:
    """From data to noise and back; exactly by a reversible solver."""
    for kind in PROCESSES:
        for solver in ("edict", "bdia", {"name": "bdia-edm", "exact": True}, "ddim", "dpm++"):
            name = solver if isinstance(solver, str) else solver["name"]
            yield f"invert {name} {kind}", Entry(functools.partial(_there_and_back, solver, PROCESSES[kind]))


def _there_and_back(solver: Any, process: Any) -> Found:
    denoiser, data = mixture(process), _start_data()[:4]
    start = hasten.invert(denoiser, data, solver, steps=STEPS)
    back = hasten.sample(denoiser, start, solver, steps=STEPS)
    exact = bool((back - data).abs().max() < 1e-9)
    return {"start": start, "back": back, "exact": exact}


# recipes on tiny pipelines

SETTINGS: dict[str, dict[str, Any]] = WORKING | {  # of methods that are recorded with others as well
    "reuse-frequencies": {"below": None, "interval": 3},
    "cache": {"site": "whole", "gate": {"name": "every", "interval": 2}, "forecaster": "taylor"},
    "faster-diffusion": {"keys": 2},
    "magcache": {"ratios": [1.0, 1.02, 0.97, 1.01, 0.95], "threshold": 0.5, "retention": 0.0},
    "teacache": {"threshold": 0.5, "coefficients": [0.8, 0.01]},
}
OPTIONAL = {"cache-dit": "cache_dit"}  # methods that need a package which may be missing
TINY_STEPS = 5
FEWER = {  # kinds that are like another, with what may treat them differently
    "img2img": ("interval", "deepcache", "faster-diffusion"),
    "inpaint": ("interval", "deepcache", "faster-diffusion"),
    "controlnet": ("interval", "deepcache", "faster-diffusion"),
    "sdxl": ("reuse-frequencies", "deepcache", "cache", "diffusers-pab", "tome", "sada", "first-block"),
    "sd3": ("reuse", "cache", "diffusers-magcache", "diffusers-first-block", "fora", "taylorseer", "deepcache"),
}


def with_method(name: str, family: str) -> dict[str, Any]:
    """The recipe field of one acceleration."""
    method = {"name": name} | SETTINGS.get(name, {})
    return {family: [method] if family == "caches" else method}


def tiny_entries() -> Entries:
    """Every acceleration in every kind of pipeline that takes it; every solver in a U-Net and in a transformer."""
    listed = [m for m in methods() if m["family"] in ("guidance", "caches") or m["name"] == "channels-last"]
    for method in listed:
        name, field = method["name"], method["family"]
        for kind in pipelines.KINDS:
            if kind in FEWER and name not in FEWER[kind]:
                continue
            recipe = with_method(name, field) | ({} if kind in ("sd", "flux") else {"solver": "unipc"})
            yield f"tiny {kind} {name}", Entry(functools.partial(tiny, kind, recipe), "float32")
    for kind, grid in (("sd", "karras"), ("flux", "flow-shifted")):
        for name in solver_names():
            recipe = {"solver": name, "grid": grid}
            yield f"tiny {kind} solver {name}", Entry(functools.partial(tiny, kind, recipe), "float32")
    for name, (kind, recipe) in TINY.items():
        bits = "bfloat16" if "quantize" in recipe else "float32"
        yield f"tiny {kind} {name}", Entry(functools.partial(tiny, kind, recipe), bits)


def cache(site: Any, gate: Any, forecaster: Any = "hold") -> dict[str, Any]:
    """A composed cache as data."""
    return {"name": "cache", "site": site, "gate": gate, "forecaster": forecaster}


TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("sd", {}),
    "heun-deepcache": ("sd", {"solver": "heun", "grid": "karras", "caches": ["deepcache"]}),
    "unipc-sada": ("sd", {"solver": "unipc", "grid": "logsnr"} | with_method("sada", "caches")),
    "deep-difference": ("sd", {"caches": [cache("unet-deep", "every", "difference")]}),
    "tokens-refresh": ("sd", {"caches": [cache({"name": "tokens", "max_downsample": 2}, {"name": "refresh"})]}),
    "encoder-listed": ("sd", {"caches": [cache("unet-encoder", {"name": "listed", "steps": [0, 2]}, "taylor")]}),
    "whole-stable": ("sd", {"solver": "dpm++", "caches": [cache("whole", "stable", "extrapolated")]}),
    "pieces-masked": ("sd", {"caches": [cache("pieces", {"name": "masked", "mask": [True, False, True]})]}),
    "parallel-decoders": ("sd", {"caches": [{"name": "faster-diffusion", "keys": 3, "parallel": 2}]}),
    "two-caches": (
        "sd",
        {"guidance": {"name": "interval", "high": 5.0}, "caches": ["deepcache", "tome"], "solver": "dpm++"},
    ),
    "pab-deepcache": ("sd", {"caches": [{"name": "diffusers-pab"} | SETTINGS["diffusers-pab"], "deepcache"]}),
    "bfloat16": ("sd", {"quantize": "bfloat16"}),
    "blocks-moved": ("flux", {"caches": [cache({"name": "blocks", "first": 1}, {"name": "moved", "threshold": 9.0})]}),
    "units-countdown": ("flux", {"caches": [cache({"name": "units", "kind": "mlp"}, "countdown", "taylor")]}),
    "accumulated": ("flux", {"caches": [cache("blocks", {"name": "accumulated", "threshold": 0.5}, "hold")]}),
    "bfloat16-fora": ("flux", {"quantize": "bfloat16", "caches": ["fora"], "solver": "euler"}),
    "explicit": ("sd3", {"solver": "dpm++", "grid": [1.0, 0.8, 0.6, 0.35, 0.1, 0.0]}),
    "guided-cache": ("sd3", {"guidance": "interval", "caches": [cache("whole", "every")]}),
}


@functools.cache
def tiny_pipe(kind: str) -> Any:
    """One of each; a recipe leaves it as it was."""
    return pipelines.make(kind)


def tiny(kind: str, fields: Mapping[str, Any]) -> Found:
    """Final latents of a tiny pipeline by a recipe."""
    for cached in fields.get("caches", ()):
        needed = OPTIONAL.get(cached["name"] if isinstance(cached, Mapping) else cached)
        if needed and find_spec(needed) is None:
            raise Missing(needed)
    recipe = hasten.Recipe(**fields)
    with hasten.accelerate(tiny_pipe(kind), recipe) as fast:
        latents = pipelines.call(fast, steps=TINY_STEPS, prompts=2)
    return {"recipe": data_of(recipe), "latents": latents}


class Missing(Exception):
    """An optional package that an entry needs."""


def data_of(recipe: Any) -> dict[str, Any]:
    """A recipe as its JSON says, having checked that the JSON is read back as the same."""
    text = recipe.to_json()
    again = hasten.Recipe.from_json(text)
    assert again == recipe and again.to_json() == text, "a recipe changes on its way through JSON"
    data = json.loads(text)
    assert json.dumps(data, indent=2) == text, "the layout of a recipe's JSON has changed"
    return data


# recipes on the models that ship

PROMPTS = {"emoji-sd": "twemoji croissant", "emoji-flux": "noto hippopotamus", "digits": "five"}
CALL = {"emoji-flux": {"height": 64, "width": 64, "max_sequence_length": 32}}
FLUX_RATIOS = [1.0, 1.05, 0.98, 0.95, 0.9]

ZOO: dict[str, dict[str, dict[str, Any]]] = {
    "emoji-sd": {
        "default": {"steps": 4},
        "ddim": {"solver": "ddim", "grid": "trailing"},
        "dpm++": {"solver": {"name": "dpm++", "order": 2}, "grid": "karras", "guidance": 3.0},
        "dpm++-sde": {"solver": {"name": "dpm++", "eta": 1.0}, "grid": "karras", "guidance": 2.0},
        "unipc": {"solver": {"name": "unipc", "order": 3}, "grid": "logsnr", "end": "min", "guidance": 3.0},
        "heun": {"solver": "heun", "steps": 4, "grid": {"name": "quadratic", "power": 1.5}},
        "ays": {"solver": "deis", "grid": "ays"},
        "bent": {"solver": "ipndm", "grid": {"name": "bent", "slope": 0.4, "rest": 0.5}},
        "explicit": {"solver": "euler", "grid": [1000.0, 800.0, 400.0, 60.0, 0.0]},
        "deepcache": {"steps": 5, "caches": [{"name": "deepcache", "interval": 2, "branch": 1}]},
        "faster-diffusion": {"steps": 5, "caches": [{"name": "faster-diffusion", "keys": 2}]},
        "sada": {"solver": "dpm++", "steps": 6, "caches": [{"name": "sada"} | SETTINGS["sada"]]},
        "tome": {"solver": "ddim", "steps": 4, "caches": [{"name": "tome", "downsample": 2}]},
        "feature-inheritance": {"solver": "ddim", "grid": "trailing", "caches": ["feature-inheritance"]},
        "taylorseer": {"solver": "ddim", "grid": "trailing", "caches": [{"name": "taylorseer", "interval": 2}]},
        "cache": {"solver": "ddim", "steps": 5, "caches": [cache("unet-encoder", "every", "taylor")]},
        "pab": {"solver": "ddim", "caches": [{"name": "diffusers-pab"} | SETTINGS["diffusers-pab"]]},
        "interval": {"solver": "dpm++", "grid": "karras", "guidance": {"scale": 5.0, "name": "interval", "high": 6.0}},
        "reuse": {"solver": "ddim", "guidance": {"scale": 3.0, "name": "reuse"}},
        "reuse-frequencies": {
            "solver": "ddim", "guidance": {"name": "reuse-frequencies"} | SETTINGS["reuse-frequencies"],
        },
        "scale-schedule": {"solver": "ddim", "guidance": {"name": "scale-schedule", "shape": "cosine"}},
        "bfloat16": {
            "solver": "ddim", "steps": 3, "guidance": 2.0, "quantize": "bfloat16", "caches": ["deepcache"],
        },
        "channels-last": {"solver": "unipc", "steps": 3, "guidance": 2.0, "compile": "channels-last"},
    },
    "emoji-flux": {
        "default": {"steps": 5},
        "dpm++": {"solver": "dpm++", "grid": "karras"},
        "unipc": {"solver": "unipc", "grid": "logsnr"},
        "heun": {"solver": "heun", "steps": 4, "grid": {"name": "flow-shifted", "shift": 2.0}},
        "ipndm": {"solver": "ipndm", "grid": "trailing"},
        "sada": {"solver": "dpm++", "grid": "trailing", "caches": [{"name": "sada"} | SETTINGS["sada"]]},
        "first-block": {"caches": [{"name": "first-block", "threshold": 0.5}], "steps": 6},
        "teacache": {"caches": [{"name": "teacache", "coefficients": [1.0, 0.0], "threshold": 0.3}], "steps": 6},
        "magcache": {"caches": [{"name": "magcache", "ratios": FLUX_RATIOS, "threshold": 0.5}], "steps": 5},
        "taylorseer": {"caches": [{"name": "taylorseer", "interval": 2}], "steps": 6},
        "fora": {"caches": ["fora"], "steps": 6},
        "delta-dit": {"caches": ["delta-dit"], "steps": 6},
        "feature-inheritance": {"caches": ["feature-inheritance"], "steps": 5},
        "cache": {"solver": "euler", "caches": [cache("whole", {"name": "every", "interval": 2}, "taylor")]},
        "cache-blocks": {"solver": "euler", "caches": [cache({"name": "blocks", "first": 1}, "every", "difference")]},
        "diffusers-first-block": {"caches": [{"name": "diffusers-first-block", "threshold": 0.5}], "steps": 5},
        "diffusers-magcache": {
            "caches": [{"name": "diffusers-magcache", "ratios": FLUX_RATIOS, "threshold": 0.5}], "steps": 5,
        },
        "diffusers-taylorseer": {"caches": [{"name": "diffusers-taylorseer", "dtype": "float32", "interval": 2}]},
        "cache-dit": {"caches": [{"name": "cache-dit", "front": 1, "threshold": 0.5, "warmup": 2}], "steps": 5},
        "bfloat16": {"solver": "dpm++", "grid": "karras", "quantize": "bfloat16"},
    },
    "digits": {
        "default": {"steps": 6},
        "unipc": {"solver": "unipc", "grid": "karras", "guidance": 2.0},
        "edict": {"solver": "edict", "grid": "logsnr", "guidance": 1.5},
        "interval-cache": {"solver": "dpm++", "guidance": {"name": "interval", "high": 4.0}, "caches": ["deepcache"]},
        "heavy-ball": {"solver": {"name": "heavy-ball", "solver": "dpm++"}, "grid": "leading"},
        "bfloat16": {"solver": "ddim", "quantize": "bfloat16"},
    },
}  # fmt: skip


def zoo_entries() -> Entries:
    """Recipes on `hasten.load(...)`, called as a user does."""
    for model, recipes in ZOO.items():
        for name, fields in recipes.items():
            bits = "bfloat16" if "quantize" in fields else "float32"
            recipe = fields if "steps" in fields or name == "explicit" else fields | {"steps": 4}
            yield f"zoo {model} {name}", Entry(functools.partial(zoo, model, recipe), bits)
    pictures = {"solver": "dpm++", "steps": 4, "grid": "karras", "guidance": 2.0}
    for model in ZOO:
        yield f"zoo {model} pictures", Entry(functools.partial(zoo, model, pictures, "pt", seed=[3, 8]), "float32")
    yield "fit caches emoji-flux", Entry(_fitted_caches, "float32")


@functools.cache
def zoo_pipe(model: str) -> Any:
    """A model that ships; a recipe leaves it as it was."""
    return hasten.load(model)


def zoo(model: str, fields: Mapping[str, Any], output: str = "latent", seed: Any = 0) -> Found:
    """One image a prompt, or as many as there are seeds."""
    needed = [OPTIONAL[c["name"]] for c in fields.get("caches", ()) if isinstance(c, Mapping) and c["name"] in OPTIONAL]
    for package in needed:
        if find_spec(package) is None:
            raise Missing(package)
    recipe = hasten.Recipe(**fields)
    call = CALL.get(model, {}) | {"num_images_per_prompt": len(seed) if isinstance(seed, list) else 1}
    with hasten.accelerate(zoo_pipe(model), recipe) as fast:
        images = fast(PROMPTS[model], seed=seed, output_type=output, **call).images
    return {"recipe": data_of(recipe), output: images}


def _fitted_caches() -> Found:
    """The numbers of caches that are fitted to a model, in one short run each."""
    pipe, prompt, found = zoo_pipe("emoji-flux"), [PROMPTS["emoji-flux"]], {}
    settings = CALL["emoji-flux"] | {"output_type": "latent"}
    for name, more in (("magcache", {"steps": 5}), ("teacache", {"steps": 5, "degree": 1})):
        found[name] = hasten.Recipe(caches=[name]).caches[0].fit(pipe, prompt, **more, **settings)
    borrowed = hasten.Recipe(caches=["diffusers-magcache"]).caches[0]
    found["diffusers-magcache"] = borrowed.fit(pipe, prompt, num_inference_steps=5, **settings)
    numbers = {name: getattr(cached, "ratios", None) or cached.coefficients for name, cached in found.items()}
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in numbers.items()}


# plain data


def data_entries() -> Entries:
    """The lists of methods, and recipes of version 1 that must load."""
    yield "methods", Entry(_methods)
    yield "parts", Entry(lambda: {name: sorted(names) for name, names in part_names().items()})
    yield "grids", Entry(lambda: {"names": sorted(grid_names())})
    for name in recorded()["texts"]:
        yield f"text {name}", Entry(functools.partial(_text, name))
    yield "folder golden-recipe", Entry(_folder)
    yield "folder digits", Entry(_folder_runs, "float32")


def _methods() -> Found:
    """By family, in the order of their names: each method's settings and aliases, all but what was measured."""
    found: dict[str, Any] = {}
    for method in sorted(methods(), key=lambda method: (method["family"], method["name"])):
        kept = {key: method[key] for key in ("settings", "aliases") if method[key]}
        kept |= {key: method[key] for key in ("evaluations", "order", "stochastic", "adaptive") if method.get(key)}
        found.setdefault(method["family"], {})[method["name"]] = kept
    return json.loads(json.dumps(found, default=str))


def _text(name: str) -> Found:
    recipe = hasten.Recipe.from_json(recorded()["texts"][name])
    return {"recipe": data_of(recipe)}


def _folder() -> Found:
    recipe = hasten.Recipe.load(FOLDER)
    plain = recipe.to_dict()
    tensors = {
        key: plain["solver"].pop(key) for key in list(plain["solver"]) if isinstance(plain["solver"][key], Tensor)
    }
    with tempfile.TemporaryDirectory() as folder:
        recipe.save(folder)
        tensors_file, recipe_file = "tensors.safetensors", "recipe.json"
        same = [(Path(folder) / tensors_file).read_bytes() == (FOLDER / tensors_file).read_bytes()]
        texts = [json.loads((Path(at) / recipe_file).read_text()) for at in (folder, FOLDER)]
        same.insert(0, texts[0] == texts[1] | {"version": texts[0]["version"]})  # of version 1, and brought up to date
        again = hasten.Recipe.load(folder) == recipe
    return {"recipe": json.loads(json.dumps(plain)), "saved the same": same, "loaded the same": again} | tensors


def _folder_runs() -> Found:
    with hasten.accelerate(zoo_pipe("digits"), FOLDER) as fast:
        return {"latents": fast("three", seed=4, output_type="latent").images}


# recording and comparing


@functools.cache
def entries() -> dict[str, Entry]:
    """Every entry by its name."""
    parts = (data_entries, grid_entries, solver_entries, fit_entries, invert_entries, tiny_entries, zoo_entries)
    found: dict[str, Entry] = {}
    for part in parts:
        for name, entry in part():
            assert name not in found, name
            found[name] = entry
    return found


@functools.cache
def recorded() -> dict[str, Any]:
    """The record: "about", "texts" and "entries"."""
    return json.loads(RECORD.read_text())


def produce(name: str) -> dict[str, Any]:
    """What an entry gives now, as it would be recorded. Whatever hasten raises comes through."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = entries()[name].run()
    return {label: summary(value) if isinstance(value, Tensor) else value for label, value in found.items()}


def produce_or_error(name: str) -> dict[str, Any]:
    """The same, with what hasten refuses as {"error": its one line}."""
    try:
        return produce(name)
    except Missing:
        raise
    except Exception as error:
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}


def summary(tensor: Tensor) -> dict[str, Any]:
    """A tensor in short: 4 or 6 values, evenly spaced, then its mean and its root mean square."""
    plain = tensor.detach().as_subclass(Tensor).cpu().contiguous()
    raw = plain.flatten().view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    flat = plain.flatten().double().numpy()
    count = min(len(flat), 4 if len(flat) <= 100 else 6)
    picked = flat[np.linspace(0, len(flat) - 1, count).round().astype(int)]
    numbers = [*picked.tolist(), float(flat.mean()), float(np.sqrt(np.square(flat).mean()))]
    return {
        "kind": f"{str(plain.dtype).removeprefix('torch.')} {list(plain.shape)}",
        "short": [float(f"{number:.9g}") for number in numbers],
        "sha256": hashlib.sha256(raw).hexdigest()[:32],
    }


def is_summary(value: Any) -> bool:
    return isinstance(value, dict) and "sha256" in value


def differences(old: Mapping[str, Any], new: Mapping[str, Any], tolerance: Tolerance) -> list[str]:
    """What differs between two recordings of an entry, in words; none if they agree within the tolerance."""
    if "error" in new and "error" not in old:
        return [f"fails: {new['error']}"]
    told = [f"{label} is new: {_cut(new[label])}" for label in new if label not in old]
    for label, before in old.items():
        after = new.get(label)
        if label not in new:
            told.append(f"{label} is gone")
        elif is_summary(before) and is_summary(after):
            told += [f"{label}: {line}" for line in _apart(before, after, tolerance)]
        elif isinstance(before, dict) and isinstance(after, dict) and not (is_summary(before) or is_summary(after)):
            told += [f"{label}.{line}" for line in differences(before, after, tolerance)]
            if not told and list(before) != list(after):
                told.append(f"{label}: the same in another order, was {_cut(list(before))}, is {_cut(list(after))}")
        elif json.dumps(before) != json.dumps(after):
            told.append(f"{label}: was {_cut(before)}, is {_cut(after)}")
    return told


def _apart(before: Mapping[str, Any], after: Mapping[str, Any], tolerance: Tolerance) -> list[str]:
    if before["kind"] != after["kind"]:
        return [f"was {before['kind']}, is {after['kind']}"]
    if before["sha256"] == after["sha256"]:
        return []
    worst = 0.0
    for one, other in zip(before["short"], after["short"]):
        if one == other or (math.isnan(one) and math.isnan(other)):
            continue
        distance = abs(one - other)
        if not distance <= tolerance.bound(one):
            worst = max(worst, distance) if math.isfinite(distance) else math.inf
    if not worst:
        return []
    return [
        f"numbers are up to {worst:.3g} away (allowed: {tolerance.absolute:g}): {before['short']}, {after['short']}"
    ]


def hashes_differ(old: Mapping[str, Any], new: Mapping[str, Any]) -> float | None:
    """The largest difference of the numbers kept, where any bytes differ; None if none do."""
    pairs = [(old[k], new[k]) for k in old if k in new and is_summary(old[k]) and is_summary(new[k])]
    other = [(a, b) for a, b in pairs if a["sha256"] != b["sha256"]]
    if not other:
        return None
    return max(abs(x - y) for a, b in other for x, y in zip(a["short"], b["short"]))


def _cut(value: Any, longest: int = 200) -> str:
    text = json.dumps(value)
    return text if len(text) <= longest else text[:longest] + " ..."


def machine() -> dict[str, str]:
    """What rounding depends on: the build of torch, and the instructions that it has."""
    about = {"torch": torch.__version__, "instructions": torch.backends.cpu.get_cpu_capability()}
    about["processor"] = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        fields = dict(line.split(":", 1) for line in info.read_text().split("\n\n")[0].splitlines() if ":" in line)
        named = {key.strip(): value.strip() for key, value in fields.items()}
        about["processor"] = " ".join(named.get(key, "?") for key in ("model name", "cpu family", "model"))
    return about


def allowed(name: str) -> Tolerance:
    """How far an entry's numbers may be from the record, on this machine."""
    here, elsewhere = HERE_AND_ELSEWHERE[entries()[name].bits]
    return here if machine() == recorded()["about"] else elsewhere


def write(parts: list[str]) -> None:
    """Record every entry (or those asked for) anew; texts stay as they are."""
    kept = recorded()
    if parts and kept["about"] != machine():
        raise SystemExit(f"the record is from another machine ({kept['about']}); write all of it, or none")
    found = dict(kept["entries"]) if parts else {}
    for name in chosen(parts):
        found[name] = produce_or_error(name)
    order = [name for name in entries() if name in found]
    lines = {
        "about": json.dumps(machine()),
        "texts": _lines({name: json.dumps(text) for name, text in kept["texts"].items()}),
        "entries": _lines({name: json.dumps(found[name], separators=(",", ":")) for name in order}),
    }
    RECORD.write_text(_lines(lines) + "\n")
    print(f"{len(order)} entries, {RECORD.stat().st_size} bytes")


def _lines(values: Mapping[str, str]) -> str:
    """A JSON object with one line for each of its values."""
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {text}" for key, text in values.items()) + "\n}"


def chosen(parts: list[str]) -> list[str]:
    """The names of entries that are asked for."""
    return [name for name in entries() if asked_for(name, parts)]


def asked_for(name: str, parts: list[str]) -> bool:
    """Whether a name contains one of the parts, or there are none."""
    return not parts or any(part in name for part in parts)


def compare(parts: list[str]) -> int:
    """Print every difference from the record; the number of entries that differ."""
    old, names, began = recorded()["entries"], chosen(parts), time.perf_counter()
    told = {name: ["is not in the record"] for name in names if name not in old}
    told |= {name: ["is no longer made"] for name in old if name not in entries() and asked_for(name, parts)}
    exact, rounded, missing = 0, {}, []
    for name in names:
        if name in told:
            continue
        try:
            new = produce_or_error(name)
        except Missing as error:
            missing.append(f"{name} needs {error}")
            continue
        lines = differences(old[name], new, allowed(name))
        distance = hashes_differ(old[name], new)
        if lines:
            told[name] = lines
        elif distance is None:
            exact += 1
        else:
            rounded[name] = distance
    for name, lines in told.items():
        for line in lines:
            print(f"DIFFERENT  {name}: {line}")
    for name, distance in rounded.items():
        print(f"rounding   {name}: other bytes, numbers up to {distance:.2g} away, within the tolerance")
    for line in missing:
        print(f"skipped    {line}")
    took = time.perf_counter() - began
    print(
        f"{exact} equal, {len(rounded)} equal but for rounding, {len(told)} different, {len(missing)} skipped", end=""
    )
    print(f" in {took:.0f} s")
    return len(told)


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare what hasten computes with the golden record.")
    parser.add_argument("parts", nargs="*", metavar="NAME", help="only entries whose names contain one of these")
    parser.add_argument("--write", action="store_true", help="record anew")
    asked = parser.parse_args()
    if asked.write:
        write(asked.parts)
        return 0
    return 1 if compare(asked.parts) else 0


if __name__ == "__main__":
    sys.exit(main())
