"""The schedulers that pipelines ship with, by class."""

from __future__ import annotations

from typing import Any

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def ddim() -> Any:
    """As Stable Diffusion has it."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(**SCHEDULERS["DDIMScheduler"])


SCHEDULERS: dict[str, Any] = {
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
    "PNDMScheduler": STABLE_DIFFUSION | {"steps_offset": 1, "skip_prk_steps": True},
    "DDIMScheduler": STABLE_DIFFUSION | {"steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False},
    "EulerDiscreteScheduler": STABLE_DIFFUSION | {"steps_offset": 1, "timestep_spacing": "leading"},
    "DPMSolverMultistepScheduler": {},
    "DDPMScheduler": {},
    "UniPCMultistepScheduler": {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0},
    "DDIMInverseScheduler": STABLE_DIFFUSION | {"steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False},
    "AmusedScheduler": {"mask_token_id": 31},
    "UnCLIPScheduler": {"num_train_timesteps": 1000, "variance_type": "fixed_small_log", "clip_sample_range": 5.0},
    "KarrasDiffusionSchedulers": ddim,  # any will do
    "LCMScheduler": STABLE_DIFFUSION | {"original_inference_steps": 50},
}
