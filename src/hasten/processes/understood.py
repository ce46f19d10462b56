"""What is understood of the schedulers of diffusers: one row a class, and every field of its config.

Longer than 300 lines: a table of all that diffusers exports.

A field is honoured, or does not matter (and why), or only some of its values are understood. What is said in
`FIELDS` holds wherever a class has the field; a row says what is different in its class. `hasten.processes.configs`
reads configs by this table, `hasten.bridge` lays out runs by it, and the documentation prints it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Field:
    """What becomes of a field of a config.

    use: "honoured" or "irrelevant".
    why: what it decides, or why it does not matter.
    only: the values that are understood, where others are refused; () is any.
    otherwise: why others are refused.
    """

    use: str
    why: str
    only: tuple[Any, ...] = ()
    otherwise: str = ""


@dataclass(frozen=True)
class Row:
    """What is understood of a scheduler class.

    kind: which process its config describes: "table" (of betas), "flow", "edm", "cosine-edm",
        "consistency", "cosine" or "angular".
    fields: of its config, in diffusers' order.
    refused: why it is refused; "" where it is not.
    special: fields that mean something else here than in `FIELDS`.
    spacing: the rule by which its steps are placed, one of `hasten.bridge.spacing.RULES`.
    end: where its last step ends: "data", "min" (the smallest level), or the field that says so.
    returns: how many values its `step` returns as a tuple.
    keeps_noise: whether clipping its data prediction leaves the direction of re-noising (DDIM).
    least: what alpha^2 is where zero terminal SNR makes it 0.
    named: whether a solver must be named, since the default one is not made for its models.
    solvers: the only ones that its networks can be asked by; () is any.
    closes: whether its timesteps include the number of the end.
    in_levels: whether its states are data + level * noise, where a table of betas scales data down.
    """

    kind: str
    fields: tuple[str, ...]
    refused: str = ""
    special: Mapping[str, Field] = field(default_factory=dict)
    spacing: str = "table"
    end: str = "data"
    returns: int = 1
    keeps_noise: bool = False
    least: float = 0.0
    named: bool = False
    solvers: tuple[str, ...] = ()
    closes: bool = False
    in_levels: bool = False


def _honoured(why: str, *only: Any, otherwise: str = "") -> Field:
    return Field("honoured", why, only, otherwise)


def _irrelevant(why: str, *only: Any, otherwise: str = "") -> Field:
    return Field("irrelevant", why, only, otherwise)


_OWN = "how the scheduler's own steps are made; a solver of hasten stands in their place"
_PIPELINE = "the pipeline reads it to work out mu, which it hands over"
_UNUSED = "diffusers' own scheduler does not read it either"

FIELDS: dict[str, Field] = {
    "num_train_timesteps": _honoured("how many training steps there are, and the numbers that the network is shown"),
    "beta_start": _honoured("the table of betas"),
    "beta_end": _honoured("the table of betas"),
    "beta_schedule": _honoured("the table of betas"),
    "trained_betas": _honoured("the table of betas, in place of a rule"),
    "rescale_betas_zero_snr": _honoured("whether the table ends in pure noise"),
    "snr_shift_scale": _honoured("the table: by what its signal-to-noise ratios are divided"),
    "prediction_type": _honoured("what the network's answer means"),
    "clip_sample": _honoured("whether data predictions are clipped"),
    "clip_sample_range": _honoured("to what data predictions are clipped"),
    "clip_denoised": _honoured("whether data predictions are clipped to [-1, 1]"),
    "thresholding": _honoured("whether data predictions are thresholded (and then not clipped)"),
    "dynamic_thresholding_ratio": _honoured("the quantile of thresholding"),
    "sample_max_value": _honoured("the largest value that thresholding divides by"),
    "timestep_spacing": _honoured("which training steps are visited", "linspace", "leading", "trailing"),
    "steps_offset": _honoured("which training steps are visited"),
    "timestep_type": _honoured("whether a v-prediction network is shown log(sigma) / 4", "discrete", "continuous"),
    "interpolation_type": _honoured(
        "how noise levels are read off between training steps", "linear",
        otherwise="diffusers then shows the network times that are not those of its noise levels",
    ),
    "use_karras_sigmas": _honoured("where steps are placed"),
    "use_exponential_sigmas": _honoured("where steps are placed"),
    "use_beta_sigmas": _honoured("where steps are placed"),
    "use_lu_lambdas": _honoured("where steps are placed"),
    "sigma_min": _honoured("the lowest noise level"),
    "sigma_max": _honoured("the highest noise level"),
    "sigma_data": _honoured("the preconditioning of the network"),
    "sigma_schedule": _honoured("where steps are placed", "karras", "exponential"),
    "rho": _honoured("where steps are placed"),
    "set_alpha_to_one": _honoured("whether the last step ends on data"),
    "final_sigmas_type": _honoured("whether the last step ends on data", "zero", "sigma_min"),
    "lambda_min_clipped": _honoured("at which training step runs begin"),
    "use_flow_sigmas": _honoured("whether the process is a rectified flow"),
    "flow_shift": _honoured("the shift of the flow"),
    "shift": _honoured("the shift of the flow"),
    "use_dynamic_shifting": _honoured("whether the flow is shifted by the mu that the pipeline hands over"),
    "time_shift_type": _honoured("how mu shifts the flow", "exponential", "linear"),
    "shift_terminal": _honoured("the level that steps are stretched to reach"),
    "invert_sigmas": _honoured("whether noise levels are counted backwards, and the network answers data - noise"),
    "original_inference_steps": _honoured("which training steps may be visited"),
    "scaler": _honoured("the process: how its time is bent"),
    "s": _honoured("the process: its offset"),
    "scale_factors": _irrelevant(
        "of steps at growing resolutions", None, (), otherwise="states that grow on the way are not supported",
    ),
    "upscale_mode": _irrelevant("of steps at growing resolutions, which are refused"),
    "base_shift": _irrelevant(_PIPELINE),
    "max_shift": _irrelevant(_PIPELINE),
    "base_image_seq_len": _irrelevant(_PIPELINE),
    "max_image_seq_len": _irrelevant(_PIPELINE),
    "variance_type": _irrelevant(
        "how much noise the scheduler's own steps add; a variance in the network's answer is left out, as by its ODE"
    ),
    "timestep_scaling": _irrelevant("of LCM's own steps, which the solver 'lcm' has as its field"),
    **dict.fromkeys(
        ("solver_order", "predictor_order", "corrector_order", "algorithm_type", "solver_type", "lower_order_final",
         "euler_at_final", "predict_x0", "disable_corrector", "solver_p", "tau_func", "skip_prk_steps",
         "noise_sampler_seed", "stochastic_sampling", "eta", "s_noise", "s_churn", "s_min", "s_max"),
        _irrelevant(_OWN),
    ),
}  # fmt: skip

CLASHES: tuple[tuple[dict[str, Any], str], ...] = (
    *(({"use_flow_sigmas": True, placed: True},
       "diffusers then steps along levels above 1, where a flow has none; turn one of the two off")
      for placed in ("use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")),
    ({"use_flow_sigmas": True, "prediction_type": "v_prediction"},
     "a v-prediction is one of variance-preserving noise, which a flow has not"),
    ({"use_flow_sigmas": False, "prediction_type": "flow_prediction"},
     "a flow prediction needs use_flow_sigmas; with a table of betas it means nothing"),
)  # fmt: skip
"""Values that contradict each other, and why."""

_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
_SPACED = ("timestep_spacing", "steps_offset")
_CLIP = ("clip_sample", "clip_sample_range")
_THRESHOLD = ("thresholding", "dynamic_thresholding_ratio", "sample_max_value")
_PLACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
_FLOW = ("use_flow_sigmas", "flow_shift")
_DYNAMIC = ("use_dynamic_shifting", "time_shift_type")
_SHIFTED = (
    "num_train_timesteps", "shift", "use_dynamic_shifting", "base_shift", "max_shift", "base_image_seq_len",
    "max_image_seq_len", "invert_sigmas", "shift_terminal", *_PLACED, "time_shift_type",
)  # fmt: skip
_DPM = (*_BETAS, "solver_order", "prediction_type", *_THRESHOLD, "algorithm_type", "solver_type", "lower_order_final")
_DDIM = (*_BETAS, "clip_sample", "set_alpha_to_one", "steps_offset", "prediction_type")
_DDPM = (
    *_BETAS, "variance_type", "clip_sample", "prediction_type", *_THRESHOLD, "clip_sample_range", *_SPACED,
    "rescale_betas_zero_snr",
)  # fmt: skip
_COG = (*_DDIM, "clip_sample_range", "sample_max_value", "timestep_spacing", "rescale_betas_zero_snr",
        "snr_shift_scale")  # fmt: skip
_LCM = (
    *_BETAS, "original_inference_steps", *_CLIP, "set_alpha_to_one", "steps_offset", "prediction_type", *_THRESHOLD,
    "timestep_spacing", "timestep_scaling", "rescale_betas_zero_snr",
)  # fmt: skip
_EDM = ("sigma_min", "sigma_max", "sigma_data", "sigma_schedule", "num_train_timesteps", "prediction_type", "rho")

_ONLY_EPSILON_OR_V = {
    "num_train_timesteps": _irrelevant("a run's levels follow from its number of steps"),
    "prediction_type": _honoured("what the network's answer means", "epsilon", "v_prediction"),
}
_TABLE_ONLY = {
    "prediction_type": _honoured("what the network's answer means", "epsilon", "sample", "v_prediction"),
}
_DISTILLED = _TABLE_ONLY | {
    "set_alpha_to_one": _irrelevant("the last step ends at the same level whatever it says"),
    "steps_offset": _irrelevant(_UNUSED),
    "timestep_spacing": _irrelevant("steps are placed among the original_inference_steps"),
}
_UNREAD = _TABLE_ONLY | dict.fromkeys(("clip_sample", "clip_sample_range", "sample_max_value"), _irrelevant(_UNUSED))


def _refused(reason: str, *fields: str) -> Row:
    return Row("", fields, refused=reason)


_TOKENS = "it fills in tokens, and has no noise levels that a solver could step along"
_BACKWARDS = "it runs backwards, from data to noise; give the model's own scheduler, and use hasten.invert"

SCHEDULERS: dict[str, Row] = {
    "DDIMScheduler": Row(
        "table", (*_DDIM, *_THRESHOLD, "clip_sample_range", "timestep_spacing", "rescale_betas_zero_snr"),
        special=_TABLE_ONLY, end="set_alpha_to_one", returns=2, keeps_noise=True,
    ),
    "DDIMParallelScheduler": Row(
        "table", (*_DDIM, *_THRESHOLD, "clip_sample_range", "timestep_spacing", "rescale_betas_zero_snr"),
        special=_TABLE_ONLY, end="set_alpha_to_one", returns=2, keeps_noise=True,
    ),
    "DDPMScheduler": Row("table", _DDPM, special=_TABLE_ONLY, returns=2),
    "DDPMParallelScheduler": Row("table", _DDPM, special=_TABLE_ONLY, returns=2),
    "PNDMScheduler": Row(
        "table", (*_BETAS, "skip_prk_steps", "set_alpha_to_one", "prediction_type", *_SPACED),
        special=_TABLE_ONLY, end="set_alpha_to_one",
    ),
    "CogVideoXDDIMScheduler": Row("table", _COG, special=_UNREAD, end="set_alpha_to_one", returns=2),
    "CogVideoXDPMScheduler": Row("table", _COG, special=_UNREAD, end="set_alpha_to_one", returns=2),
    "LCMScheduler": Row("table", _LCM, special=_DISTILLED, spacing="distilled", returns=2, named=True),
    "TCDScheduler": Row(
        "table", _LCM, special=_DISTILLED | dict.fromkeys((*_CLIP, *_THRESHOLD), _irrelevant(_UNUSED)),
        spacing="distilled", end="min", returns=2, named=True,
    ),
    "UnCLIPScheduler": Row(
        "table", ("num_train_timesteps", "variance_type", *_CLIP, "prediction_type", "beta_schedule"),
        special={
            "prediction_type": _honoured("what the network's answer means", "epsilon", "sample"),
            "beta_schedule": _honoured("the table of betas", "squaredcos_cap_v2"),
        },
        spacing="both-ends", returns=2,
    ),
    "EulerDiscreteScheduler": Row(
        "table", (
            *_BETAS, "prediction_type", "interpolation_type", *_PLACED, "sigma_min", "sigma_max", "timestep_spacing",
            "timestep_type", "steps_offset", "rescale_betas_zero_snr", "final_sigmas_type",
        ),
        special=_TABLE_ONLY, spacing="unrounded", in_levels=True, end="final_sigmas_type", returns=2, least=2.0**-24,
    ),
    "EulerAncestralDiscreteScheduler": Row(
        "table", (*_BETAS, "prediction_type", *_SPACED, "rescale_betas_zero_snr"),
        special=_TABLE_ONLY, spacing="unrounded", in_levels=True, returns=2, least=2.0**-24,
    ),
    "LMSDiscreteScheduler": Row(
        "table", (*_BETAS, *_PLACED, "prediction_type", *_SPACED),
        special=_TABLE_ONLY, spacing="unrounded", in_levels=True, returns=2,
    ),
    "HeunDiscreteScheduler": Row(
        "table", (*_BETAS, "prediction_type", *_PLACED, *_CLIP, *_SPACED),
        special=_TABLE_ONLY, spacing="unrounded", in_levels=True, returns=2,
    ),
    "KDPM2DiscreteScheduler": Row(
        "table", (*_BETAS, *_PLACED, "prediction_type", *_SPACED),
        special=_TABLE_ONLY, spacing="unrounded", in_levels=True, returns=2,
    ),
    "KDPM2AncestralDiscreteScheduler": Row(
        "table", (*_BETAS, *_PLACED, "prediction_type", *_SPACED),
        special=_TABLE_ONLY, spacing="unrounded", in_levels=True, returns=2,
    ),
    "DPMSolverSDEScheduler": Row(
        "table", (*_BETAS, "prediction_type", *_PLACED, "noise_sampler_seed", *_SPACED),
        special=_TABLE_ONLY, spacing="unrounded", in_levels=True, returns=2,
    ),
    "DPMSolverMultistepScheduler": Row(
        "table", (
            *_DPM, "euler_at_final", *_PLACED, "use_lu_lambdas", *_FLOW, "final_sigmas_type", "lambda_min_clipped",
            "variance_type", *_SPACED, "rescale_betas_zero_snr", *_DYNAMIC,
        ),
        spacing="one-more", end="final_sigmas_type", least=2.0**-24,
    ),
    "DPMSolverSinglestepScheduler": Row(
        "table", (
            *_DPM, *_PLACED, *_FLOW, "final_sigmas_type", "lambda_min_clipped", "variance_type", *_DYNAMIC,
        ),
        spacing="one-more", end="final_sigmas_type",
    ),
    "UniPCMultistepScheduler": Row(
        "table", (
            *_BETAS, "solver_order", "prediction_type", *_THRESHOLD, "predict_x0", "solver_type", "lower_order_final",
            "disable_corrector", "solver_p", *_PLACED, *_FLOW, *_SPACED, "final_sigmas_type",
            "rescale_betas_zero_snr", *_DYNAMIC, "sigma_min", "sigma_max", "shift_terminal",
        ),
        spacing="one-more", end="final_sigmas_type", least=2.0**-24,
    ),
    "DEISMultistepScheduler": Row(
        "table", (*_DPM, *_PLACED, *_FLOW, *_SPACED, *_DYNAMIC), spacing="one-more", end="min",
    ),
    "SASolverScheduler": Row(
        "table", (
            *_BETAS, "predictor_order", "corrector_order", "prediction_type", "tau_func", *_THRESHOLD,
            "algorithm_type", "lower_order_final", *_PLACED, *_FLOW, "lambda_min_clipped", "variance_type", *_SPACED,
        ),
        spacing="one-more", end="min",
    ),
    "FlowMatchEulerDiscreteScheduler": Row(
        "flow", (*_SHIFTED, "stochastic_sampling"), spacing="flow", end="final_sigmas_type",
    ),
    "FlowMatchHeunDiscreteScheduler": Row("flow", ("num_train_timesteps", "shift"), spacing="flow"),
    "FlowMatchLCMScheduler": Row(
        "flow", (*_SHIFTED, "scale_factors", "upscale_mode"), spacing="flow", named=True,
    ),
    "LTXEulerAncestralRFScheduler": Row("flow", ("num_train_timesteps", "eta", "s_noise"), spacing="flow"),
    "FlowMapEulerDiscreteScheduler": Row(
        "flow", ("num_train_timesteps", "shift"), spacing="uniform-flow", named=True, solvers=("euler", "ddim"),
    ),
    "MiniMaxH3Scheduler": Row("flow", ("shift",), spacing="closed-flow"),
    "EDMEulerScheduler": Row(
        "edm", (*_EDM, "final_sigmas_type"), special=_ONLY_EPSILON_OR_V, spacing="edm", end="final_sigmas_type",
        returns=2,
    ),
    "EDMDPMSolverMultistepScheduler": Row(
        "edm", (
            *_EDM, "solver_order", *_THRESHOLD, "algorithm_type", "solver_type", "lower_order_final",
            "euler_at_final", "final_sigmas_type",
        ),
        special=_ONLY_EPSILON_OR_V, spacing="edm", end="final_sigmas_type",
    ),
    "CosineDPMSolverMultistepScheduler": Row(
        "cosine-edm", (
            "sigma_min", "sigma_max", "sigma_data", "sigma_schedule", "num_train_timesteps", "solver_order",
            "prediction_type", "rho", "solver_type", "lower_order_final", "euler_at_final", "final_sigmas_type",
        ),
        special=_ONLY_EPSILON_OR_V, spacing="edm", end="final_sigmas_type",
    ),
    "CMStochasticIterativeScheduler": Row(
        "consistency", ("num_train_timesteps", "sigma_min", "sigma_max", "sigma_data", "s_noise", "rho",
                        "clip_denoised"),
        spacing="consistency", named=True,
    ),
    "SCMScheduler": Row(
        "angular", ("num_train_timesteps", "prediction_type", "sigma_data"),
        special={
            "num_train_timesteps": _irrelevant("angles are no training steps"),
            "prediction_type": _honoured("what the network's answer means", "trigflow"),
            "sigma_data": _honoured("how much noise is added"),
        },
        spacing="angles", returns=2, named=True, closes=True,
    ),
    "IPNDMScheduler": Row(
        "angular", ("num_train_timesteps", "trained_betas"),
        special={
            "num_train_timesteps": _irrelevant("a run's levels follow from its number of steps"),
            "trained_betas": _honoured(
                "nothing where there are none", None, otherwise="they replace the levels of one number of steps only",
            ),
        },
        spacing="squared-sines", named=True,
    ),
    "DDPMWuerstchenScheduler": Row("cosine", ("scaler", "s"), spacing="ratios", named=True, closes=True),
    "DDIMInverseScheduler": _refused(
        _BACKWARDS, *_DDIM, "clip_sample_range", "timestep_spacing", "rescale_betas_zero_snr"
    ),
    "DPMSolverMultistepInverseScheduler": _refused(
        _BACKWARDS, *_DPM, "euler_at_final", *_PLACED, *_FLOW, "lambda_min_clipped", "variance_type", *_SPACED
    ),
    "RePaintScheduler": _refused(
        "it jumps back and forth and is handed the known picture in every step, which no solver can stand in for",
        *_BETAS, "eta", "clip_sample",
    ),
    "KarrasVeScheduler": _refused(
        "its pipeline steps along noise levels by itself; use an EDM pipeline with solver 'edm'",
        "sigma_min", "sigma_max", "s_noise", "s_churn", "s_min", "s_max",
    ),
    "ScoreSdeVeScheduler": _refused(
        "it corrects every step by Langevin steps that its pipeline makes by itself",
        "num_train_timesteps", "snr", "sigma_min", "sigma_max", "sampling_eps", "correct_steps",
    ),
    "PiflowScheduler": _refused(
        "its networks answer with a policy for a whole step rather than a prediction",
        "num_train_timesteps", "shift", "n_grid", "eps", "final_step_size_scale", "num_policy_substeps",
    ),
    "HeliosScheduler": _refused(
        "it steps through stages of growing resolution, with noise added between them",
        "num_train_timesteps", "shift", "stages", "stage_range", "gamma", "thresholding", "prediction_type",
        "solver_order", "predict_x0", "solver_type", "lower_order_final", "disable_corrector", "solver_p",
        "use_flow_sigmas", "scheduler_type", *_DYNAMIC,
    ),
    "HeliosDMDScheduler": _refused(
        "it steps through stages of growing resolution, with noise added between them",
        "num_train_timesteps", "shift", "stages", "stage_range", "gamma", "prediction_type", "use_flow_sigmas",
        *_DYNAMIC,
    ),
    "RFD4ProteinaScheduler": _refused(
        "it steps along a schedule of its own in atoms' coordinates, with a mask in every step",
        "schedule_mode", "noise_mode", "tsr_k", "tsr_sigma", "tail_steps", "tail_step_multiplier", "t_lim_ode",
        "t_lim_ode_below",
    ),
    "AmusedScheduler": _refused(_TOKENS, "mask_token_id", "masking_schedule"),
    "BlockRefinementScheduler": _refused(
        _TOKENS, "block_length", "num_inference_steps", "threshold", "editing_threshold", "minimal_topk"
    ),
    "DiscreteDDIMScheduler": _refused(
        _TOKENS, "num_inference_steps", "corrector_steps", "corrector_k", "corrector_selection",
        "corrector_selection_tau",
    ),
    "EntropyBoundScheduler": _refused(_TOKENS, "entropy_bound", "t_max", "t_min", "num_inference_steps"),
    "VQDiffusionScheduler": _refused(
        _TOKENS, "num_vec_classes", "num_train_timesteps", "alpha_cum_start", "alpha_cum_end", "gamma_cum_start",
        "gamma_cum_end",
    ),
}  # fmt: skip
"""Every scheduler class that diffusers exports."""
