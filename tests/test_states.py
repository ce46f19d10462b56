"""What pipelines, their callers and other pipelines see of states midway is what the pipeline's own scheduler shows."""

from __future__ import annotations

from typing import Any

import diffusers
import every
import pytest
import torch
from torch import Tensor

import hasten
from hasten.bridge import SolverScheduler
from hasten.core.errors import HastenError, NothingChanged

IN_LEVELS = {  # schedulers of data + level * noise, and the solver that does what each does
    "EulerDiscreteScheduler": "euler", "HeunDiscreteScheduler": "heun", "EulerAncestralDiscreteScheduler": None,
    "LMSDiscreteScheduler": None, "KDPM2DiscreteScheduler": None, "KDPM2AncestralDiscreteScheduler": None,
    "DPMSolverSDEScheduler": None,
}  # fmt: skip
OTHERS = ["DDIMScheduler", "DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler"]


def added(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"latents": tensors["latents"] + 0.3} if step == 1 else {}


def sdxl(scheduler: str, **fields: Any) -> tuple[Any, dict[str, Any]]:
    pipe, arguments = every.build("StableDiffusionXLPipeline")
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config, **fields)
    return pipe, arguments


@pytest.mark.parametrize("scheduler", [name for name, solver in IN_LEVELS.items() if solver])
def test_a_callback_that_adds_to_the_latents(scheduler: str) -> None:
    pipe, arguments = sdxl(scheduler)
    plain = every.call(pipe, arguments, more={"callback_on_step_end": added})
    assert not torch.allclose(plain, every.call(pipe, arguments), rtol=0.01)
    with hasten.accelerate(pipe, {"solver": IN_LEVELS[scheduler]}) as fast:
        torch.testing.assert_close(
            every.call(fast, arguments, more={"callback_on_step_end": added}), plain, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("solver", ["euler", "dpm++", "unipc"])
def test_a_plain_refiner_goes_on_from_where_a_fast_base_has_ended(solver: str) -> None:
    """The states at `denoising_end` are as noisy as the refiner's own scheduler counts them."""
    pipe, arguments = sdxl("EulerDiscreteScheduler", timestep_spacing="trailing")
    plain = every.call(pipe, arguments, steps=40, more={"denoising_end": 0.75})
    with hasten.accelerate(pipe, {"solver": solver}) as fast:
        made = every.call(fast, arguments, steps=40, more={"denoising_end": 0.75})
    apart = float((made - plain).norm() / plain.norm())
    assert apart < (1e-4 if solver == "euler" else 0.05)  # in 40 steps all solvers are near one another


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("name", IN_LEVELS)
def test_first_states_are_scaled_alike_before_and_after_a_run_is_laid_out(name: str, spacing: str) -> None:
    theirs = getattr(diffusers, name)(timestep_spacing=spacing)
    ours = SolverScheduler.of(theirs, solver="euler")
    assert float(ours.init_noise_sigma) == pytest.approx(float(theirs.init_noise_sigma), rel=1e-5)
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(5)
    assert float(ours.init_noise_sigma) == pytest.approx(float(theirs.init_noise_sigma), rel=1e-5)


@pytest.mark.parametrize("name", [*IN_LEVELS, *OTHERS])
def test_noise_is_added_alike(name: str) -> None:
    theirs = getattr(diffusers, name)()
    ours = SolverScheduler.of(theirs, solver="euler")
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(5)
    data, noise = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    add = "scale_noise" if name.startswith("Flow") else "add_noise"
    for when in (0, -1):  # in between, some ask twice a step
        made = []
        for scheduler in (ours, theirs):
            numbers = scheduler.timesteps[when].expand(2)
            given = (data, numbers, noise) if add == "scale_noise" else (data, noise, numbers)
            made.append(getattr(scheduler, add)(*given))
        torch.testing.assert_close(*made, rtol=1e-4, atol=1e-4)


def test_unipc_keeps_away_from_pure_noise_as_diffusers_does() -> None:
    theirs = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction", final_sigmas_type="zero"
    )
    ours = SolverScheduler.of(theirs, solver={"name": "unipc", "order": 2})
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    results = []
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(5)
        state = x
        for t in scheduler.timesteps:
            state = scheduler.step(torch.tanh(state.roll(1, -1)), t, state, return_dict=False)[0]
        results.append(state)
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)


def test_rows_that_grow_in_the_middle_of_a_run_are_refused() -> None:
    scheduler = SolverScheduler.of(diffusers.DDIMScheduler(), solver="ddim")
    scheduler.set_timesteps(4)
    x = torch.ones(1, 3, 4, 4)
    first, second, third, _ = scheduler.timesteps
    x = scheduler.step(x, first, x, return_dict=False)[0].repeat(2, 1, 1, 1)
    x = scheduler.step(x, second, x, return_dict=False)[0]
    with pytest.raises(HastenError, match="number of rows changed"):
        scheduler.step(x, third, x)


def test_guidance_that_a_pipeline_never_asks_for_says_so() -> None:
    pipe, arguments = every.build("WanAnimatePipeline")  # whose guidance is off unless a caller turns it on
    with hasten.accelerate(pipe, {"guidance": "reuse"}) as fast, pytest.warns(NothingChanged, match="reuse"):
        every.call(fast, arguments, silent=False)


@pytest.mark.parametrize("name", ["KandinskyImg2ImgPipeline", "CycleDiffusionPipeline", "StableDiffusionSAGPipeline"])
def test_steps_that_a_pipeline_looks_up_in_a_table_are_whole(name: str) -> None:
    pipe, arguments = every.build(name)
    with hasten.accelerate(pipe, {"solver": "dpm++", "grid": "trailing"}) as fast:
        every.call(fast, arguments)
    with (
        hasten.accelerate(pipe, {"solver": "dpm++", "grid": "karras"}) as fast,
        pytest.raises(HastenError, match="grid: this pipeline looks up its timesteps"),
    ):
        every.call(fast, arguments)


def test_blocks_that_are_left_out_of_a_list_are_no_blocks() -> None:
    pipe, _ = every.build("WuerstchenDecoderPipeline")
    with pytest.raises(HastenError, match="no list of attention blocks"):
        hasten.accelerate(pipe, {"caches": ["first-block"]})
