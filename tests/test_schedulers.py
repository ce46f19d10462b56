"""Every scheduler class of diffusers and every field of its config: honoured, of no matter, or refused by name."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from tiny import is_refused
from torch import Tensor

from hasten.bridge import SolverScheduler
from hasten.core.errors import HastenError
from hasten.predictions import reading_of
from hasten.processes import RectifiedFlow, class_of, described, from_config
from hasten.processes.understood import FIELDS, SCHEDULERS

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (2, 4, 8, 8)
CLASSES = {
    name: getattr(diffusers, name)
    for name in dir(diffusers)
    if isinstance(getattr(diffusers, name), type)
    and issubclass(getattr(diffusers, name), diffusers.SchedulerMixin)
    and name != "SchedulerMixin"
}


def fields_of(cls: type) -> list[str]:
    parameters = [*inspect.signature(cls.__init__).parameters.values()][1:]  # type: ignore[misc]
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]


def noise(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def network(x: Tensor, t: Any) -> Tensor:
    """An answer that depends on the state, its neighbours and the number shown, whatever its range."""
    return 0.6 * torch.tanh(x + 0.2 * x.roll(1, -1)) + 0.2 * np.sin(float(t) / 150) + 0.2 * np.tanh(float(t) / 2)


def driven(scheduler: Any, steps: int, net: Any = network, laid: dict[str, Any] | None = None, **extra: Any) -> Any:
    """The loop of a pipeline: what the network is shown, with which number, and the result."""
    scheduler.set_timesteps(steps, **(laid or {}))
    x = noise() * float(getattr(scheduler, "init_noise_sigma", 1.0))
    if "generator" in inspect.signature(scheduler.step).parameters:
        extra["generator"] = torch.Generator().manual_seed(5)
    seen: list[Tensor] = []
    numbers: list[float] = []
    for t in scheduler.timesteps:
        shown = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        seen.append(shown)
        numbers.append(float(t))
        x = scheduler.step(net(shown, t), t, x, return_dict=False, **extra)[0]
    return seen, numbers, x


def equal(theirs: Any, solver: Any, steps: int = 8, tolerance: float = 2e-4, net: Any = network, **more: Any) -> None:
    """hasten's scheduler shows the same states with the same numbers, and ends the same."""
    ours = SolverScheduler.of(theirs, solver=solver)
    laid = more.pop("laid", {})
    wanted, got = driven(theirs, steps, net, laid, **more), driven(ours, steps, net, laid)
    np.testing.assert_allclose(got[1], wanted[1], rtol=2e-4, atol=2e-3 if tolerance < 1e-3 else 0.1)
    for mine, other in zip([*got[0], got[2]], [*wanted[0], wanted[2]]):
        assert float((mine - other).norm() / other.norm()) < tolerance


def test_the_table_has_every_scheduler_and_no_other() -> None:
    assert set(SCHEDULERS) == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_the_table_has_every_field_and_no_other(name: str) -> None:
    row = SCHEDULERS[name]
    assert set(row.fields) == set(fields_of(CLASSES[name]))
    assert set(row.special) <= set(row.fields)
    if not row.refused:
        rules = {field: row.special.get(field) or FIELDS[field] for field in row.fields}
        assert all(rule.use in ("honoured", "irrelevant") and rule.why for rule in rules.values())


@pytest.mark.parametrize("name", [name for name, row in SCHEDULERS.items() if row.refused])
def test_what_is_refused_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(HastenError, match=name) as caught:
        from_config({"_class_name": name})
    assert SCHEDULERS[name].refused in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(HastenError, match=name):
        SolverScheduler.from_config({"_class_name": name}, solver="ddim")


SUPPORTED = [name for name, row in SCHEDULERS.items() if not row.refused]


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_class_is_known_by_its_fields(name: str) -> None:
    """Schedulers made in code do not keep the name of their class; those with the same fields describe the same."""
    made = CLASSES[name]()
    assert "_class_name" not in made.config
    told = SCHEDULERS[class_of(made.config)]  # type: ignore[index]
    assert set(told.fields) == set(SCHEDULERS[name].fields)
    process, named = from_config(made.config), from_config(described(made))
    assert type(process) is type(named)
    at = process.t_max * 0.7
    np.testing.assert_allclose([process.alpha(at), process.sigma(at)], [named.alpha(at), named.sigma(at)])
    assert reading_of(process, made.config).kind == reading_of(named, described(made)).kind


