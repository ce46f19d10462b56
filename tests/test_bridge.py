"""SolverScheduler against diffusers' own schedulers and against `sample`, in and outside of pipelines."""

from __future__ import annotations

import copy
import functools
import inspect
import json
from typing import Any

import diffusers
import numpy as np
import pipelines
import pytest
import torch
from tiny import is_refused
from torch import Tensor

import hasten
from hasten.bridge import SolverScheduler, generators
from hasten.core.errors import HastenError
from hasten.denoisers import Denoiser
from hasten.grids import Explicit, Karras
from hasten.predictions import Prediction
from hasten.processes import RectifiedFlow
from hasten.sampling import sample, seeded_noise
from hasten.solvers import DDIM, USF, DCSolver, DPMSolverPP, DPMSolverV3, HeavyBall, Heun

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (2, 3, 4, 4)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(x: Tensor, number: Any) -> Tensor:
    """A nonlinear answer that depends on the state, its neighbours and the number shown."""
    return torch.tanh(0.7 * x + 0.002 * float(number)) + 0.3 * torch.sin(2 * x.roll(1, -1))


def blind(x: Tensor, number: Any) -> Tensor:
    """The same without the number, for schedulers that round what they show the network."""
    return network(x, 400)


def drive(scheduler: Any, x: Tensor, net: Any = network, seed: int = 0, **extra: Any) -> Tensor:
    """The loop of a pipeline, from unit noise of a variance-preserving or flow process."""
    generator = torch.Generator().manual_seed(seed)
    theirs = isinstance(scheduler, diffusers.EulerDiscreteScheduler | diffusers.HeunDiscreteScheduler)
    if theirs or (isinstance(scheduler, SolverScheduler) and scheduler._row.in_levels):
        x = x * (scheduler.sigmas[0] ** 2 + 1) ** 0.5  # they carry x / alpha
    if isinstance(scheduler, diffusers.EDMEulerScheduler | diffusers.EDMDPMSolverMultistepScheduler):
        x = x * scheduler.init_noise_sigma
    if "generator" in inspect.signature(scheduler.step).parameters:
        extra["generator"] = generator
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(net(seen, t), t, x, return_dict=False, **extra)[0]
    return x


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> None:
    error = float((a.double() - b.double()).norm() / b.double().norm())
    assert error < tolerance, error


def dpm(**fields: Any) -> Any:
    return diffusers.DPMSolverMultistepScheduler(**SD, **fields)


def unipc(**fields: Any) -> Any:
    return diffusers.UniPCMultistepScheduler(**SD, **fields)


def ddim(**fields: Any) -> Any:
    return diffusers.DDIMScheduler(**SD | {"clip_sample": False} | fields)


ZERO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}

