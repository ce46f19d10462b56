"""What every acceleration stands on: the clock that says where a generation is, and views of networks."""

import gc
import inspect
import weakref
from dataclasses import dataclass

import diffusers
import pytest
import torch
from pipelines import KINDS, SD15_SCHEDULER, call, make
from tiny import fingerprint, randn
from torch import nn

from hasten.bridge import SolverScheduler
from hasten.caches import DeepCache
from hasten.caching.memory import Memory
from hasten.core.errors import HastenError, UnsupportedModel
from hasten.runtime.acceleration import Acceleration, Phase
from hasten.runtime.anatomy import network_of
from hasten.runtime.host import hosted
from hasten.runtime.view import view, wrap


@dataclass(frozen=True)
class Recorder(Acceleration):
    """Notes what the run says at each network call."""

    seen: list
    name = "recorder"
    phase = Phase.CACHE

    def check(self, network): ...

    def attach(self, network, run):
        def forward(inner, *args, **kwargs):
            self.seen.append((run.number, run.step, run.stage, run.call, run.images, round(run.time, 3)))
            return inner(*args, **kwargs)

        wrap(network, forward)


def recorded(pipe, **more):
    recorder = Recorder([])
    with recorder.applied(pipe):
        call(pipe, **more)
        steps = pipe.scheduler.run.steps
    return recorder.seen, steps


def pipe_with(scheduler: str, kind: str = "sd", **config):
    pipe = make(kind)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config, **config)
    return pipe


def test_the_clock_counts_steps_and_images():
    seen, steps = recorded(pipe_with("DDIMScheduler", clip_sample=False), steps=3, prompts=2)
    assert steps == 3
    assert [s[:5] for s in seen] == [(1, 0, 0, 0, 2), (1, 1, 0, 0, 2), (1, 2, 0, 0, 2)]
    assert [s[5] for s in seen] == [668.0, 335.0, 2.0]  # the network is shown 667, 334 and 1


def test_the_clock_gives_both_queries_of_a_heun_step_one_number():
    seen, steps = recorded(pipe_with("HeunDiscreteScheduler"), steps=3)
    assert steps == 3
    assert [s[1:3] for s in seen] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert seen[1][5] == seen[2][5]


def test_the_clock_counts_duplicated_timesteps_as_steps():
    seen, steps = recorded(make("sd"), steps=4)  # PNDM visits the second timestep twice
    assert steps == 5 and [s[1] for s in seen] == [0, 1, 2, 3, 4]
    assert seen[1][5] == seen[2][5]


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler"])
def test_the_clock_starts_at_the_first_executed_step(name):
    """Nobody tells DDIM where that is; the others have a begin index."""
    plain, _ = recorded(pipe_with(name), steps=5)
    seen, steps = recorded(pipe_with(name, "img2img"), steps=5, strength=0.6)
    assert steps == 3 and seen[0][1:3] == (0, 0) and seen[-1][1] == 2
    assert [s[5] for s in seen] == [s[5] for s in plain][-len(seen) :]


def test_the_clock_keeps_guidance_in_two_calls_apart():
    pipe, recorder = make("sd"), Recorder([])
    x, text = randn(1, 4, 8, 8), randn(1, 5, 8)
    with recorder.applied(pipe), torch.no_grad():
        pipe.scheduler.set_timesteps(2)
        for t in pipe.scheduler.timesteps:
            out = sum(pipe.unet(x, t, text * k).sample for k in (0, 1))
            x = pipe.scheduler.step(out, t, x).prev_sample
    assert [(s[1], s[3]) for s in recorder.seen] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_images_is_known_at_once_and_not_carried_over(kind):
    pipe, recorder = make(kind), Recorder([])
    with recorder.applied(pipe):
        for prompts in (3, 1):
            call(pipe, prompts=prompts, steps=2)
        images = [s[4] for s in recorder.seen]
        assert set(images) == {3, 1} and images == sorted(images, reverse=True)
        if kind != "flux":
            pipe.scheduler.set_timesteps(2)
            assert pipe.scheduler.run.images is None  # nobody has said anything about this generation


