"""Guidance from memory: against scripted answers, diffusers' own hook, and what it saves."""

import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from pipelines import call, make
from tiny import randn
from torch import nn

from hasten.bridge import SolverScheduler
from hasten.caches import DeepCache
from hasten.core.errors import HastenError, UnsupportedModel
from hasten.guidance import GUIDANCES, DifferenceReuse, FrequencyReuse, GuidanceInterval, ScaleSchedule
from hasten.guidance.differences import low_frequencies
from hasten.measure import macs
from hasten.measure.cost import count_calls
from hasten.processes import VariancePreserving
from hasten.runtime.anatomy import network_of
from hasten.runtime.run import Run
from hasten.runtime.view import view


class Scripted(nn.Module):
    """Answers with its batch, and notes how many rows it had."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[int] = []

    def forward(self, hidden_states, return_dict=True):
        self.rows.append(len(hidden_states))
        return Transformer2DModelOutput(sample=hidden_states * 1.0) if return_dict else (hidden_states * 1.0,)


class Loop:
    """A network with a guidance on it, asked once a step."""

    def __init__(self, guidance, steps: int, images: int = 1) -> None:
        self.run, self.images = Run(VariancePreserving()), images
        self.steps, self.inner = steps, Scripted()
        self.network = view(self.inner)
        self.network.rows = self.inner.rows
        guidance.attach(self.network, self.run)
        self.network.register_forward_hook(lambda *_: self.run.called())
        self.begin()

    def begin(self) -> None:
        self.run.begin(self.steps)
        self.run.expect(self.images)

    def time(self, step: int) -> float:
        """Steps are evenly spread, from the network's time 999 - 1000 / steps on."""
        return 1000 * (1 - step / self.steps)

    def __call__(self, step: int, batch, stage: int = 0, again: bool = False):
        if not again:
            self.run.ask(step, self.time(step), stage)
        return self.network(batch).sample


def pair(empty: float, filled: float, images: int = 1):
    return torch.cat([torch.full((images, 1, 4, 4), empty), torch.full((images, 1, 4, 4), filled)])


def test_the_difference_of_the_last_full_step_is_added():
    loop = Loop(DifferenceReuse(interval=3), steps=7)
    answers = [(loop(k, pair(10.0 * k, 1.0 * k)))[:, 0, 0, 0].tolist() for k in range(7)]
    assert loop.inner.rows == [2, 1, 1, 2, 1, 1, 2]
    #           full     c + (0 - 0)        full       c + (30 - 3)               full
    assert answers == [[0, 0], [1, 1], [2, 2], [30, 3], [4 + 27, 4], [5 + 27, 5], [60, 6]]


@pytest.mark.parametrize(
    ("guidance", "full"),
    [
        (DifferenceReuse(interval=1), range(10)),
        (DifferenceReuse(interval=4), [0, 4, 8]),
        (DifferenceReuse(steps=(2, 5)), [0, 2, 5]),
        (DifferenceReuse(interval=4, start=0.3), [0, 1, 2, 4, 8]),
        (FrequencyReuse(interval=1), range(10)),
        (FrequencyReuse(interval=3, below=None), [0, 3, 6, 9]),
        (FrequencyReuse(interval=4), [0, 1, 2, 3, 4, 8]),  # the time is 699 on step 3, 599 on step 4
    ],
)
def test_when_both_branches_run(guidance, full):
    loop = Loop(guidance, steps=10)
    for step in range(10):
        loop(step, randn(2, 1, 4, 4, seed=step))
    assert [step for step, rows in enumerate(loop.inner.rows) if rows == 2] == list(full)


def test_the_authors_counter():
    """Skipped from step 18 of 50 on, but for every fifth step."""
    loop = Loop(FrequencyReuse(start=0.36, below=None), steps=50)
    for step in range(50):
        loop(step, randn(2, 1, 4, 4, seed=step))
    assert [k for k, rows in enumerate(loop.inner.rows) if rows == 1] == [k for k in range(18, 50) if k % 5]


def test_low_frequencies_are_a_disc_around_the_constant():
    disc = low_frequencies(10, 16)
    assert disc[0, 0] and disc[2, 0] and disc[0, 2] and disc[-2, 0] and disc[1, 1] and disc[-1, -1]
    assert int(disc.sum()) == 13  # y^2 + x^2 <= 4