# name -> (diffusers scheduler, our solver, what diffusers' step takes besides)
PARITY: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "ddim leading": (ddim(), "ddim", {}),
    "ddim offset": (ddim(steps_offset=1), "ddim", {}),
    "ddim trailing": (ddim(timestep_spacing="trailing"), "ddim", {}),
    "ddim eta 1": (ddim(), {"name": "ddim", "eta": 1.0}, {"eta": 1.0}),
    "ddim v": (ddim(prediction_type="v_prediction"), "ddim", {}),
    "ddim sample": (ddim(prediction_type="sample"), "ddim", {}),
    "ddim zero terminal snr": (ddim(**ZERO_SNR), "ddim", {}),
    "ddim linear betas": (diffusers.DDIMScheduler(clip_sample=False), "ddim", {}),
    "ddim cosine": (ddim(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"), "ddim", {}),
    "euler leading": (diffusers.EulerDiscreteScheduler(**SD, timestep_spacing="leading", steps_offset=1), "euler", {}),
    "euler trailing": (diffusers.EulerDiscreteScheduler(**SD, timestep_spacing="trailing"), "euler", {}),
    "euler v": (
        diffusers.EulerDiscreteScheduler(**SD, timestep_spacing="trailing", prediction_type="v_prediction"),
        "euler", {},
    ),
    "heun": (diffusers.HeunDiscreteScheduler(**SD, timestep_spacing="trailing"), "heun", {}),
    "dpm 1": (dpm(solver_order=1), {"name": "dpm++", "order": 1}, {}),
    "dpm 2 midpoint": (dpm(), "dpm++", {}),
    "dpm 2 heun": (dpm(solver_type="heun"), {"name": "dpm++", "rule": "exact"}, {}),
    "dpm 3": (dpm(solver_order=3), {"name": "dpm++", "order": 3, "compat": True}, {}),
    "dpm leading": (dpm(timestep_spacing="leading", steps_offset=1), "dpm++", {}),
    "dpm trailing": (dpm(timestep_spacing="trailing"), "dpm++", {}),
    "dpm v": (dpm(prediction_type="v_prediction"), "dpm++", {}),
    "dpm sample": (dpm(prediction_type="sample"), "dpm++", {}),
    "dpm sde 1": (dpm(algorithm_type="sde-dpmsolver++", solver_order=1), {"name": "dpm++", "order": 1, "eta": 1.0}, {}),
    "dpm sde 2": (dpm(algorithm_type="sde-dpmsolver++"), {"name": "dpm++", "eta": 1.0}, {}),
    **{
        f"unipc {order}": (
            unipc(solver_order=order, final_sigmas_type="zero"), {"name": "unipc", "order": order}, {},
        )
        for order in (1, 2, 3)
    },
    "flow euler": (diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), "euler", {}),
    "flow euler is ddim": (diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), "ddim", {}),
    "flow heun": (diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0), "heun", {}),
    "flow terminal": (diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0, shift_terminal=0.1), "euler", {}),
    "flow karras": (diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True), "euler", {}),
    "flow exponential": (diffusers.FlowMatchEulerDiscreteScheduler(use_exponential_sigmas=True), "euler", {}),
    "flow beta": (diffusers.FlowMatchEulerDiscreteScheduler(use_beta_sigmas=True), "euler", {}),
    "edm euler": (diffusers.EDMEulerScheduler(), "euler", {}),
    "edm v": (diffusers.EDMEulerScheduler(prediction_type="v_prediction"), "euler", {}),
    "edm dpm": (diffusers.EDMDPMSolverMultistepScheduler(), "dpm++", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", PARITY)
def test_equals_diffusers(name: str) -> None:
    theirs, solver, extra = PARITY[name]
    ours = SolverScheduler.from_config(theirs.config, solver=solver)
    theirs.set_timesteps(10)
    ours.set_timesteps(10)
    shown = theirs.timesteps.double()
    close(ours.timesteps.double(), shown, 1e-6)
    start = noise() * (float(ours.init_noise_sigma) if "edm" in name else 1.0)
    close(drive(ours, start), drive(theirs, noise(), **extra))


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("fields", "ours_too"), [
    ({"solver_type": "bh1"}, {"variant": "bh1"}),
    ({"solver_type": "bh2"}, {}),
    ({"predict_x0": False}, {"expand": "noise"}),
    ({"predict_x0": False, "solver_type": "bh1"}, {"expand": "noise", "variant": "bh1"}),
    ({"disable_corrector": list(range(10))}, {"corrector": False}),
], ids=str)  # fmt: skip
def test_unipc_equals_diffusers(fields: dict[str, Any], ours_too: dict[str, Any], order: int) -> None:
    """Ending before the data, since diffusers' bh1 and noise forms give NaN at sigma = 0."""
    theirs = unipc(solver_order=order, final_sigmas_type="sigma_min", timestep_spacing="trailing", **fields)
    solver = {"name": "unipc", "order": order, **ours_too}
    ours = SolverScheduler.from_config(theirs.config, solver=solver, end="min")
    theirs.set_timesteps(10)
    ours.set_timesteps(timesteps=theirs.timesteps)
    np.testing.assert_allclose(ours.sigmas, theirs.sigmas, rtol=1e-4)  # theirs are float32 all through
    close(drive(ours, noise()), drive(theirs, noise()))


def test_zero_terminal_snr_starts_at_pure_noise() -> None:
    ours = SolverScheduler.from_config(PARITY["ddim zero terminal snr"][0].config)
    ours.set_timesteps(5)
    assert ours.process.alpha(ours.process.t_max) == 0
    assert torch.isfinite(drive(ours, noise())).all()


def test_the_papers_third_order_is_not_the_one_in_common_use() -> None:
    theirs = dpm(solver_order=3, solver_type="heun")
    ours = SolverScheduler.from_config(theirs.config, solver={"name": "dpm++", "order": 3, "rule": "exact"})
    theirs.set_timesteps(10)
    ours.set_timesteps(10)
    expected = drive(theirs, noise())
    assert (drive(ours, noise()) - expected).norm() > 1e-4 * expected.norm()


def test_singlestep_equals_diffusers() -> None:
    """diffusers spends two of its steps on one of ours, so its odd nodes must be our inner ones: uniform in lam."""
    theirs = diffusers.DPMSolverSinglestepScheduler(
        **SD, solver_order=2, use_exponential_sigmas=True, final_sigmas_type="zero", lower_order_final=True
    )
    theirs.set_timesteps(7)
    ours = SolverScheduler.from_config(theirs.config, solver={"name": "dpm++", "method": "singlestep"})
    ours.set_timesteps(sigmas=theirs.sigmas[:-1:2].tolist())
    assert len(ours.timesteps) == 7 and ours.order == 2
    np.testing.assert_allclose(ours.sigmas, theirs.sigmas, rtol=1e-5)
    close(drive(ours, noise(), blind), drive(theirs, noise(), blind))


