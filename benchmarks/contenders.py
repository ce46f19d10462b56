"""Who takes part in `benchmarks/caches.py`: recipes of hasten and of borrowed caches, and other packages."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from hasten.tune.problem import Problem, Runner

Entry = tuple[str, str, dict[str, Any]]  # label, group, fields of a Recipe
KARRAS = {"name": "karras", "rho": 5.0}
SHIFTED = {"name": "flow-shifted", "shift": 0.6}


def recipes(problem: Problem) -> Iterator[Entry]:
    unet = hasattr(problem.pipe, "unet")
    yield from (_cached("paper", spec) for spec in (UNET if unet else DIT) + EITHER)
    yield from (_cached("peer", spec) for spec in (PEER_UNET if unet else PEER_DIT))
    yield from _composed(unet)
    yield from _steps(unet)
    yield from _both(unet)


def _cached(group: str, spec: dict[str, Any]) -> Entry:
    fields = ", ".join(f"{key} {value}" for key, value in spec.items() if key != "name")
    if spec["name"] in GUIDED:
        return f"{spec['name']} {fields}".strip(), group, {"guidance": spec}
    return f"{spec['name']} {fields}".strip(), group, {"caches": [spec]}


def _each(name: str, **choices: list[Any]) -> list[dict[str, Any]]:
    return [{"name": name, **dict(zip(choices, values))} for values in itertools.product(*choices.values())]


GUIDED = ("interval",)
UNET = _each("deepcache", interval=[2, 3, 5], branch=[0, 2])
EITHER: list[dict[str, Any]] = []
DIT: list[dict[str, Any]] = []
PEER_UNET: list[dict[str, Any]] = []
PEER_DIT: list[dict[str, Any]] = []


def _composed(unet: bool) -> Iterator[Entry]:
    """Combinations of sites, gates and forecasters that are nobody's."""
    own = ["unet-encoder", {"name": "unet-deep", "branch": 0}] if unet else [{"name": "blocks", "first": 1}]
    sites = [{"name": "whole", "space": "data"}, {"name": "whole", "space": "output"}, *own]
    forecasts = ["hold", *({"name": "taylor", "order": k, "variable": v} for k in (1, 2) for v in ("time", "logsnr"))]
    for site, interval, forecaster in itertools.product(sites, (2, 3, 4), forecasts):
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
    return spec if isinstance(spec, str) else " ".join(str(value) for value in spec.values())


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
        from DeepCache import DeepCacheSDHelper

        twin = copy.copy(problem.pipe)
        twin.set_progress_bar_config(disable=True)
        twin.scheduler = copy.deepcopy(problem.pipe.scheduler)
        helper = DeepCacheSDHelper(pipe=twin)
        helper.set_params(cache_interval=interval, cache_branch_id=branch)
        helper.enable()
        try:
            yield Runner(twin, problem.call)
        finally:
            helper.disable()

    return running
