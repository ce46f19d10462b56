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
    "FlowMatchHeunDiscreteScheduler": {"name": "heun", "space": "flow"},
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
ON_DATA = {"set_alpha_to_one": True, "final_sigmas_type": "zero"}  # schedulers with these end on data, as recipes do
EXAMPLES: dict[str, dict[str, Any]] = WORKING | {
    "diffusers-magcache": WORKING["diffusers-magcache"] | {"ratios": [1.0, 1.1, 0.9, 1.0]},  # one a step
    "diffusers-pab": {"low": -1.0, "high": 1e6},  # noise levels of Cosmos go up to 80, which is shown as 80,000
    "diffusers-fastercache": {"attention_below": 1e6, "unconditional_below": 1e6},
}
_LEARNED = "the plain pipeline draws by a variance that the network has learned; solvers draw by the exact one"
_INVERTED = "begins at a picture that was inverted with the scheduler that the pipeline came with"
_SHIFTED = "given timesteps alone, the plain scheduler steps between other noise levels than it shows, and warns"
_GOES_ON = "the plain pipeline goes on from states as this scheduler shows them to the network"
_TAKEN_BACK = "the plain scheduler corrects a step from where that began, and takes back what was changed in between"
_ETA = "this scheduler of diffusers takes an eta and ignores it; a solver with eta makes what eta says"
DIFFERENT: dict[tuple[str, str], str] = {  # (pipelines, checks) -> why they differ from the plain pipeline
    ("LEdits*", "as *"): _INVERTED,
    ("*DiffEdit*", "as *"): _INVERTED,
    ("DiT*", "as Heun*"): _GOES_ON,
    ("CogVideoX*", "eta"): _ETA,
    ("StableCascadeCombinedPipeline", "guidance *"): "the tiny decoder makes the same of whatever the prior has made",
    ("SkyReelsV2*", "callback"): _TAKEN_BACK,
    ("WanAnimate*", "callback"): _TAKEN_BACK,
    ("LTXI2VLong*", "as FlowMatchHeun*"): _TAKEN_BACK,
    ("LTXConditionPipeline", "*"): _SHIFTED,
    **{
        (pipes, checks): _LEARNED
        for pipes in ("IF*", "KandinskyV22*")
        for checks in ("own*", "strength*", "callback*", "interrupt", "seeds")
    },
}