@pytest.mark.parametrize(("make", "solver"), [(dpm, "dpm++"), (unipc, "unipc")])
def test_flow_sigmas_of_table_schedulers(make: Any, solver: str) -> None:
    """diffusers rounds the numbers it shows down to whole ones, so the network here does not look at them."""
    theirs = make(use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction", final_sigmas_type="zero")
    ours = SolverScheduler.from_config(theirs.config, solver=solver)
    theirs.set_timesteps(8)
    ours.set_timesteps(8)
    np.testing.assert_allclose(ours.sigmas, theirs.sigmas, rtol=1e-5)
    if make is unipc:  # keeps alpha = 0 out by moving the first level by 1e-6, so compare away from there
        for scheduler in (theirs, ours):
            scheduler.set_timesteps(8, sigmas=np.linspace(0.95, 0.1, 8))
    close(drive(ours, noise(), blind), drive(theirs, noise(), blind))


@pytest.mark.parametrize("kind", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
def test_respaced_tables(kind: str) -> None:
    """diffusers moves Karras steps to whole numbers for the network only; the noise levels are what counts."""
    theirs = dpm(**{kind: True})
    ours = SolverScheduler.from_config(theirs.config)
    theirs.set_timesteps(8)
    ours.set_timesteps(8)
    np.testing.assert_allclose(ours.sigmas[:-1], theirs.sigmas[:-1], rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 4, 7, 20, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("make", [ddim, dpm, unipc])
def test_shipped_spacing(make: Any, spacing: str, steps: int) -> None:
    if make is ddim and spacing == "linspace" and steps == 1:
        pytest.skip("diffusers shows step 0, clean data, when DDIM makes one linspace step")
    theirs = make(timestep_spacing=spacing, steps_offset=0 if spacing == "linspace" else 1)
    ours = SolverScheduler.from_config(theirs.config)
    theirs.set_timesteps(steps)
    ours.set_timesteps(steps)
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    assert ours.timesteps.dtype == torch.int64


# --- in pipelines


def with_solver(pipe: Any, solver: Any, **fields: Any) -> Any:
    pipe.scheduler = SolverScheduler.from_config(pipe.scheduler.config, solver=solver, **fields)
    return pipe


def with_noise_of_sample(scheduler: Any) -> None:
    """Stochastic solvers shall draw what they would draw in `sample` with seed 0."""
    scheduler._noise = lambda step: seeded_noise(scheduler._noise_like, 0)(step)


@pytest.fixture(scope="module")
def shelf() -> dict[str, Any]:
    return {}


@pytest.fixture
def pipe_of(shelf: dict[str, Any]) -> Any:
    """Pipelines by kind, built once and handed out with their own scheduler."""

    def get(kind: str) -> Any:
        if kind not in shelf:
            made = pipelines.make(kind)
            shelf[kind] = (made, made.scheduler)
        made, scheduler = shelf[kind]
        made.scheduler = copy.deepcopy(scheduler)
        return made

    return get


class Spy:
    """Records what a scheduler's step is given."""

    def __init__(self, scheduler: Any) -> None:
        self.samples: list[Tensor] = []
        self.outputs: list[Tensor] = []
        inner = scheduler.step

        def step(model_output: Tensor, timestep: Any, sample: Tensor, **extra: Any) -> Any:
            self.samples.append(sample.clone())
            self.outputs.append(model_output.clone())
            return inner(model_output, timestep, sample, **extra)

        scheduler.step = step


SOLVERS = [*(s for s in hasten.solvers.all() if not s().adaptive), functools.partial(DDIM, eta=1.0)]


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda make: getattr(make, "name", "ddim eta 1"))
@pytest.mark.parametrize("kind", pipelines.KINDS)
def test_every_solver_in_every_pipeline_is_sample(kind: str, solver: Any, pipe_of: Any) -> None:
    """`sample`, answered with what the pipeline's network said, asks for the same states and ends the same."""
    pipe = with_solver(pipe_of(kind), solver())
    if kind == "img2img" and "image to image" in solver().warning:
        with pytest.raises(HastenError, match=f"'{solver.name}' cannot start at query"):
            pipelines.call(pipe, steps=4)
        return
    with_noise_of_sample(pipe.scheduler)
    spy = Spy(pipe.scheduler)
    latents = pipelines.call(pipe, steps=4)
    assert torch.isfinite(latents).all()
    scheduler, asked = pipe.scheduler, len(spy.samples)
    times = scheduler._layout.times[scheduler._layout.queries[len(scheduler.timesteps) - asked].step :]
    assert asked > (2 if kind in ("img2img",) else 3)
    first = len(scheduler.timesteps) - asked
    shown = [x * scheduler._carried(first + i) for i, x in enumerate(spy.samples)]  # SDXL's are in levels
    answers, states = iter(spy.outputs), iter(shown)

    def denoiser(x: Tensor, t: float) -> Prediction:
        state = next(states)
        if kind != "inpaint":  # whose states the pipeline edits; `p.x` carries that on
            torch.testing.assert_close(x, state, rtol=1e-5, atol=1e-5 * float(state.abs().max()))
        process = scheduler.process
        return Prediction(
            state, float(process.alpha(t)), float(process.sigma(t)), next(answers), scheduler._reading.kind
        )

    denoiser.process = scheduler.process  # type: ignore[attr-defined]
    result = sample(denoiser, shown[0], solver(), grid=times)  # type: ignore[arg-type]
    assert next(answers, None) is None
    if kind == "inpaint":
        mask = torch.zeros(8)
        mask[:4] = 1  # the pipeline puts the original back into the other half
        result, latents = result * mask, latents * mask
    close(latents.reshape(result.shape), result)


FITTED = [
    DCSolver(ratios=(1.0, 1.0, 0.9, 1.1)), HeavyBall(DCSolver(ratios=(1.0, 1.0, 0.9, 1.1))),
    USF(((1,), (2, "noise", "exact", True), (2, "data", "midpoint", True), (1,))),
    *(DPMSolverV3(statistics=0.5 + 0.1 * torch.rand(3, 9, *shape, dtype=torch.float64), span=(-4.0, 3.0))
      for shape in ((), (4, 8, 8))),
]  # fmt: skip


@pytest.mark.parametrize("solver", FITTED, ids=lambda solver: solver.name)
def test_fitted_solvers_in_a_pipeline_are_sample_and_refuse_other_runs(solver: Any, pipe_of: Any) -> None:
    pipe = with_solver(pipe_of("sd"), solver)
    spy = Spy(pipe.scheduler)
    latents = pipelines.call(pipe, steps=4)
    answers, scheduler = iter(spy.outputs), pipe.scheduler

    def denoiser(x: Tensor, t: float) -> Prediction:
        return Prediction(x, float(scheduler.process.alpha(t)), float(scheduler.process.sigma(t)), next(answers))

    denoiser.process = scheduler.process  # type: ignore[attr-defined]
    close(latents, sample(denoiser, spy.samples[0], solver, grid=scheduler._layout.times))  # type: ignore[arg-type]
    if not isinstance(solver, DPMSolverV3):
        with pytest.raises(HastenError, match="4 steps, the run has 5; fit again"):
            pipelines.call(pipe, steps=5)


@pytest.mark.parametrize("solver", [s() for s in hasten.solvers.all() if s().adaptive], ids=lambda s: s.name)
def test_adaptive_solvers_are_refused_with_the_reason(solver: Any) -> None:
    with pytest.raises(HastenError, match=rf"{solver.name!r} chooses its times as it goes.*use hasten.sample"):
        SolverScheduler.from_config(SD, solver=solver)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda make: getattr(make, "name", "ddim eta 1"))
def test_stable_diffusion_equals_a_denoiser(solver: Any, pipe_of: Any) -> None:
    pipe = with_solver(pipe_of("sd"), solver(), grid="logsnr")
    with_noise_of_sample(pipe.scheduler)
    given = pipelines.arguments(pipe)
    prompt = torch.cat([given["negative_prompt_embeds"], given["prompt_embeds"]])

    def guided(x: Tensor, number: Tensor) -> Tensor:
        without, with_prompt = pipe.unet(
            torch.cat([x, x]), torch.cat([number, number]), encoder_hidden_states=prompt
        ).sample.chunk(2)
        return without + 7.5 * (with_prompt - without)

    start = noise(3, (1, 4, 8, 8))
    with torch.no_grad():
        expected = sample(Denoiser(guided, pipe.scheduler.process), start, solver(), steps=4, grid="logsnr")
    close(pipelines.call(pipe, steps=4, latents=start), expected, 1e-5)


@pytest.mark.parametrize("solver", ["euler", "ddim"])
@pytest.mark.parametrize("kind", ["flux", "sd3"])
def test_flow_pipelines_are_as_shipped(kind: str, solver: str, pipe_of: Any) -> None:
    pipe = pipe_of(kind)
    shipped = pipelines.call(pipe, steps=5)
    close(pipelines.call(with_solver(pipe, solver), steps=5), shipped)


def test_a_grid_wins_over_the_sigmas_that_flux_fills_in(pipe_of: Any) -> None:
    pipe = with_solver(pipe_of("flux"), "ddim", grid="logsnr")
    pipelines.call(pipe, steps=6)
    lam = -np.log(pipe.scheduler.sigmas[1:-1] / (1 - pipe.scheduler.sigmas[1:-1]))
    np.testing.assert_allclose(np.diff(lam), np.diff(lam)[0], rtol=1e-3)
    pipelines.call(pipe, steps=3, sigmas=[1.0, 0.9, 0.1])  # what the caller passes wins over both
    shifted = pipe.scheduler.process.sigma([1.0, 0.9, 0.1, 0.0])
    np.testing.assert_allclose(pipe.scheduler.sigmas, shifted, rtol=1e-5)


@pytest.mark.parametrize("solver", ["dpm++", "heun", {"name": "dpm++", "method": "singlestep"}])
def test_img2img_starts_midway_without_a_history(solver: Any, pipe_of: Any) -> None:
    pipe = with_solver(pipe_of("img2img"), solver, end="data")
    seen: list[tuple[int, int, int]] = []
    run = pipe.scheduler.run
    hook = pipe.unet.register_forward_pre_hook(lambda *_: seen.append((run.step, run.stage, run.steps)))
    try:
        latents = pipelines.call(pipe, steps=8, strength=0.5)
    finally:
        hook.remove()
    two = pipe.scheduler.order == 2
    stages = [(step, stage) for step in range(4) for stage in ((0, 1) if two and step < 3 else (0,))]
    assert seen == [(step, stage, 4) for step, stage in stages]

    # the same walk by hand: the second half of the times, from the state the pipeline began with
    spy = Spy(pipe.scheduler)
    again = pipelines.call(pipe, steps=8, strength=0.5)
    assert torch.equal(again, latents)
    assert len(spy.samples) == len(stages)


def test_text_to_image_after_img2img_remembers_nothing(pipe_of: Any) -> None:
    pipe = pipe_of("sd")
    fresh = pipelines.call(with_solver(pipe, "dpm++"), steps=4)
    scheduler = pipe.scheduler
    image = pipe_of("img2img")
    image.scheduler = scheduler
    pipelines.call(image, steps=6)
    pipe.scheduler = scheduler
    assert torch.equal(pipelines.call(pipe, steps=4), fresh)


def test_edits_between_steps_are_kept() -> None:
    """Adding a constant to the state before the last step changes the result exactly as the solver says."""
    ours = SolverScheduler.from_config(ddim().config, solver="ddim")

    def final(push: float) -> Tensor:
        ours.set_timesteps(4)
        x = noise()
        for i, t in enumerate(ours.timesteps):
            x = x + push * (i == 3)
            x = ours.step(torch.zeros(SHAPE), t, x).prev_sample
        return x

    alpha = float(ours.process.alpha(1.0))
    torch.testing.assert_close(final(0.5) - final(0.0), torch.full(SHAPE, 0.5 / alpha), rtol=1e-4, atol=1e-5)


def test_inpainting_puts_the_image_back(pipe_of: Any) -> None:
    pipe = with_solver(pipe_of("inpaint"), "heun")
    latents = pipelines.call(pipe, steps=4)
    repainted = pipelines.call(pipe, steps=4, generator=torch.Generator().manual_seed(9))
    given = pipe.vae.encode(pipe.image_processor.preprocess(pipelines.arguments(pipe)["image"])).latent_dist
    kept = given.mean * pipe.vae.config.scaling_factor
    spread = given.std.max() * pipe.vae.config.scaling_factor * 6
    assert ((latents - kept)[..., 4:].abs() < spread).all()
    assert not torch.allclose(latents[..., :4], repainted[..., :4], atol=1e-2)


# --- settings of a run


def scheduler_of(solver: Any = "ddim", config: Any = None, **fields: Any) -> SolverScheduler:
    return SolverScheduler.from_config((ddim() if config is None else config).config, solver=solver, **fields)


FLOW = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
DYNAMIC = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)


