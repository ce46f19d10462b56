"""Who takes part in `benchmarks/caches.py`: recipes of hasten and of borrowed caches, and other packages."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from hasten.bench.worker import deepcached
from hasten.caches import DiffusersMagCache, MagCache, TeaCache
from hasten.evaluate.problem import Problem, Runner
from hasten.guidance import GUIDANCES
from hasten.runtime.view import view
from hasten.search.fitter import SPLIT

Entry = tuple[str, str, dict[str, Any]]  # label, group, fields of a Recipe
KARRAS = {"name": "karras", "rho": 5.0}
SHIFTED = {"name": "flow-shifted", "shift": 0.6}


def recipes(problem: Problem) -> Iterator[Entry]:
    unet = hasattr(problem.pipe, "unet")
    papers, peers = (UNET, PEER_UNET) if unet else (DIT, PEER_DIT)
    yield from (_alone("paper", spec) for spec in papers)
    yield from (_alone("peer", spec) for spec in peers)
    if not unet:
        yield from _calibrated(problem)
    yield from _composed(unet)
    yield from _steps(unet)
    yield from _both(unet)


def _alone(group: str, spec: dict[str, Any]) -> Entry:
    """A cache or a way of guiding on the default's own scheduler and steps."""
    label = " ".join([spec["name"], *(f"{key} {_short(value)}" for key, value in spec.items() if key != "name")])
    return label, group, {"guidance": spec} if spec["name"] in GUIDANCES.names() else {"caches": [spec]}


def _each(name: str, **choices: list[Any]) -> list[dict[str, Any]]:
    return [{"name": name, **dict(zip(choices, values))} for values in itertools.product(*choices.values())]


UNET = [
    *_each("deepcache", interval=[2, 3, 5], branch=[0, 2]),
    *_each("deepcache", interval=[5], branch=[0], schedule=["signed"]),
    *_each("faster-diffusion", keys=["50ls", "pro", 2, 4], injection=[0.0]),
    *_each("faster-diffusion", keys=["50ls"]),
    *_each("feature-inheritance", interval=[2, 4], storage=["residual", "absolute"]),
    *_each("feature-inheritance", granularity=["layer"], pieces=[["mid", "u5", "u4", "u3"]], interval=[2, 3]),
    *_each("sada", variant=["paper", "official"]), *_each("sada", variant=["paper"], variable=["logsnr"]),
    *_each("sada", variant=["paper"], lagrange_int=[1]),
    *_each("sada", variant=["paper"], max_downsample=[1], max_fix=[64]),
    *_each("tome", ratio=[0.25, 0.5], downsample=[2]), *_each("interval", low=[0.1, 0.28], high=[5.4]),
    *_each("reuse", interval=[2, 4]), *_each("reuse-frequencies"), *_each("taylorseer", interval=[2, 4]),
]  # fmt: skip
DIT = [
    *_each("first-block", threshold=[0.05, 0.1, 0.2, 0.4]), *_each("fora", interval=[2, 3]),
    *_each("delta-dit", interval=[2, 3]), *_each("taylorseer", interval=[2, 3, 5], order=[1, 2]),
    *_each("feature-inheritance", interval=[2, 4], storage=["residual", "absolute"]),
    *_each("sada", variant=["paper", "official"]), *_each("sada", variant=["paper"], variable=["logsnr"]),
    *_each("sada", variant=["paper"], lagrange_int=[1]),
]  # fmt: skip
PEER_UNET = _each("diffusers-pab", cross=[2, 4], spatial=[1, 2])
PEER_DIT = [
    *_each("diffusers-first-block", threshold=[0.05, 0.1, 0.2, 0.4]), *_each("diffusers-pab", spatial=[2, 3]),
    *_each("diffusers-fastercache"), *_each("diffusers-taylorseer", interval=[2, 3, 5], dtype=["float32"]),
    *_each("cache-dit", front=[1], threshold=[0.08, 0.2, 0.4], warmup=[3], order=[0, 1]),
]  # fmt: skip


