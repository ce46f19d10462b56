"""The guidance interval equals a loop written out by hand, and runs no more rows than it must."""

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from pipelines import arguments, call, make
from torch import nn

import hasten
from hasten.bridge import SolverScheduler
from hasten.caches import DeepCache
from hasten.core.errors import HastenError, UnsupportedModel
from hasten.guidance import GUIDANCES, GuidanceInterval
from hasten.measure.cost import count_calls
from hasten.processes import RectifiedFlow, VariancePreserving
from hasten.runtime.anatomy import network_of
from hasten.runtime.run import Run
from hasten.runtime.view import view

SCALE = 5.0
SOLVER = {"name": "ddim"}


def sd():
    pipe = make("sd")
    pipe.scheduler = SolverScheduler.from_config(pipe.scheduler.config, solver=SOLVER)
    return pipe


def noise_levels(pipe) -> list[float]:
    process, numbers = pipe.scheduler.process, pipe.scheduler.timesteps.numpy()
    times = process.from_network_time(numbers)
    return (process.sigma(times) / process.alpha(times)).tolist()


@torch.no_grad()
def by_hand(pipe, low: float, high: float, prompts: int, steps: int):
    """Two separate calls where guided, one where not."""
    text = arguments(pipe, prompts)["prompt_embeds"]
    x = torch.randn(prompts, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pipe.scheduler.set_timesteps(steps)
    for t, noise in zip(pipe.scheduler.timesteps, noise_levels(pipe), strict=True):
        out = pipe.unet(x, t, text).sample
        if low < noise <= high:
            empty = pipe.unet(x, t, torch.zeros_like(text)).sample
            out = empty + SCALE * (out - empty)
        x = pipe.scheduler.step(out, t, x).prev_sample
    return x


@pytest.mark.parametrize("prompts", [1, 3])
def test_it_equals_the_loop_written_out_by_hand(prompts):
    pipe = sd()
    pipe.scheduler.set_timesteps(8)
    levels = noise_levels(pipe)
    for low, high in ((levels[5], levels[2]), (0.0, levels[0]), (levels[7], levels[3]), (0.0, levels[4]), (0.0, 0.0)):
        expected = by_hand(pipe, low, high, prompts, 8)
        guided = sum(low < noise <= high for noise in levels)
        with GuidanceInterval(low, high).applied(pipe):
            rows = rows_run(pipe)
            got = call(pipe, steps=8, prompts=prompts, guidance_scale=SCALE)
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert sum(rows) == prompts * (8 + guided), "rows of the network, one for each picture and branch"


def rows_run(pipe) -> list[int]:
    """The rows of every call that really reaches the accelerated network's first convolution."""
    rows: list[int] = []
    network_of(pipe).conv_in.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    return rows


def test_the_bounds_are_those_of_the_paper():
    """Open below, closed above."""
    run = Run(VariancePreserving(), time=300.0)
    noise = float(run.process.sigma(300.0) / run.process.alpha(300.0))
    assert GuidanceInterval(low=0.0, high=noise).guides(run)
    assert not GuidanceInterval(low=noise, high=None).guides(run)
    assert GuidanceInterval(low=noise * 0.999, high=noise * 1.001).guides(run)


def test_pure_noise_is_guided_without_a_limit_only():
    run = Run(RectifiedFlow(), time=1.0)
    assert GuidanceInterval().guides(run) and GuidanceInterval(low=100.0).guides(run)
    assert not GuidanceInterval(high=1e9).guides(run)


@pytest.mark.parametrize("kind", ["sd", "img2img", "inpaint", "controlnet", "sdxl", "sd3", "pixart"])
def test_never_guiding_is_the_conditional_model_in_every_pipeline(kind):
    """Also from the first call on, with several pictures a prompt, and through a recipe."""
    pipe = make(kind)
    conditional = call(pipe, guidance_scale=1.0, prompts=2, images=2)
    never = GuidanceInterval(high=0.0)
    with never.applied(pipe):
        got = call(pipe, guidance_scale=SCALE, prompts=2, images=2)
    assert (got - conditional).abs().max() <= 1e-5 * conditional.abs().max()
    with hasten.accelerate(pipe, {"guidance": {"name": "interval", "high": 0.0}}) as fast:
        got = call(fast, guidance_scale=SCALE, prompts=2, images=2) if kind == "sd" else got
    assert (got - conditional).abs().max() <= 1e-5 * conditional.abs().max()


class Echo(nn.Module):
    """Answers with what it was given."""

    def forward(self, sample, *args, return_dict=True, **kwargs):
        self.given = (sample, args, kwargs)
        return UNet2DConditionOutput(sample=sample * 2) if return_dict else (sample * 2, "note")


def test_every_tensor_of_the_batch_is_halved_however_deep():
    network = view(Echo())
    run = Run(VariancePreserving(), number=1, time=900.0, images=2)
    GuidanceInterval(high=1.0).attach(network, run)
    batch, other = torch.arange(4.0).reshape(4, 1), torch.arange(3.0).reshape(3, 1)
    timestep = torch.tensor(7.0)
    out = network(
        batch, timestep, [batch, (batch, other)], added={"ids": batch, "deeper": [{"x": batch}], "n": 4}, nothing=None
    )
    sample, (t, nested), kwargs = network.given
    half = batch[2:]
    assert torch.equal(sample, half) and t is timestep
    assert torch.equal(nested[0], half) and torch.equal(nested[1][0], half) and nested[1][1] is other
    assert torch.equal(kwargs["added"]["ids"], half) and torch.equal(kwargs["added"]["deeper"][0]["x"], half)
    assert kwargs["added"]["n"] == 4 and kwargs["nothing"] is None
    assert isinstance(out, UNet2DConditionOutput) and torch.equal(out.sample, torch.cat([half, half]) * 2)
    as_tuple = network(sample=batch, return_dict=False)
    assert torch.equal(as_tuple[0], torch.cat([half, half]) * 2) and as_tuple[1] == "note"


@pytest.mark.parametrize(("rows", "images"), [(2, 2), (6, 2), (4, None), (3, 2)])
def test_batches_that_are_not_two_branches_run_as_they_are(rows, images):
    network = view(Echo())
    GuidanceInterval(high=0.0).attach(network, Run(VariancePreserving(), number=1, time=900.0, images=images))
    batch = torch.randn(rows, 1)
    assert torch.equal(network(batch).sample, batch * 2) and len(network.given[0]) == rows


def test_a_cache_inside_sees_the_rows_that_run():
    """Full on steps 0, 3, 6; when guidance switches off it goes on from the conditional rows."""
    pipe = sd()
    pipe.scheduler.set_timesteps(8)
    levels = noise_levels(pipe)
    with GuidanceInterval(low=levels[4]).applied(pipe), DeepCache(interval=3).applied(pipe):
        network, deep = rows_run(pipe), []
        pipe.unet.mid_block.resnets[0].conv1.register_forward_pre_hook(lambda _, args: deep.append(len(args[0])))
        with count_calls(pipe.unet) as calls:
            call(pipe, steps=8, guidance_scale=SCALE)
    assert network == [2, 2, 2, 2, 1, 1, 1, 1] and deep == [2, 2, 1] and calls.calls == 8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"low": -0.1}, "low: -0.1"),
        ({"low": float("nan")}, "low: nan"),
        ({"low": 2.0, "high": 1.0}, "high: 1.0 .* at least low = 2.0"),
        ({"high": "much"}, "high: 'much'"),
        ({"hihg": 1.0}, "did you mean 'high'"),
    ],
)
def test_bad_settings_are_refused_in_one_line(fields, message):
    with pytest.raises(HastenError, match=message):
        GUIDANCES.build({"name": "interval"} | fields)


def test_infinity_is_no_limit():
    assert GuidanceInterval(high=float("inf")) == GuidanceInterval()


def test_a_distilled_model_is_refused():
    with pytest.raises(UnsupportedModel, match="FluxTransformer2DModel is guidance-distilled"):
        GuidanceInterval().check(make("flux").transformer)