@pytest.mark.parametrize("name", [name for name in SUPPORTED if name != "CogVideoXDPMScheduler"])
def test_step_returns_as_many_values_as_the_original(name: str) -> None:
    theirs, solver = CLASSES[name](), "euler" if SCHEDULERS[name].solvers else "ddim"
    ours = SolverScheduler.of(theirs, solver=solver)
    counts = []
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(5, **({"intermediate_timesteps": None} if name == "SCMScheduler" else {}))
        x, t = noise(), scheduler.timesteps[0]
        if name == "DDPMWuerstchenScheduler":
            t = t.expand(2)
        counts.append(len(scheduler.step(network(x, 0.5), t, x, return_dict=False)))
    assert counts[1] == counts[0]


def dpm(**fields: Any) -> Any:
    return diffusers.DPMSolverMultistepScheduler(**{**SD, "solver_order": 1, **fields})


def euler(**fields: Any) -> Any:
    return diffusers.EulerDiscreteScheduler(**{**SD, **fields})


def unipc(**fields: Any) -> Any:
    return diffusers.UniPCMultistepScheduler(**{**SD, **fields})


def ddim(**fields: Any) -> Any:
    return diffusers.DDIMScheduler(**{**SD, "clip_sample": False, **fields})


def flow(**fields: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**fields)