def test_custom_timesteps() -> None:
    ours, theirs = scheduler_of("dpm++"), dpm()
    wanted = [999, 500, 400, 30]
    ours.set_timesteps(timesteps=wanted)
    theirs.set_timesteps(timesteps=wanted)
    assert ours.timesteps.tolist() == wanted and ours.num_inference_steps == 4
    close(drive(ours, noise()), drive(theirs, noise()))


def test_custom_sigmas() -> None:
    ours = scheduler_of("dpm++")
    ours.set_timesteps(sigmas=[14.0, 3.0, 0.5, 0.0])  # the final 0 may be given or left out
    np.testing.assert_allclose(ours.sigmas, [14.0, 3.0, 0.5, 0.0], rtol=1e-5, atol=1e-7)
    again = scheduler_of("dpm++")
    again.set_timesteps(sigmas=[14.0, 3.0, 0.5])
    assert torch.equal(ours.timesteps, again.timesteps)


@pytest.mark.parametrize(("config", "more"), [(FLOW, {}), (DYNAMIC, {"mu": 0.8})])
def test_custom_sigmas_of_flow(config: Any, more: dict[str, float]) -> None:
    theirs, ours = copy.deepcopy(config), scheduler_of("euler", config)
    theirs.set_timesteps(sigmas=[1.0, 0.6, 0.3], **more)
    ours.set_timesteps(sigmas=[1.0, 0.6, 0.3], **more)
    np.testing.assert_allclose(ours.sigmas, theirs.sigmas, rtol=1e-6)
    np.testing.assert_allclose(ours.timesteps, theirs.timesteps, rtol=1e-6)
    close(drive(ours, noise()), drive(theirs, noise()))


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_mu(kind: str) -> None:
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    ours = scheduler_of("euler", theirs)
    for mu in (0.5, 1.15, 2.0):
        theirs.set_timesteps(6, mu=mu)
        ours.set_timesteps(6, mu=mu)
        assert isinstance(ours.process, RectifiedFlow)
        assert ours.run.process is ours.process
        np.testing.assert_allclose(ours.timesteps, theirs.timesteps, rtol=1e-5)


