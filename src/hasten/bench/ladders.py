"""What each peer is tried with: ladders of settings, which differ in their number of steps alone."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hasten.bench.setting import Setting
from hasten.bench.worker import SKRAMPLE
from hasten.caches import DiffusersMagCache
from hasten.evaluate.problem import Problem
from hasten.processes import from_config

STEPS = (*range(4, 17), 18, 20, 22, 25, 28, 32, 36, 40, 45, 50, 60, 75, 100)

Scheduler = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Ladder:
    """Settings of a peer that differ in their steps.

    peer: whose.
    scheduler, method: of every setting, as in `Setting`.
    calls: of the network a step, without the method; at least 1.
    """

    peer: str
    scheduler: Scheduler | None = None
    method: Mapping[str, Any] | None = None
    calls: int = 1

    def at(self, steps: int) -> Setting:
        """The setting with so many steps."""
        return Setting(self.peer, self.scheduler, steps, self.method)


def step_numbers(problem: Problem) -> list[int]:
    """The numbers of steps that are tried, up to the default's."""
    return [*(steps for steps in STEPS if steps < problem.steps), problem.steps]


_TIMES: dict[str, dict[str, Any]] = {
    "karras": {"use_karras_sigmas": True},
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
    "leading": {"timestep_spacing": "leading"},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "lu": {"use_lu_lambdas": True},
}
_MULTISTEP: tuple[Scheduler, ...] = (
    ("DPMSolverMultistepScheduler", {"solver_order": 2}),
    ("UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh2"}),
    ("UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh1", "final_sigmas_type": "sigma_min"}),
    ("UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh2"}),
    ("DPMSolverMultistepScheduler", {"solver_order": 2, "solver_type": "heun"}),
    ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    ("DEISMultistepScheduler", {"solver_order": 2}),
    ("DPMSolverSinglestepScheduler", {"solver_order": 2}),
    ("DPMSolverSinglestepScheduler", {"solver_order": 3}),
)
_DIFFUSION: tuple[Scheduler, ...] = (
    *_MULTISTEP, ("PNDMScheduler", {}), ("DDIMScheduler", {}), ("EulerDiscreteScheduler", {}),
    ("LMSDiscreteScheduler", {}), ("HeunDiscreteScheduler", {}), ("KDPM2DiscreteScheduler", {}),
)  # fmt: skip
_TWICE = ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
_SHIFTS = (1.0, 0.6, 0.4, 0.8, 0.3, 1.6, 3.0)
_BENT = ({}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, {"use_beta_sigmas": True})


def schedulers(problem: Problem, peer: str) -> list[Ladder]:
    """Every deterministic scheduler of diffusers with every way it has of placing the times, likely ones first.

    problem: whose pipeline they are for.
    peer: whose ladders they become.
    """
    dynamic = bool(problem.pipe.scheduler.config.get("use_dynamic_shifting"))
    kinds = _flow(dynamic) if _flows(problem) else _noise()
    return [Ladder(peer, scheduler, calls=2 if scheduler[0] in _TWICE else 1) for scheduler in kinds]


def _flows(problem: Problem) -> bool:
    return from_config(problem.pipe.scheduler.config).t_max == 1.0


def _noise() -> Iterator[Scheduler]:
    for times, (name, changes) in itertools.product(_TIMES.values(), _DIFFUSION):
        if times.keys() <= _fields(name):
            yield name, {**changes, **times}


def _flow(dynamic: bool) -> Iterator[Scheduler]:
    """Schedulers for flow models, with the pipeline's own shift of the times first (None here), then with others.

    dynamic: whether the pipeline computes its shift from the size of the picture.
    """
    for shift in (None, *_SHIFTS):
        for bent in _BENT if shift is None else _BENT[:1]:
            yield "FlowMatchEulerDiscreteScheduler", {**_shifted(shift, dynamic, "shift"), **bent}
        flowing = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        for name, changes in _MULTISTEP:
            if flowing.keys() <= _fields(name):
                yield name, {**changes, **flowing, **_shifted(shift, dynamic, "flow_shift")}
        yield "FlowMatchHeunDiscreteScheduler", _shifted(shift, dynamic, "shift")


def _shifted(shift: float | None, dynamic: bool, field: str) -> dict[str, Any]:
    if shift is None:
        return {}
    if dynamic:  # of exp(mu), where mu goes from one to the other with the size of the picture
        return {"base_shift": round(math.log(shift), 3), "max_shift": round(math.log(shift), 3)}
    return {field: shift}


