"""What the checks of `every_pipeline` compare with, and which differences are known and meant."""

from __future__ import annotations

from typing import Any

from working import WORKING


def _dpm(config: Any) -> dict[str, Any]:
    return {
        "name": "dpm++", "order": config["solver_order"], "compat": config["solver_order"] == 3,
        "rule": {"midpoint": "midpoint", "heun": "exact"}[config["solver_type"]],
        "eta": 1.0 if config["algorithm_type"].startswith("sde") else 0.0,
        "lower_order_final": config["lower_order_final"],
    }  # fmt: skip


OWN: dict[str, Any] = {  # a scheduler class of diffusers -> the solver that does what it does
    "CogVideoXDDIMScheduler": "ddim",
    "DDIMScheduler": "ddim",
    "DDPMParallelScheduler": {"name": "ddim", "eta": 1.0},
    "DDPMScheduler": {"name": "ddim", "eta": 1.0},
    "DPMSolverMultistepScheduler": _dpm,
    "EDMDPMSolverMultistepScheduler": _dpm,
    "EDMEulerScheduler": "euler",
    "EulerAncestralDiscreteScheduler": "euler-ancestral",
    "EulerDiscreteScheduler": "euler",
    "FlowMatchEulerDiscreteScheduler": "euler",
    "FlowMatchHeunDiscreteScheduler": "heun",
    "HeunDiscreteScheduler": "heun",
    "PNDMScheduler": "pndm",
    "UniPCMultistepScheduler": lambda config: {"name": "unipc", "order": config["solver_order"]},
}
_TABLES = (
    "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler",
    "CogVideoXDDIMScheduler", "LCMScheduler",
)  # fmt: skip
_FLOWS = ("FlowMatchEulerDiscreteScheduler",)
SCHEDULERS: dict[str, dict[str, Any]] = {  # tried in place of the schedulers that pipelines come with
    "DDIMScheduler": {"instead_of": _TABLES, "config": {"clip_sample": False}},
    "DPMSolverMultistepScheduler": {"instead_of": _TABLES},
    "EulerDiscreteScheduler": {"instead_of": _TABLES},
    "HeunDiscreteScheduler": {"instead_of": _TABLES},
    "UniPCMultistepScheduler": {"instead_of": _TABLES, "config": {"final_sigmas_type": "zero"}},
    "FlowMatchHeunDiscreteScheduler": {"instead_of": _FLOWS},
}
EXAMPLES: dict[str, dict[str, Any]] = WORKING | {
    "diffusers-magcache": WORKING["diffusers-magcache"] | {"ratios": [1.0, 1.1, 0.9, 1.0]},  # one a step
}
DIFFERENT: dict[tuple[str, str], str] = {}  # (pipelines, checks) -> why they differ from the plain pipeline