def test_timesteps_and_sigmas_together() -> None:
    """Some flow pipelines show the network other numbers than the levels they step along."""
    theirs, ours = copy.deepcopy(FLOW), scheduler_of("euler", FLOW)
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(timesteps=[1000.0, 600.0, 300.0], sigmas=[1.0, 0.6, 0.3])
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    close(drive(ours, noise()), drive(theirs, noise()))


def test_explicit_times_imply_the_steps() -> None:
    ours = scheduler_of("euler", grid=[1000.0, 700.0, 200.0, 0.0])
    ours.set_timesteps(50)
    assert ours.timesteps.tolist() == [999, 699, 199] and ours.num_inference_steps == 3


def test_end_min_stops_before_the_data() -> None:
    ours = scheduler_of("ddim", grid="logsnr", end="min")
    ours.set_timesteps(5)
    assert len(ours.timesteps) == 5 and ours.sigmas[-1] > 0
    ours.set_timesteps(timesteps=[999, 500])
    assert ours.sigmas[-1] == pytest.approx(float(np.exp(-ours.process.lam(1.0))), rel=1e-5)


REFUSED: dict[str, tuple[Any, str]] = {
    "zero steps": (lambda: scheduler_of().set_timesteps(0), "num_inference_steps"),
    "nothing": (lambda: scheduler_of().set_timesteps(), "num_inference_steps"),
    "too many steps": (lambda: scheduler_of().set_timesteps(2000), "steps"),
    "unknown solver": (lambda: scheduler_of("dmp++"), r"solver: 'dmp\+\+' .* did you mean 'dpm\+\+'"),
    "unknown field": (lambda: scheduler_of({"name": "unipc", "oder": 3}), r"solver\.unipc: 'oder'.*'order'"),
    "unknown grid": (lambda: scheduler_of(grid="lognsr"), "grid.*logsnr"),
    "unknown end": (lambda: scheduler_of(end="middle"), "end"),
    "unknown option": (lambda: SolverScheduler.from_config(ddim().config, sovler="ddim"), "sovler.*solver"),
    "not a config": (lambda: SolverScheduler.from_config("pndm"), "config"),
    "prediction type": (lambda: scheduler_of(prediction_type="noise"), "prediction_type"),
    "inverted": (
        lambda: scheduler_of(config=diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)).set_timesteps(
            timesteps=[100.0, 500.0]
        ),
        "timesteps.*backwards.*sigmas",
    ),
    "both": (lambda: scheduler_of().set_timesteps(timesteps=[9], sigmas=[1.0]), "timesteps"),
    "length": (lambda: scheduler_of().set_timesteps(3, timesteps=[900, 20]), "num_inference_steps"),
    "rising": (lambda: scheduler_of().set_timesteps(timesteps=[20, 900]), "timesteps"),
    "beyond": (lambda: scheduler_of().set_timesteps(timesteps=[1000, 20]), "timesteps.*999"),
    "nan": (lambda: scheduler_of("euler", FLOW).set_timesteps(sigmas=[1.0, float("nan")]), "sigmas"),
    "negative": (lambda: scheduler_of("euler", FLOW).set_timesteps(sigmas=[1.0, -0.5]), "sigmas"),
    "empty": (lambda: scheduler_of().set_timesteps(timesteps=[]), "timesteps"),
    "mu missing": (lambda: scheduler_of("euler", DYNAMIC).set_timesteps(4), "mu"),
    "mu nan": (lambda: scheduler_of("euler", DYNAMIC).set_timesteps(4, mu=float("nan")), "mu"),
    "no run": (lambda: scheduler_of().step(noise(), 1, noise()), "set_timesteps"),
    "no such timestep": (lambda: laid_out().step(noise(), 123, noise()), "timestep: 123"),
    "begin index": (lambda: laid_out().set_begin_index(4), "begin_index"),
    "per token": (lambda: laid_out().step(noise(), 750, noise(), per_token_timesteps=noise()), "per_token"),
}