def test_frequencies_are_multiplied_anew_on_each_call():
    """A constant difference is all low; one that alternates between pixels is all high."""
    low = torch.ones(1, 1, 8, 8)
    high = low * torch.tensor([1.0, -1.0]).repeat(4)
    loop = Loop(
        FrequencyReuse(interval=9, below=None, low=1.5, high=0.5, low_between=(0, 2000), high_between=(0, 2000)), 9
    )
    c = randn(1, 1, 8, 8)
    loop(0, torch.cat([c + low + high, c]))
    for k in range(1, 5):
        got = loop(k, torch.cat([c * 0, c + k]))
        assert torch.allclose(got, torch.cat([c + k + 1.5**k * low + 0.5**k * high, c + k]), atol=1e-5)


def test_factors_are_used_between_their_times():
    low = torch.ones(1, 1, 8, 8)
    loop = Loop(FrequencyReuse(interval=20, below=None, low=2.0, low_between=(300, 700)), 10)
    got = [loop(k, torch.cat([low, 0 * low]))[0, 0, 0, 0].item() for k in range(10)]
    # times 999, 899, ... 99: doubled on 699, 599, 499, 399
    assert got == pytest.approx([1, 1, 1, 2, 4, 8, 16, 16, 16, 16], rel=1e-5)


@pytest.mark.parametrize("shape", [(4, 8, 8), (3, 6, 10)])
def test_it_equals_diffusers_own_hook(shape):
    """FasterCache's part for the denoiser, on the same scripted answers."""
    from diffusers.hooks import FasterCacheConfig, apply_faster_cache

    steps = 20
    ours = Loop(FrequencyReuse(), steps, images=2)
    theirs = Scripted()
    apply_faster_cache(theirs, FasterCacheConfig(
        tensor_format="BCHW", current_timestep_callback=lambda: ours.time(at) - 1,
        attention_weight_callback=lambda _: 0.5,
    ))  # fmt: skip
    for at in range(steps):
        batch = randn(4, *shape, seed=at)
        assert torch.allclose(ours(at, batch), theirs(hidden_states=batch).sample, atol=1e-5), at
    assert ours.inner.rows == theirs.rows and set(theirs.rows) == {2, 4}


def test_answers_without_height_and_width_are_refused():
    loop = Loop(FrequencyReuse(), 4)
    with pytest.raises(UnsupportedModel, match=r'\(1, 3, 5\).*use "reuse"'):
        loop(0, randn(2, 3, 5))


def test_nothing_is_kept_from_another_generation_size_or_number():
    loop = Loop(DifferenceReuse(interval=9), steps=9)
    for step, shape in enumerate([(2, 1, 4, 4), (2, 1, 4, 4), (2, 1, 5, 4), (2, 1, 5, 4)]):
        loop(step, randn(*shape))
    loop.run.expect(2)
    loop(4, randn(4, 1, 5, 4))
    loop(5, randn(4, 1, 5, 4))
    loop.begin()
    loop(5, randn(2, 1, 5, 4))
    loop(9, randn(2, 1, 5, 4))  # past the end: somebody plays with the network
    assert loop.inner.rows == [2, 1, 2, 1, 4, 2, 2, 2]


def test_calls_of_one_query_are_kept_apart_and_stages_share_their_step():
    loop = Loop(DifferenceReuse(interval=2), steps=4)
    loop(0, pair(5.0, 0.0))
    loop(0, pair(7.0, 0.0), again=True)
    assert loop(1, pair(0.0, 1.0))[0, 0, 0, 0] == 6 and loop(1, pair(0.0, 1.0), again=True)[0, 0, 0, 0] == 8
    loop(2, pair(1.0, 0.0), stage=0)
    loop(2, pair(2.0, 0.0), stage=1)
    assert loop(3, pair(0.0, 0.0))[0, 0, 0, 0] == 2
    assert loop.inner.rows == [2, 2, 1, 1, 2, 2, 1]


# in pipelines


def sd():
    pipe = make("sd")
    pipe.scheduler = SolverScheduler.from_config(pipe.scheduler.config, solver={"name": "ddim"})
    return pipe


