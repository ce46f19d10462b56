"""Networks that are not made of blocks with one row an image, and what happens where a method does not fit them."""

import warnings

import every
import pytest
import torch

import hasten
from hasten.core.errors import HastenError, NothingChanged, UnsupportedModel
from hasten.runtime.host import host_of


@pytest.mark.parametrize("name", ["ErnieImagePipeline", "QwenImage21Pipeline", "AnyFlowPipeline"])
def test_parts_of_a_network_with_other_rows_are_not_skipped(name):
    pipe, arguments = every.build(name)
    with pytest.raises(UnsupportedModel, match="functions of one row an image"):
        hasten.accelerate(pipe, {"caches": ["fora"]})
    with hasten.accelerate(pipe, {"caches": [{"name": "cache", "site": "whole", "gate": "every"}]}) as fast:
        assert every.call(fast, arguments).isfinite().all()


def test_a_network_that_answers_with_sound_as_well_is_not_remembered_as_a_whole():
    pipe, arguments = every.build("LTX2Pipeline")
    with (
        hasten.accelerate(pipe, {"caches": ["cache"]}) as fast,
        pytest.raises(UnsupportedModel, match="whole: LTX2VideoTransformer3DModel answers with 2 tensors"),
    ):
        every.call(fast, arguments)


@pytest.mark.parametrize("name", ["CosmosTextToWorldPipeline", "CosmosVideoToWorldPipeline"])
def test_a_scheduler_that_is_set_back_counts_a_step_once(name):
    pipe, arguments = every.build(name)
    steps = []
    with hasten.accelerate(pipe, {"caches": [{"name": "fora", "interval": 4}]}) as fast:
        run = host_of(pipe).runs[0]
        pipe.transformer.register_forward_pre_hook(lambda *_: steps.append((run.step, len(run.past))))
        every.call(fast, arguments, steps=4)
    assert sorted(set(steps)) == [(i, i) for i in range(4)] and len(steps) == 8


@pytest.mark.parametrize(
    ("name", "cache"),
    [
        ("FluxPipeline", {"name": "diffusers-pab", "low": 5000.0, "high": 6000.0}),
        ("FluxPipeline", {"name": "diffusers-first-block", "threshold": 1e-9}),
        ("StableDiffusion3Pipeline", {"name": "diffusers-fastercache", "attention_below": 0.0, "unconditional": 1}),
    ],
)
def test_a_borrowed_cache_that_held_nothing_says_so(name, cache):
    pipe, arguments = every.build(name)
    with hasten.accelerate(pipe, {"caches": [cache]}) as fast, pytest.warns(NothingChanged, match=cache["name"]):
        every.call(fast, arguments, silent=False)


def test_a_borrowed_cache_that_held_something_says_nothing():
    pipe, arguments = every.build("FluxPipeline")
    cache = {"name": "diffusers-pab", "low": -1.0, "high": 1001.0}
    with hasten.accelerate(pipe, {"caches": [cache]}) as fast, warnings.catch_warnings():
        warnings.simplefilter("error", NothingChanged)
        every.call(fast, arguments, silent=False)


def test_a_network_that_fails_names_what_was_applied_to_it():
    pipe, arguments = every.build("StableDiffusionPipeline")
    wrong = {**arguments, "prompt_embeds": torch.zeros(1, 3, 5), "negative_prompt_embeds": torch.zeros(1, 3, 5)}
    wrong.pop("prompt", None)
    with (
        hasten.accelerate(pipe, {"caches": ["deepcache"]}) as fast,
        pytest.raises(HastenError, match="model: UNet2DConditionModel failed while this was applied to it: deepcache"),
    ):
        every.call(fast, wrong)
    with hasten.accelerate(pipe, {"solver": "euler"}) as fast, pytest.raises(RuntimeError):
        every.call(fast, wrong)