def _fields(name: str) -> set[str]:
    import diffusers

    return set(inspect.signature(getattr(diffusers, name).__init__).parameters)


def skramples(problem: Problem, peer: str) -> list[Ladder]:
    """The deterministic samplers of skrample's wrapper with its ways of placing the times; as `schedulers`."""
    orders = {"DPM": (2, 3), "UniPC": (2, 3), "Adams": (2, 4), "SPC": (0,), "Euler": (0,)}
    shifts = [{"shift": shift} for shift in _SHIFTS] if _flows(problem) else []
    times: list[dict[str, Any]] = [{}, *({"schedule": s} for s in ("Karras", "Beta", "Exponential", "Probit")), *shifts]
    return [
        Ladder(peer, (SKRAMPLE, {"sampler": sampler, **({"order": order} if order else {}), **placed}))
        for placed in times
        for sampler, some in orders.items()
        for order in some
    ]


def upon(
    peer: str, methods: Sequence[Mapping[str, Any]], good: Sequence[Scheduler | None], in_turn: bool
) -> list[Ladder]:
    """Methods on the network, each with good schedulers and the pipeline's own.

    peer: whose ladders they become.
    methods: as in `Setting`.
    good: schedulers, as in `Setting`.
    in_turn: one method after the other, for those that take long to put on; else one scheduler after the other.
    """
    pairs = itertools.product(methods, (*good, None))
    ladders = [Ladder(peer, scheduler, method) for method, scheduler in pairs]
    return ladders if in_turn else sorted(ladders, key=lambda one: (*good, None).index(one.scheduler))


def each(name: str, **choices: Sequence[Any]) -> list[dict[str, Any]]:
    """A method with every combination of values of its fields."""
    return [{"name": name, **dict(zip(choices, values))} for values in itertools.product(*choices.values())]


def is_unet(problem: Problem) -> bool:
    """Whether the pipeline's network is a U-Net."""
    return hasattr(problem.pipe, "unet")


def diffusers_caches(problem: Problem) -> list[dict[str, Any]]:
    """The caches that diffusers ships; MagCache is calibrated here."""
    if is_unet(problem):
        return each("diffusers-pab", cross=[2, 4], spatial=[1, 2])
    prompt = list(problem.samples["search"].prompts[:1])
    ratios = DiffusersMagCache(ratios=(1.0,)).fit(problem.pipe, prompt=prompt, **problem.call).ratios
    return [
        *each("diffusers-first-block", threshold=[0.05, 0.1, 0.2, 0.4]),
        *each("diffusers-taylorseer", interval=[2, 3, 5], dtype=["float32"]),
        *each("diffusers-magcache", threshold=[0.1, 0.2, 0.4], most=[5], ratios=[list(ratios)]),
        *each("diffusers-pab", spatial=[2, 3]), *each("diffusers-fastercache"),
    ]  # fmt: skip


def deepcaches(problem: Problem) -> list[dict[str, Any]]:
    """The package DeepCache, for U-Nets."""
    return each("deepcache", interval=[2, 3, 5], branch=[0, 2]) if is_unet(problem) else []


def dbcaches(problem: Problem) -> list[dict[str, Any]]:
    """cache-dit's DBCache, for transformers."""
    if is_unet(problem):
        return []
    return each("cache-dit", front=[1], threshold=[0.08, 0.2, 0.4], warmup=[1, 3], order=[0, 1])


def smashes(problem: Problem) -> list[dict[str, Any]]:
    """pruna's algorithms that run on every device and need no training, and the combinations that it allows."""
    caches: list[dict[str, Any]] = [{}]
    if is_unet(problem):
        caches += [{"deepcache": {"interval": interval}} for interval in (2, 3, 5)]
    else:
        caches += [{"fora": {"interval": i, "start_step": first}} for i in (2, 3) for first in (2, 4)]
    some = [{**compiled, **cache} for compiled in ({"torch_compile": {}}, {}) for cache in caches]
    some += [] if is_unet(problem) else [{"pab": {"interval": 2}}, {"fastercache": {"interval": 2}}]
    some += [{"qkv_diffusers": {}}]
    return [{"name": "pruna", "algorithms": algorithms} for algorithms in some if algorithms]