ONE = {"name": "dpm++", "order": 1}
CM = diffusers.CMStochasticIterativeScheduler
SVD = {
    "prediction_type": "v_prediction", "timestep_type": "continuous", "timestep_spacing": "leading", "steps_offset": 1,
}  # fmt: skip
EQUAL: dict[str, tuple[Any, Any]] = {
    **{f"ddim beta_schedule {kind}": (ddim(beta_schedule=kind), "ddim") for kind in ("linear", "squaredcos_cap_v2")},
    "ddim table": (ddim(beta_start=0.001, beta_end=0.02, num_train_timesteps=400), "ddim"),
    "ddim trained_betas": (ddim(trained_betas=np.linspace(0.001, 0.02, 1000).tolist()), "ddim"),
    "ddim prediction_type": (ddim(prediction_type="sample"), "ddim"),
    "ddim steps_offset": (ddim(steps_offset=1), "ddim"),
    "ddim timestep_spacing": (ddim(timestep_spacing="trailing"), "ddim"),
    "ddim set_alpha_to_one": (ddim(set_alpha_to_one=False, steps_offset=1), "ddim"),
    "ddim clip_sample": (ddim(clip_sample=True), "ddim"),
    "ddim clip_sample_range": (ddim(clip_sample=True, clip_sample_range=0.4), "ddim"),
    "ddim thresholding": (
        ddim(thresholding=True, dynamic_thresholding_ratio=0.8, sample_max_value=2.0, clip_sample=True), "ddim",
    ),
    "ddim zero snr": (
        ddim(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"), "ddim",
    ),
    "cogvideox snr_shift_scale": (
        diffusers.CogVideoXDDIMScheduler(snr_shift_scale=2.0, clip_sample=True, prediction_type="v_prediction"), "ddim",
    ),
    "cogvideox zero snr": (
        diffusers.CogVideoXDDIMScheduler(
            rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction",
        ), "ddim",
    ),
    "euler linspace is not rounded": (euler(), "euler"),
    "euler final_sigmas_type": (euler(final_sigmas_type="sigma_min", timestep_spacing="trailing"), "euler"),
    "euler final_sigmas_type at rest": (euler(final_sigmas_type="sigma_min"), "euler"),
    "euler zero snr epsilon": (euler(rescale_betas_zero_snr=True, timestep_spacing="trailing"), "euler"),
    "euler zero snr v": (
        euler(rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction"), "euler",
    ),
    **{f"euler {kind}": (euler(**{kind: True}), "euler") for kind in
       ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")},
    "euler leading karras": (euler(use_karras_sigmas=True, timestep_spacing="leading"), "euler"),
    "euler sigma range": (euler(use_karras_sigmas=True, sigma_min=0.1, sigma_max=10.0), "euler"),
    "euler sigma range exponential": (euler(use_exponential_sigmas=True, sigma_min=0.05, sigma_max=9.0), "euler"),
    "euler sigma_min below the table": (euler(use_karras_sigmas=True, sigma_min=0.01), "euler"),
    "euler continuous": (euler(use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0, **SVD), "euler"),
    "euler continuous table": (euler(**SVD), "euler"),
    "euler continuous epsilon": (euler(timestep_type="continuous"), "euler"),
    "heun clip_sample": (
        diffusers.HeunDiscreteScheduler(**SD, clip_sample=True, clip_sample_range=0.5, timestep_spacing="trailing"),
        "heun",
    ),
    "heun karras": (diffusers.HeunDiscreteScheduler(**SD, use_karras_sigmas=True), "heun"),
    "dpm final_sigmas_type": (dpm(final_sigmas_type="sigma_min"), ONE),
    "dpm lambda_min_clipped": (dpm(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1), ONE),
    "dpm lambda_min_clipped leading": (
        dpm(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-3.0, timestep_spacing="leading"), ONE,
    ),
    "dpm lambda_min_clipped trailing": (
        dpm(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-2.0, timestep_spacing="trailing"), ONE,
    ),
    "dpm thresholding": (
        dpm(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=1.5, solver_order=2), "dpm++",
    ),
    "dpm zero snr epsilon": (dpm(rescale_betas_zero_snr=True, timestep_spacing="trailing"), ONE),
    "deis ends before the data": (
        diffusers.DEISMultistepScheduler(**SD, solver_order=1), {"name": "deis", "order": 1},
    ),
    "edm sigma range": (diffusers.EDMEulerScheduler(sigma_min=0.01, sigma_max=30.0, rho=5.0), "euler"),
    "edm sigma_data": (diffusers.EDMEulerScheduler(sigma_data=1.0, sigma_schedule="exponential"), "euler"),
    "edm prediction_type": (diffusers.EDMEulerScheduler(prediction_type="v_prediction"), "euler"),
    "edm final_sigmas_type": (diffusers.EDMEulerScheduler(final_sigmas_type="sigma_min"), "euler"),
    "edm dpm thresholding": (diffusers.EDMDPMSolverMultistepScheduler(thresholding=True), "dpm++"),
    "flow shift": (flow(shift=3.0), "euler"),
    "flow shift_terminal": (flow(shift=2.0, shift_terminal=0.1), "euler"),
    "flow scale": (flow(num_train_timesteps=500), "euler"),
    "flow invert_sigmas": (flow(invert_sigmas=True, shift=2.0), "euler"),
    **{f"flow {kind}": (flow(**{kind: True}), "euler") for kind in
       ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")},
    "flow heun": (diffusers.FlowMatchHeunDiscreteScheduler(shift=2.0), "heun"),
    "flow map": (diffusers.FlowMapEulerDiscreteScheduler(shift=2.0), "euler"),
    "minimax": (diffusers.MiniMaxH3Scheduler(shift=3.0), "euler"),
    "ltx ancestral without noise": (diffusers.LTXEulerAncestralRFScheduler(eta=0.0), "euler"),
}  # fmt: skip


@pytest.mark.parametrize("steps", [8, 40])
@pytest.mark.parametrize("name", EQUAL)
def test_honoured_fields_equal_diffusers(name: str, steps: int) -> None:
    theirs, solver = EQUAL[name]
    levels = any(theirs.config.get(kind) for kind in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"))
    # of levels between two training steps, the two read off slightly different times
    equal(theirs, solver, steps, 1e-2 if levels and "beta_start" in theirs.config else 2e-4)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_mu_shifts_as_the_config_says(kind: str) -> None:
    equal(flow(use_dynamic_shifting=True, time_shift_type=kind), "euler", laid={"mu": 0.7})


@pytest.mark.parametrize("fields", [
    {}, {"use_karras_sigmas": True, "sigma_min": 0.01, "sigma_max": 200.0}, {"flow_shift": 3.0},
    {"use_karras_sigmas": True}, {"prediction_type": "sample"}, {"shift_terminal": 0.2},
    {"final_sigmas_type": "sigma_min"},
], ids=str)  # fmt: skip
def test_flow_sigmas_of_unipc(fields: dict[str, Any]) -> None:
    """diffusers shows the numbers rounded down, and moves the first level by 1e-6."""
    theirs = unipc(**{"prediction_type": "flow_prediction", "use_flow_sigmas": True, "solver_order": 1} | fields)
    ours = SolverScheduler.of(theirs, solver="ddim")
    theirs.set_timesteps(6)
    ours.set_timesteps(6)
    np.testing.assert_allclose(ours.sigmas, theirs.sigmas, rtol=1e-4, atol=2e-6)
    assert np.abs(ours.timesteps.double() - theirs.timesteps.double()).max() <= 1.0
    assert isinstance(ours.process, RectifiedFlow)


def test_stable_audio() -> None:
    """Its own steps are stochastic: what the network is shown, and what its answer means."""
    theirs = diffusers.CosineDPMSolverMultistepScheduler()
    ours = SolverScheduler.of(theirs, solver="dpm++")
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(9)
    np.testing.assert_allclose(ours.timesteps, theirs.timesteps, rtol=1e-5)
    np.testing.assert_allclose(ours.sigmas, theirs.sigmas, rtol=1e-5)
    x, t = noise() * 500, theirs.timesteps[0]
    shown = theirs.scale_model_input(x, t)
    torch.testing.assert_close(ours.scale_model_input(x, ours.timesteps[0]), shown)
    data = ours.step(network(shown, t), ours.timesteps[0], x).pred_original_sample
    torch.testing.assert_close(data, theirs.precondition_outputs(x, network(shown, t), theirs.sigmas[0]))


def test_dance_diffusion_ipndm() -> None:
    """Its first step is Euler's, but for alpha = 0, where it takes all data to be 0; the levels and numbers of all."""
    theirs = diffusers.IPNDMScheduler()
    ours = SolverScheduler.of(theirs, solver="euler")
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(7)
    np.testing.assert_allclose(ours.timesteps, theirs.timesteps, rtol=1e-5)
    np.testing.assert_allclose([s for _, s in ours._layout.levels], theirs.betas[:-1], rtol=1e-5)  # type: ignore[union-attr]
    for scheduler in (theirs, ours):
        scheduler.set_begin_index(1)
    x = noise()
    steps = [s.step(network(x, s.timesteps[1]), s.timesteps[1], x).prev_sample for s in (theirs, ours)]
    torch.testing.assert_close(steps[1], steps[0], rtol=1e-4, atol=1e-4)


def test_wuerstchen() -> None:
    """Its own steps are ancestral sampling, which DDIM with eta 1 is."""
    theirs = diffusers.DDPMWuerstchenScheduler(scaler=2.0)
    ours = SolverScheduler.of(theirs, solver={"name": "ddim", "eta": 1.0})
    x = noise()
    results = []
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(6)
        assert len(scheduler.timesteps) == 7 and scheduler.timesteps[-1] == 0  # pipelines leave the last one out
        state, generator = x, torch.Generator().manual_seed(3)
        for t in scheduler.timesteps[:-1]:
            state = scheduler.step(network(state, 400 * t), t.expand(2), state, generator=generator).prev_sample
        results.append(state)
    assert float((results[1] - results[0]).norm() / results[0].norm()) < 5e-3  # whose alpha^2 ends at 0.9999


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_trigflow_levels_and_answers(steps: int) -> None:
    theirs = diffusers.SCMScheduler()
    ours = SolverScheduler.of(theirs, solver="ddim")
    asked = {"max_timesteps": 1.5708, "intermediate_timesteps": 1.3 if steps == 2 else None}
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(steps, **asked)
    np.testing.assert_allclose(ours.timesteps, theirs.timesteps, atol=1e-5)
    x = noise() * 0.5
    data = [s.step(network(x, 1.0), s.timesteps[0], x, return_dict=False)[1] for s in (theirs, ours)]
    torch.testing.assert_close(data[1], data[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("asked", [{"num_inference_steps": 4}, {"timesteps": [22, 0]}], ids=str)
def test_consistency_levels_and_answers(asked: dict[str, Any]) -> None:
    theirs = CM(clip_denoised=True)
    ours = SolverScheduler.of(theirs, solver="ddim")
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(**asked)
    np.testing.assert_allclose(ours.timesteps, theirs.timesteps, rtol=1e-4)
    x, t = noise() * 80, theirs.timesteps[0]
    torch.testing.assert_close(ours.scale_model_input(x, ours.timesteps[0]), theirs.scale_model_input(x, t))
    theirs.sigmas[1] = theirs.config.sigma_min  # no noise after the step: its data prediction
    wanted = theirs.step(network(x, t), t, x).prev_sample
    torch.testing.assert_close(ours.step(network(x, t), ours.timesteps[0], x).pred_original_sample, wanted)


@pytest.mark.parametrize("cls", [diffusers.LCMScheduler, diffusers.TCDScheduler])
@pytest.mark.parametrize("asked", [{}, {"original_inference_steps": 40}, {"strength": 0.6}], ids=str)
def test_distilled_steps(cls: Any, asked: dict[str, Any]) -> None:
    theirs = cls()
    ours = SolverScheduler.of(theirs, solver="ddim")
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(4, **asked)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()


@pytest.mark.parametrize("steps", [2, 6, 25])
def test_unclip_steps(steps: int) -> None:
    theirs = diffusers.UnCLIPScheduler()
    ours = SolverScheduler.of(theirs, solver={"name": "ddim", "eta": 1.0})
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(steps)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()


REFUSED: dict[str, tuple[Any, str]] = {
    "default solver on LCM": (lambda: SolverScheduler.of(diffusers.LCMScheduler()), "solver: None.*LCMScheduler"),
    "solver on flow maps": (
        lambda: SolverScheduler.of(diffusers.FlowMapEulerDiscreteScheduler(), solver="dpm++"), "whole step.*euler",
    ),
    "epsilon at pure noise": (
        lambda: SolverScheduler.of(ddim(rescale_betas_zero_snr=True)), "rescale_betas_zero_snr.*epsilon",
    ),
    "epsilon in a flow": (
        lambda: SolverScheduler.of(
            unipc(use_flow_sigmas=True, prediction_type="epsilon")
        ).set_timesteps(4), "prediction_type: 'epsilon'.*pure noise",
    ),
    "v in a flow": (
        lambda: from_config(described(dpm(use_flow_sigmas=True, prediction_type="v_prediction"))), "prediction_type",
    ),
    "flow without a flow": (lambda: from_config(described(dpm(prediction_type="flow_prediction"))), "use_flow_sigmas"),
    "levels above 1": (
        lambda: from_config(described(dpm(use_flow_sigmas=True, use_karras_sigmas=True))), "use_karras_sigmas",
    ),
    "log_linear": (lambda: from_config(described(euler(interpolation_type="log_linear"))), "interpolation_type"),
    "beyond the table": (
        lambda: from_config(described(euler(use_karras_sigmas=True, sigma_max=700.0))), "sigma_max: 700.*timestep_type",
    ),
    "growing states": (
        lambda: from_config(described(diffusers.FlowMatchLCMScheduler(scale_factors=[1.0, 2.0]))), "scale_factors",
    ),
    "tables of IPNDM": (
        lambda: from_config(described(diffusers.IPNDMScheduler(4, [0.9, 0.6, 0.3, 0.1, 0.0]))), "trained_betas",
    ),
    "somebody's own, with fields": (
        lambda: from_config({"_class_name": "MyScheduler", "temperature": 3}), "MyScheduler.*'temperature'",
    ),
    "somebody's own, without": (lambda: from_config({"_class_name": "MyScheduler"}), "MyScheduler.*do not tell"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_are_refused_by_name(name: str) -> None:
    is_refused(*REFUSED[name])


def test_somebodys_own_whose_fields_tell() -> None:
    mine = {"_class_name": "MyScheduler", **SD, "prediction_type": "v_prediction"}
    assert reading_of(from_config(mine), mine).kind == "v_prediction"


def test_fields_of_other_classes_are_not_read() -> None:
    """A config keeps what it was converted from; Euler does not clip, and its table is its own."""
    kept = diffusers.EulerDiscreteScheduler.from_config(diffusers.DDIMScheduler(**SD, clip_sample=True).config)
    assert kept.config["clip_sample"]
    ours = SolverScheduler.of(kept, solver="euler")
    assert ours._reading.limit is None
    assert SolverScheduler.of(ours, solver="ddim").config["origin"] == "EulerDiscreteScheduler"


def test_a_table_of_laplace_levels() -> None:
    theirs = diffusers.DDPMScheduler(beta_schedule="laplace", prediction_type="v_prediction")
    table = from_config(described(theirs)).alphas_cumprod  # type: ignore[attr-defined]
    np.testing.assert_allclose(table, theirs.alphas_cumprod, rtol=2e-3, atol=1e-6)


def test_the_documentation_prints_the_table(monkeypatch: Any) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "docs"))
    page = importlib.import_module("schedulers").page()
    assert all(f"| `{name}` |" in page for name in (*SCHEDULERS, *FIELDS))
    assert all(row.refused in page for row in SCHEDULERS.values())