def laid_out(solver: Any = "ddim", steps: int = 4) -> SolverScheduler:
    ours = scheduler_of(solver)
    ours.set_timesteps(steps)
    return ours


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str) -> None:
    is_refused(*REFUSED[name])


def test_a_refused_layout_changes_nothing() -> None:
    ours = laid_out()
    before, number = ours.timesteps.clone(), ours.run.number
    with pytest.raises(HastenError):
        ours.set_timesteps(timesteps=[20, 900])
    assert torch.equal(ours.timesteps, before) and ours.run.number == number
    drive(ours, noise())


def test_a_step_too_many_is_refused() -> None:
    ours = laid_out()
    x = drive(ours, noise())
    with pytest.raises(HastenError, match="over"):
        ours.step(x, 0, x)


def test_cannot_begin_inside_a_step() -> None:
    ours = laid_out("heun")
    ours.set_begin_index(2)
    with pytest.raises(HastenError, match="begin_index"):
        ours.set_begin_index(1)


@pytest.mark.parametrize(("solver", "index", "steps"), [("dpm++", 3, 3), ("heun", 6, 3)])
def test_begins_where_the_first_timestep_is(solver: str, index: int, steps: int) -> None:
    """Pipelines that slice the timesteps without saying so; Heun shows the network each number twice."""
    told, untold = laid_out(solver, 6), laid_out(solver, 6)
    told.set_begin_index(index)
    x = y = noise()
    for t in told.timesteps[index:]:
        x = told.step(network(x, t), t, x).prev_sample
        seen = untold.scale_model_input(y, t)
        assert untold.run.steps == steps
        y = untold.step(network(seen, t), t, y).prev_sample
    assert torch.equal(x, y)


def test_values_that_are_not_finite() -> None:
    ours = laid_out()
    with pytest.raises(HastenError, match="not finite"):
        drive(ours, noise(), lambda x, t: x * float("nan"))
    ours.set_timesteps(4)
    bad = torch.tensor([1.0, float("inf")]).reshape(2, 1, 1, 1)
    with pytest.warns(RuntimeWarning, match=r"images \[1\]"):
        result = drive(ours, noise(), lambda x, t: network(x, t) * bad)
    assert torch.isfinite(result[0]).all()  # the good image is not lost