@pytest.mark.parametrize("guidance", [DifferenceReuse(interval=5), FrequencyReuse(below=None)], ids=lambda g: g.name)
@pytest.mark.parametrize("kind", ["sd", "img2img", "inpaint", "controlnet", "sdxl", "sd3", "pixart"])
def test_it_runs_in_every_pipeline(kind, guidance):
    pipe = make(kind)
    plain = call(pipe, steps=6, guidance_scale=5.0, prompts=2)
    with guidance.applied(pipe):
        with count_calls(network_of(pipe)):
            got = call(pipe, steps=6, guidance_scale=5.0, prompts=2)
        unguided = call(pipe, steps=6, guidance_scale=1.0, prompts=2)
    assert torch.isfinite(got).all() and not torch.equal(got, plain)
    assert torch.equal(unguided, call(pipe, steps=6, guidance_scale=1.0, prompts=2))


def test_half_of_every_skipped_step_is_saved():
    """Multiply-adds of 10 steps, two of them full: (2 * 2 + 8) / 20 of a network's, which does nothing else here."""
    pipe = sd()

    def run():
        call(pipe, steps=10, guidance_scale=5.0, output_type="latent")

    everything = macs(run)
    unguided = macs(lambda: call(pipe, steps=10, guidance_scale=1.0))
    assert everything == pytest.approx(2 * unguided, rel=1e-6)
    for guidance in (DifferenceReuse(interval=5), FrequencyReuse(below=None)):
        with guidance.applied(pipe):
            assert macs(run) == pytest.approx(everything * 12 / 20, rel=1e-6)


def test_a_cache_inside_sees_the_rows_that_run():
    """Guided on 0, 4; the deep part is computed on 0, 2, 4, 6: held rows are those of the conditional branch."""
    pipe = sd()
    rows, deep = [], []
    with DifferenceReuse(interval=4).applied(pipe), DeepCache(2).applied(pipe):
        pipe.unet.conv_in.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
        pipe.unet.mid_block.resnets[0].conv1.register_forward_pre_hook(lambda _, args: deep.append(len(args[0])))
        call(pipe, steps=8, guidance_scale=5.0)
    assert rows == [2, 1, 1, 1, 2, 1, 1, 1] and deep == [2, 1, 2, 1]


def test_nothing_is_learnt_from_steps_outside_of_an_interval():
    pipe = sd()
    refused = pytest.raises(HastenError, match="must be applied before")
    with refused, DifferenceReuse().applied(pipe), GuidanceInterval(low=0.4).applied(pipe):
        pytest.fail("accepted")
    with GuidanceInterval(low=0.4).applied(pipe), DifferenceReuse(interval=3).applied(pipe):
        first = call(pipe, steps=8)
        assert torch.equal(call(pipe, steps=8), first)


# the schedule of the scale


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_the_scale_is_as_if_the_pipeline_had_been_called_with_it(shape):
    """Guidance with weight w - 1 times the factor, whatever w is."""
    loop = Loop(ScaleSchedule(shape), steps=4)
    factors = {"linear": [0.0, 0.5, 1.0, 1.5], "cosine": [0.0, 1 - 0.5**0.5, 1.0, 1 + 0.5**0.5]}[shape]
    for step, factor in enumerate(factors):
        u, c = loop(step, pair(3.0, 5.0))[:, 0, 0, 0].tolist()
        for w in (1.0, 4.0, 7.5):
            assert u + w * (c - u) == pytest.approx(5.0 + (w - 1) * factor * 2.0, abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "reuse", "interval": 0}, "interval: 0"),
        ({"name": "reuse", "steps": [-1]}, "steps: -1"),
        ({"name": "reuse", "start": 1.5}, "start: 1.5"),
        ({"name": "reuse-frequencies", "low": -1.0}, "low: -1.0"),
        ({"name": "reuse-frequencies", "low_between": [1.0]}, "low_between: "),
        ({"name": "scale-schedule", "shape": "sine"}, "shape: 'sine' .* cosine"),
    ],
)
def test_bad_settings_are_refused_in_one_line(fields, message):
    with pytest.raises(HastenError, match=message):
        GUIDANCES.build(fields)


@pytest.mark.parametrize("cls", [DifferenceReuse, FrequencyReuse, ScaleSchedule], ids=lambda c: c.name)
def test_a_distilled_model_is_refused(cls):
    with pytest.raises(UnsupportedModel, match=f'FluxTransformer2DModel is guidance-distilled.*"{cls.name}"'):
        cls().check(make("flux").transformer)