def test_a_clock_answers_as_the_scheduler_it_copies_and_leaves_it_alone():
    pipe = make("img2img")
    plain = call(pipe)
    before = fingerprint(pipe)
    with hosted(pipe) as host:
        assert [pipe.scheduler.run] == host.runs
        assert inspect.signature(pipe.scheduler.step).parameters.keys() >= {"model_output", "timestep", "sample"}
        assert torch.equal(call(pipe), plain)
    assert fingerprint(pipe) == before


def test_a_scheduler_that_keeps_a_run_is_not_replaced():
    pipe = make("sd")
    own = pipe.scheduler = SolverScheduler.from_config(SD15_SCHEDULER | {"_class_name": "PNDMScheduler"})
    with hosted(pipe) as host:
        assert pipe.scheduler is own and host.runs == [own.run]


@pytest.mark.parametrize("kind", KINDS)
def test_a_view_shares_tensors_and_nothing_else(kind):
    network = network_of(make(kind))
    twin = view(network)
    assert all(a is b for a, b in zip(network.parameters(), twin.parameters(), strict=True))
    assert all(a is b for a, b in zip(network.buffers(), twin.buffers(), strict=True))
    originals = {id(module) for module in network.modules()}
    for path, module in twin.named_modules():
        assert id(module) not in originals
        for key, value in vars(module).items():
            held = value if isinstance(value, list | tuple) else (value,)
            strays = [v for v in held if id(v) in originals or id(getattr(v, "__self__", None)) in originals]
            assert not strays, f"{path}.{key} leads back to the original"


def test_a_forward_that_was_replaced_is_refused():
    pipe = make("sd")
    block = pipe.unet.up_blocks[0]
    block.forward = block.forward
    before = fingerprint(pipe)
    refused = pytest.raises(UnsupportedModel, match="forward of CrossAttnUpBlock2D is replaced by another tool")
    with refused, DeepCache().applied(pipe):
        pytest.fail("wrapped something that a view cannot follow")
    assert fingerprint(pipe) == before


def test_the_first_wrapping_stays_outermost_and_keeps_the_signature():
    layer = view(nn.Linear(2, 2))
    order = []
    for name in ("first", "second"):
        wrap(layer, lambda inner, x, name=name: (order.append(name), inner(x))[1])
    layer(torch.ones(1, 2))
    assert order == ["first", "second"]
    assert list(inspect.signature(layer.forward).parameters) == ["input"]


def test_nested_changes_of_any_kind_are_taken_back_one_by_one():
    @dataclass(frozen=True)
    class Surgeon(Recorder):
        name = "surgeon"

        def attach(self, network, run):
            network.conv_in.weight = nn.Parameter(torch.zeros_like(network.conv_in.weight))
            network.mid_block = nn.Identity()
            network.conv_out.register_forward_hook(lambda *_: None)
            network.extra = 1

    pipe = make("sd")
    before = fingerprint(pipe)
    with Recorder([]).applied(pipe):
        inside = {k: v for k, v in fingerprint(pipe).items() if k[0] == "unet"}
        with Surgeon([]).applied(pipe):
            assert isinstance(pipe.unet.mid_block, nn.Identity)
        after = {k: v for k, v in fingerprint(pipe).items() if k[0] == "unet"}
        assert after.keys() == inside.keys()
        assert isinstance(pipe.unet.mid_block, nn.Module) and not hasattr(pipe.unet, "extra")
        assert not pipe.unet.conv_out._forward_hooks and pipe.unet.conv_in.weight.abs().sum() > 0
    assert fingerprint(pipe) == before


def test_conflicts_are_refused_whatever_the_order():
    class Loner(Recorder):
        name = "loner"
        conflicts = ("recorder",)

    pipe = make("sd")
    for outer, inner in ((Loner([]), Recorder([])), (Recorder([]), Loner([]))):
        with pytest.raises(HastenError, match="cannot work together"), outer.applied(pipe), inner.applied(pipe):
            pytest.fail("accepted")


def memory_of(network) -> weakref.ref:
    """The memory of the one cache that is attached."""
    held = (cell.cell_contents for cell in network.forward.func.__closure__)
    return next(weakref.ref(value) for value in held if isinstance(value, Memory))


def test_memory_is_free_on_exit_without_the_garbage_collector():
    pipe = make("sd")
    gc.disable()
    try:
        with DeepCache().applied(pipe):
            memory = memory_of(pipe.unet)
            call(pipe)
            assert memory() is not None
        assert memory() is None
    finally:
        gc.enable()