# --- number formats, noise, seeds


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
@pytest.mark.parametrize("solver", ["dpm++", "unipc", "heun", {"name": "ddim", "eta": 1.0}])
def test_half_precision_is_stepped_in_float32(solver: Any, dtype: torch.dtype, tolerance: float) -> None:
    ours = laid_out(solver, 8)
    exact = drive(ours, noise())
    ours.set_timesteps(8)
    result = drive(ours, noise().to(dtype), lambda x, t: network(x.float(), t).to(dtype))
    assert result.dtype == dtype
    close(result.float(), exact, tolerance)


def test_one_step_in_half_precision_rounds_once() -> None:
    x, output = noise(1).half(), noise(2).half()
    half, single = laid_out("dpm++"), laid_out("dpm++")
    t = half.timesteps[0]
    result = half.step(output, t, x)
    expected = single.step(output.float(), t, x.float())
    assert torch.equal(result.prev_sample, expected.prev_sample.half())
    assert torch.equal(result.pred_original_sample, expected.pred_original_sample.half())


def test_float64_stays_float64() -> None:
    assert drive(laid_out(), noise().double()).dtype == torch.float64


@pytest.mark.parametrize("kind", ["sd", "pixart", "sd3"])
@pytest.mark.parametrize("solver", ["dpm++", {"name": "ddim", "eta": 1.0}])
def test_a_batch_equals_its_singles(kind: str, solver: Any, pipe_of: Any) -> None:
    pipe = with_solver(pipe_of(kind), solver)
    batch_seeds, single_seeds = generators(5, 1, 3), [generators(5 + j) for j in range(3)]
    pipe.scheduler.generator = batch_seeds  # some pipelines (SD3) hand no generator to step
    together = pipelines.call(pipe, steps=3, generator=batch_seeds, images=3)
    for j, generator in enumerate(single_seeds):
        pipe.scheduler.generator = generator
        alone = pipelines.call(pipe, steps=3, generator=generator)
        close(together[j : j + 1], alone, 1e-4)
    pipe.scheduler.generator = None


def test_seeds() -> None:
    first = [g.initial_seed() for g in generators(7, prompts=2, images_per_prompt=3)]
    assert first == [7, 8, 9, 7, 8, 9]
    assert [g.initial_seed() for g in generators([4, 2], 2)] == [4, 2]
    for bad, message in (([1, 2, 3], "3 seeds"), (-1, "seed"), (1.5, "seed"), ([1, True], "seed")):
        with pytest.raises(HastenError, match=message):
            generators(bad, 2)  # type: ignore[arg-type]


def test_noise_of_a_step_is_drawn_once() -> None:
    ours = laid_out({"name": "ddim", "eta": 1.0})
    ours._noise_like, ours._generator = noise(), torch.Generator().manual_seed(0)
    first, again, other = ours._noise(0), ours._noise(0), ours._noise(1)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_forward_noising_is_diffusers() -> None:
    x, eps, at = noise(1), noise(2), torch.tensor([3, 900])
    table = scheduler_of()
    close(table.add_noise(x, eps, at), ddim().add_noise(x, eps, at), 1e-6)
    close(table.get_velocity(x, eps, at), ddim().get_velocity(x, eps, at), 1e-6)
    flow, theirs = scheduler_of("euler", FLOW), copy.deepcopy(FLOW)
    for scheduler in (flow, theirs):
        scheduler.set_timesteps(6)
    at = theirs.timesteps[[1, 4]]
    close(flow.scale_noise(x, at, eps), theirs.scale_noise(x, at, eps), 1e-6)


# --- configs


CONFIGS = [
    ddim(**ZERO_SNR), dpm(), unipc(use_flow_sigmas=True, prediction_type="flow_prediction"), FLOW, DYNAMIC,
    diffusers.PNDMScheduler(**pipelines.SD15_SCHEDULER), diffusers.EDMEulerScheduler(),
    diffusers.DDPMScheduler(trained_betas=[0.01, 0.02, 0.03]), diffusers.EulerAncestralDiscreteScheduler(**SD),
    diffusers.FlowMatchHeunDiscreteScheduler(shift=2.0),
]  # fmt: skip
SETTINGS = [
    {"solver": "unipc"},
    {"solver": DPMSolverPP(order=3, compat=True), "grid": Karras(rho=5.0)},
    {"solver": {"name": "heun", "a": 0.5}, "grid": "logsnr", "end": "min"},
    {"solver": DDIM(eta=0.5), "grid": Explicit((0.9, 0.5, 0.1, 0.0))},
    {},
]