def _calibrated(problem: Problem) -> Iterator[Entry]:
    """The caches that are calibrated on the model, on prompts of their own."""
    prompts = list(problem.samples[SPLIT].prompts[:4])
    for threshold in (0.1, 0.2, 0.4):
        tea = TeaCache(threshold=threshold).fit(problem.pipe, prompts, **problem.call)
        mag = MagCache(threshold=threshold).fit(problem.pipe, prompts, **problem.call)
        theirs = DiffusersMagCache(threshold=threshold, most=5).fit(problem.pipe, prompt=prompts[:1], **problem.call)
        for group, cache in (("paper", tea), ("paper", mag), ("peer", theirs)):
            yield f"{cache.name} threshold {threshold}", group, {"caches": [cache]}


def _composed(unet: bool) -> Iterator[Entry]:
    """Combinations of sites, gates and forecasters that are nobody's."""
    own = ["unet-encoder", {"name": "unet-deep", "branch": 0}] if unet else [{"name": "blocks", "first": 1}]
    sites = [{"name": "whole", "space": "data"}, {"name": "whole", "space": "output"}, *own]
    forecasts = ["hold", *({"name": "taylor", "order": k, "variable": v} for k in (1, 2) for v in ("time", "logsnr"))]
    for site, interval, forecaster in itertools.product(sites, (2, 3), forecasts):
        gate = {"name": "every", "interval": interval, "warmup": 3, "tail": 1}
        spec = {"name": "cache", "site": site, "gate": gate, "forecaster": forecaster}
        yield f"{_short(site)} 1:{interval} {_short(forecaster)}", "composed", {"caches": [spec]}


def _steps(unet: bool) -> Iterator[Entry]:
    """Fewer steps: the best of the solvers and grids, and weights fitted to the model."""
    plain = [("ddim", "leading"), ("ddim", KARRAS), ("dpm++", KARRAS)] if unet else [
        ("euler", SHIFTED), ("dpm++", SHIFTED), ("dpm++", "logsnr"),
    ]  # fmt: skip
    for steps in (6, 8, 10, 14, 20, 28):
        for solver, grid in plain:
            yield f"{solver} {_short(grid)} {steps} steps", "steps", {"solver": solver, "grid": grid, "steps": steps}
    for steps, grid in itertools.product((5, 6, 8, 10, 14, 20), (KARRAS, "logsnr") if unet else (SHIFTED, "logsnr")):
        yield f"bns {_short(grid)} {steps} steps", "steps", {"solver": "bns", "grid": grid, "steps": steps}


def _both(unet: bool) -> Iterator[Entry]:
    """A cache on a fitted solver, which makes up for some of what the cache does."""
    grid = KARRAS if unet else "logsnr"
    some = _each("deepcache", interval=[2], branch=[0, 2]) if unet else [
        {"name": "cache", "site": {"name": "blocks", "first": 1}, "gate": {"name": "every", "interval": 2}},
    ]  # fmt: skip
    for steps, spec in itertools.product((8, 12, 16, 24), some):
        label = f"bns {_short(grid)} {steps} steps + {spec['name']} 1:2 {spec.get('branch', '')}".strip()
        yield label, "both", {"solver": "bns", "grid": grid, "steps": steps, "caches": [spec]}


def _short(spec: Any) -> str:
    if isinstance(spec, dict):
        return " ".join(str(value) for value in spec.values())
    return "+".join(map(str, spec)) if isinstance(spec, list) else str(spec)


def packages(problem: Problem) -> dict[str, Callable[[], AbstractContextManager[Runner]]]:
    """Packages that patch the pipeline in their own way, each on a copy of it."""
    if not hasattr(problem.pipe, "unet"):
        return {}
    return {
        f"DeepCache package interval {interval} branch {branch}": _deepcache(problem, interval, branch)
        for interval, branch in itertools.product((2, 3, 5), (0, 2))
    }


def _deepcache(problem: Problem, interval: int, branch: int) -> Callable[[], AbstractContextManager[Runner]]:
    @contextmanager
    def running() -> Iterator[Runner]:
        twin = copy.copy(problem.pipe)
        twin.set_progress_bar_config(disable=True)
        twin.scheduler = copy.deepcopy(problem.pipe.scheduler)
        twin.unet = view(twin.unet)  # the package patches what it is given
        yield Runner(deepcached(twin, interval, branch), problem.call)

    return running