def public(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("source", CONFIGS, ids=lambda s: type(s).__name__)
def test_round_trips(source: Any, settings: dict[str, Any], tmp_path: Any) -> None:
    ours = SolverScheduler.from_config(source.config, **settings)
    ours.save_pretrained(tmp_path)
    json.loads((tmp_path / "scheduler_config.json").read_text())
    loaded = SolverScheduler.from_pretrained(tmp_path)
    again = SolverScheduler.from_config(ours.config)
    for copied in (loaded, again):
        assert public(copied.config) == public(ours.config)
        assert (copied.solver, copied.grid, copied.end) == (ours.solver, ours.grid, ours.end)
        assert copied._reading.kind == ours._reading.kind
        np.testing.assert_array_equal(copied.process.lam(0.7), ours.process.lam(0.7))
    back = type(source).from_config(ours.config)
    assert public(back.config).items() >= public(source.config).items()


def test_a_config_without_its_defaults() -> None:
    """As on the hub, where old configs name their class and leave out what came later."""
    short = {"_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    ours = SolverScheduler.from_config(short)
    ours.set_timesteps(10)
    assert ours.timesteps.tolist() == list(range(900, -1, -100))  # PNDM's leading spacing


def test_a_pipeline_saves_and_loads(tmp_path: Any, pipe_of: Any) -> None:
    pipe = with_solver(pipe_of("sd"), {"name": "unipc", "order": 3}, grid="karras")
    expected = pipelines.call(pipe)
    pipe.save_pretrained(tmp_path)
    loaded = hasten.load(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert isinstance(loaded.scheduler, SolverScheduler)
    assert torch.equal(pipelines.call(loaded), expected)
    swapped = diffusers.PNDMScheduler.from_config(loaded.scheduler.config)
    assert swapped.config["skip_prk_steps"] and swapped.config["steps_offset"] == 1


def test_copies_do_not_share_a_run() -> None:
    ours = laid_out("dpm++", 6)
    x = ours.step(network(noise(), 5), ours.timesteps[0], noise()).prev_sample
    twin = copy.deepcopy(ours)
    expected = drive(laid_out("dpm++", 6), noise())
    twin.set_timesteps(6)
    assert torch.equal(drive(twin, noise()), expected)
    for t in ours.timesteps[1:]:
        x = ours.step(network(x, t), t, x).prev_sample
    assert ours.step_index == 6 and twin.run is not ours.run


def test_pipelines_find_what_they_look_for() -> None:
    ours = laid_out("heun")
    assert ours.order == Heun.evaluations == 2 and len(ours.timesteps) == 7
    assert len(ours) == ours.config["num_train_timesteps"] == 1000
    torch.testing.assert_close(ours.alphas_cumprod, ddim().alphas_cumprod, rtol=1e-5, atol=1e-7)
    assert not hasattr(scheduler_of("euler", FLOW), "alphas_cumprod")
    assert ours.init_noise_sigma == 1.0 and len(ours.sigmas) == 8
    assert diffusers.PNDMScheduler in ours.compatibles
    assert (ours.step_index, ours.begin_index) == (None, None)


# --- loading


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no-such-model", "no folder, hub id or zoo model 'no-such-model'"),
        ("./nowhere/at/all", "nowhere"),
        ("owner/nothing", "cannot load 'owner/nothing'.*not whole in the local cache"),
        (__file__, "is a file"),
        ("EMPTY", "model_index.json"),
        ("BROKEN", "cannot load"),
    ],
)
def test_load_refuses_in_one_line(name: str, message: str, tmp_path: Any) -> None:
    if name in ("EMPTY", "BROKEN"):
        if name == "BROKEN":
            (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"')
        name = str(tmp_path)
    with pytest.raises(HastenError, match=message) as caught:
        hasten.load(name)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("model: ")


def test_load_names_the_nearest_model(monkeypatch: Any) -> None:
    monkeypatch.setattr("hasten.bridge.loading._zoo_names", lambda: ["digits", "emoji-sd"])
    with pytest.raises(HastenError, match="did you mean 'emoji-sd'"):
        hasten.load("emojisd")


def test_load_refuses_pickles(tmp_path: Any, pipe_of: Any) -> None:
    pipe = pipe_of("sd")
    pipe.save_pretrained(tmp_path, safe_serialization=False)
    assert [path.suffix for path in (tmp_path / "unet").glob("diffusion*")] == [".bin"]
    with pytest.raises(HastenError, match="cannot load"):
        hasten.load(tmp_path)


def test_load_takes_a_dtype_and_leaves_logging_alone(tmp_path: Any, pipe_of: Any) -> None:
    import logging

    pipe_of("sd").save_pretrained(tmp_path)
    diffusers.utils.logging.enable_progress_bar()
    logging.disable(logging.NOTSET)
    before = (logging.root.manager.disable, diffusers.utils.logging.get_verbosity())
    loaded = hasten.load(str(tmp_path), dtype="bfloat16")
    assert {p.dtype for p in loaded.unet.parameters()} == {torch.bfloat16}
    assert loaded.text_encoder.dtype == torch.bfloat16
    assert (logging.root.manager.disable, diffusers.utils.logging.get_verbosity()) == before
    assert diffusers.utils.logging.is_progress_bar_enabled()
    assert hasten.load(tmp_path).unet.dtype == hasten.load(tmp_path).text_encoder.dtype == torch.float32
    with pytest.raises(HastenError, match="dtype"):
        hasten.load(tmp_path, dtype="int8")
