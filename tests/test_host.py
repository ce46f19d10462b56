"""Pipelines that are more than one network called once a step: two networks, pipelines inside, a call a branch."""

import diffusers
import every
import pytest
import torch
from tiny import randn

import hasten
from hasten.bridge import SolverScheduler
from hasten.core.errors import HastenError, NothingChanged, UnsupportedModel
from hasten.guidance import GuidanceInterval
from hasten.runtime.host import host_of
from hasten.runtime.stages import stages_of

NEVER = {"guidance": {"name": "interval", "high": 0.0}}
SEPARATE = ["WanPipeline", "QwenImagePipeline", "CogView4Pipeline", "Lumina2Pipeline"]


def ran(name, recipe, **more):
    """What a pipeline makes by a recipe, how often its network was called, and what each part says that it did."""
    pipe, arguments = every.build(name)
    calls = []
    with hasten.accelerate(pipe, recipe) as fast:
        for stage in stages_of(pipe):
            for network in stage.networks:
                getattr(stage.pipe, network).register_forward_hook(lambda *_: calls.append(0))
        made = every.call(fast, arguments | more, steps=6)
        acted = host_of(pipe).runs[0].acted
    return made, len(calls), acted


@pytest.mark.parametrize("name", SEPARATE)
def test_guidance_saves_the_unconditional_call_where_branches_are_calls(name):
    plain, whole, _ = ran(name, {})
    made, fewer, said = ran(name, {"guidance": {"name": "reuse", "interval": 2}})
    assert whole == 12 and fewer == 9 and said == {"reuse": True}
    assert made.isfinite().all() and not torch.equal(made, plain)
    always, all_calls, said = ran(name, {"guidance": {"name": "reuse", "interval": 2, "start": 1.0}})
    assert torch.equal(always, plain) and all_calls == 12 and said == {"reuse": False}


@pytest.mark.parametrize("name", SEPARATE)
def test_outside_of_the_interval_separate_branches_are_the_conditional_one(name):
    """With the negative prompt in the place of the positive one nothing is left to guide by: the same picture."""
    pipe, arguments = every.build(name)
    made, calls, _ = ran(name, NEVER)
    given = {f"negative_{key}": value for key, value in arguments.items() if f"negative_{key}" in arguments}
    alone = arguments | given
    expected = every.call(pipe, alone, steps=6)
    assert calls == 6 and torch.allclose(made, expected, atol=1e-5)


class Loop:
    """A pipeline that nobody has said anything about, with both branches in one batch."""

    def __init__(self, unet, scheduler, conditional_first):
        self.unet, self.scheduler, self.first = unet, scheduler, conditional_first

    def __call__(self, num_inference_steps=6, scale=4.0, negative=0):
        scheduler, x, texts = self.scheduler, randn(2, 4, 8, 8), [randn(2, 5, 8, seed=seed) for seed in (1, negative)]
        scheduler.set_timesteps(num_inference_steps)
        order = (0, 1) if self.first else (1, 0)
        for t in scheduler.timesteps:
            answer = self.unet(torch.cat([x, x]), t, torch.cat([texts[i] for i in order])).sample.chunk(2)
            cond, uncond = answer[order[0]], answer[order[1]]
            x = scheduler.step(uncond + scale * (cond - uncond), t, x).prev_sample
        return x


@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
def test_which_branch_is_the_conditional_one_is_learnt_where_nobody_says(first):
    pipe, _ = every.build("StableDiffusionPipeline")
    loop = Loop(pipe.unet, pipe.scheduler, first)
    with torch.no_grad():
        plain, level = loop(), 1.0
        with hasten.accelerate(loop, {"guidance": {"name": "interval", "low": level}}) as fast:
            made = fast()
            assert host_of(loop).runs[0].conditional_last is not first
        by_hand = _guided_above(loop, level)
    assert torch.allclose(made, by_hand, atol=1e-5) and not torch.allclose(made, plain, atol=1e-3)


def _guided_above(loop, level):
    """The loop, guided where the noise is above a level, written out."""
    scheduler, x, texts = loop.scheduler, randn(2, 4, 8, 8), [randn(2, 5, 8, seed=seed) for seed in (1, 0)]
    scheduler.set_timesteps(6)
    interval = GuidanceInterval(low=level)
    for t in scheduler.timesteps:
        cond, uncond = (loop.unet(x, t, text).sample for text in texts)
        a = scheduler.alphas_cumprod[int(t)]
        scale = 4.0 if float(((1 - a) / a).sqrt()) > interval.low else 1.0
        x = scheduler.step(uncond + scale * (cond - uncond), t, x).prev_sample
    return x


def test_a_subclass_with_a_call_of_its_own_is_not_taken_for_its_parent():
    pipe, _ = every.build("StableDiffusionPipeline")

    class Own(type(pipe)):
        def __call__(self): ...

    assert stages_of(pipe)[0].conditional_last is True
    assert stages_of(Own(**pipe.components))[0].conditional_last is None
    lumina, _ = every.build("LuminaPipeline")
    assert stages_of(lumina)[0].conditional_last is False


@pytest.mark.parametrize("cache", ["fora", "first-block", {"name": "cache", "site": "whole"}], ids=str)
def test_both_networks_of_a_stage_are_accelerated(cache):
    pipe, arguments = every.build("WanPipeline")
    pipe.register_modules(transformer_2=every.build("WanPipeline", seed=1)[0].transformer)
    pipe.register_to_config(boundary_ratio=0.6)
    plain = every.call(pipe, arguments, steps=8)
    with hasten.accelerate(pipe, {"caches": [cache]}) as fast:
        assert fast.transformer is not pipe.components["transformer"]
        assert fast.transformer_2 is not pipe.components["transformer_2"]
        first = every.call(fast, arguments, steps=8)
        assert torch.equal(every.call(fast, arguments, steps=8), first)
    assert torch.equal(every.call(pipe, arguments, steps=8), plain)


def test_pipelines_made_of_pipelines_are_accelerated_and_what_does_not_fit_is_named():
    pipe, arguments = every.build("KandinskyV22CombinedPipeline")
    plain = every.call(pipe, arguments)
    assert [stage.name for stage in stages_of(pipe)] == ["prior_pipe", "decoder_pipe"]
    refused = pytest.warns(
        NothingChanged, match="deepcache is not applied to prior_pipe: model: PriorTransformer has no"
    )
    with refused, hasten.accelerate(pipe, {"caches": ["deepcache"]}) as fast:
        assert not torch.equal(every.call(fast, arguments), plain)
    assert torch.equal(every.call(pipe, arguments), plain)


@pytest.mark.parametrize(
    "name, recipe, told",
    [
        ("StableDiffusionSAGPipeline", {"caches": ["deepcache"]}, "cache: StableDiffusionSAGPipeline looks"),
        ("LDMSuperResolutionPipeline", {"quantize": "bfloat16"}, "LDMSuperResolutionPipeline takes the dtype"),
        ("StableDiffusionPAGPipeline", NEVER, "interval: StableDiffusionPAGPipeline needs every branch"),
        ("AnimateDiffPipeline", {"caches": ["deepcache"]}, "takes the frames of a video for rows"),
        ("ZImagePipeline", {"caches": ["fora"]}, "takes x as list"),
        ("DDPMPipeline", {"guidance": 3.0}, "guidance: DDPMPipeline takes no guidance_scale"),
    ],
)  # fmt: skip
def test_what_a_pipeline_cannot_carry_is_refused_by_name(name, recipe, told):
    pipe, arguments = every.build(name)
    plain = every.call(pipe, arguments)
    with pytest.raises(HastenError, match=told):
        hasten.accelerate(pipe, recipe)
    assert torch.equal(every.call(pipe, arguments), plain)


def test_seeds_belong_to_images_however_a_batch_is_asked_for():
    pipe, _ = every.build("DDPMPipeline")
    with hasten.accelerate(pipe, {"solver": "dpm++", "steps": 3}) as fast:
        both = torch.tensor(fast(batch_size=2, seed=4, output_type="np").images)
        one = torch.tensor(fast(seed=5, output_type="np").images)
        assert torch.allclose(both[1], one[0], atol=1e-5)
        with pytest.raises(HastenError, match="seed: 3 seeds for 2 images"):
            fast(batch_size=2, seed=[1, 2, 3])
    pipe, arguments = every.build("DiTPipeline")
    with hasten.accelerate(pipe, {"solver": "dpm++", "steps": 3}) as fast:
        given = arguments | {"output_type": "np"}
        both = torch.tensor(fast(**given | {"class_labels": [1, 2]}, seed=[4, 5]).images)
        one = torch.tensor(fast(**given | {"class_labels": [2]}, seed=5).images)
        assert torch.allclose(both[1], one[0], atol=1e-5)


@pytest.mark.parametrize("cache", ["diffusers-first-block"])
def test_borrowed_caches_refuse_the_residuals_that_they_would_add_twice(cache):
    pipe, arguments = every.build("FluxControlNetPipeline")
    with hasten.accelerate(pipe, {"caches": [cache]}) as fast, pytest.raises(UnsupportedModel, match="ControlNet"):
        every.call(fast, arguments)


def test_a_pipeline_that_draws_for_the_first_image_only_is_refused_or_given_a_picture_each():
    pipe, arguments = every.build("FluxImg2ImgPipeline")
    with hasten.accelerate(pipe, {"solver": "euler"}) as fast:
        alone = every.tensor(fast(**arguments, num_inference_steps=4, seed=4))
        with pytest.raises(HastenError, match="seed: this pipeline draws something for the first image only"):
            fast(**arguments, num_inference_steps=4, num_images_per_prompt=2, seed=3)
        two = {k: x.repeat(2, *[1] * (x.ndim - 1)) if "embeds" in k else x for k, x in arguments.items()}
        both = every.tensor(fast(**two, num_inference_steps=4, seed=[3, 4]))
    assert torch.allclose(both[1:], alone, atol=1e-4)


def test_a_number_of_images_that_a_pipeline_ignores_is_refused_in_one_line():
    pipe, arguments = every.build("AnimateDiffPipeline")
    with (
        hasten.accelerate(pipe, {"solver": "dpm++"}) as fast,
        pytest.raises(HastenError, match="seed: AnimateDiffPipeline failed, given a list of 2 generators"),
    ):
        fast(**arguments, num_inference_steps=2, num_videos_per_prompt=2, seed=0)


@pytest.mark.parametrize("name", ["StableDiffusionPanoramaPipeline", "StableDiffusionPix2PixZeroPipeline"])
def test_images_that_depend_on_their_batch_have_no_seeds_of_their_own(name):
    pipe, arguments = every.build(name)
    with hasten.accelerate(pipe, {"solver": "euler"}) as fast:
        fast(**arguments, num_inference_steps=2, seed=0)
        with pytest.raises(UnsupportedModel, match=f"seed: {name} makes images that depend on the others"):
            fast(**arguments, num_inference_steps=2, num_images_per_prompt=2, seed=0)


def test_a_borrowed_cache_that_does_not_know_a_network_says_so():
    pipe, arguments = every.build("Flux2KleinPipeline")
    with hasten.accelerate(pipe, {"caches": ["diffusers-first-block"]}) as fast:
        try:
            every.call(fast, arguments)
        except HastenError as error:
            assert "cannot run on this model" in str(error)


def test_rows_that_lie_deeper_are_not_picked():
    pipe, _ = every.build("HiDreamImagePipeline")
    with pytest.raises(HastenError, match="needs every branch"):
        hasten.accelerate(pipe, NEVER)


@pytest.mark.parametrize("scale", [0.3, 0.5, 3.0])
def test_an_order_that_cannot_be_told_from_a_scale_below_1_is_not_guessed(scale):
    pipe, _ = every.build("StableDiffusionPipeline")
    loop = Loop(pipe.unet, pipe.scheduler, conditional_first=False)
    with torch.no_grad():
        plain = loop(scale=scale)
        with hasten.accelerate(loop, {"guidance": {"name": "interval", "low": 1.0}}) as fast:
            made, known = fast(scale=scale), host_of(loop).runs[0].conditional_last
    assert known is (None if scale < 1 else True)
    assert torch.equal(made, plain) is (scale < 1)


def test_nothing_told_to_a_scheduler_of_the_pipelines_own_outlives_the_call():
    pipe, arguments = every.build("StableDiffusionPipeline")
    own = pipe.scheduler = SolverScheduler.of(pipe.scheduler, solver="dpm++")
    two = {key: x.repeat(2, 1, 1) if isinstance(x, torch.Tensor) else x for key, x in arguments.items()}
    with hasten.accelerate(pipe, {"caches": [{"name": "faster-diffusion", "keys": 2, "injection": 0.1}]}) as fast:
        fast(**two, num_inference_steps=3, seed=[1, 2])
        assert (own.run.seeds, own.generator, own.given) == (None, None, None)
        assert len(own.run.edits) == 1
        pipe.unet.requires_grad_(False)  # the views are made anew, on the same run
        assert len(own.run.edits) == 1
    assert not own.run.edits and own.run.conditional_last is True
    three = {key: x.repeat(3, 1, 1) if isinstance(x, torch.Tensor) else x for key, x in arguments.items()}
    assert len(every.call(pipe, three, steps=2)) == 3


def test_a_pipeline_inside_that_is_accelerated_already_is_refused():
    pipe, arguments = every.build("KandinskyV22CombinedPipeline")
    plain = every.call(pipe, arguments)
    refused = pytest.raises(HastenError, match="or one inside of it, is accelerated already")
    with hasten.accelerate(pipe.decoder_pipe, {"quantize": "bfloat16"}), refused:
        hasten.accelerate(pipe, {"quantize": "bfloat16"})
    assert torch.equal(every.call(pipe, arguments), plain)


@pytest.mark.parametrize("change", ["cache of diffusers", "no network"])
def test_a_change_that_no_recipe_can_follow_ends_it_and_says_so(change):
    pipe, arguments = every.build("FluxPipeline")
    with hasten.accelerate(pipe, {"caches": ["fora"]}) as fast:
        with pytest.raises(HastenError, match="model: the recipe is no longer applied, since the pipeline was changed"):
            if change == "no network":
                pipe.transformer = None
            else:
                pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(0.05))
        if change != "no network":
            assert every.call(fast, arguments).isfinite().all()
        with pytest.raises(HastenError, match="no longer applied; restore it first"):
            hasten.accelerate(pipe, {"caches": ["fora"]})
    assert type(pipe) is diffusers.FluxPipeline and (pipe.transformer is None) is (change == "no network")


def test_arguments_by_position_win_over_the_recipe_as_those_by_name_do():
    pipe, arguments = every.build("StableDiffusionPipeline")
    with hasten.accelerate(pipe, {"steps": 5, "guidance": 2.0}) as fast:
        by_name = every.call(fast, arguments | {"height": 16, "width": 16, "guidance_scale": 5.0}, steps=3)
        generator = torch.Generator().manual_seed(0)
        arguments = {key: arguments[key] for key in arguments if key not in ("prompt", "height", "width")}
        made = fast(None, 16, 16, 3, None, None, 5.0, **arguments, generator=generator)
        assert torch.equal(every.tensor(made), by_name)
        with pytest.raises(HastenError, match="height: was given twice"):
            fast(None, 16, height=16)


def test_equal_timesteps_an_image_are_one_and_others_are_refused():
    pipe, arguments = every.build("StableCascadeDecoderPipeline")
    two = {key: x.repeat(2, *[1] * (x.ndim - 1)) if isinstance(x, torch.Tensor) else x for key, x in arguments.items()}
    with hasten.accelerate(pipe, {"caches": [{"name": "cache", "site": "whole"}]}) as fast:
        both = every.tensor(fast(**two, num_inference_steps=4, seed=[3, 4]))
        assert torch.allclose(both[1:], every.tensor(fast(**arguments, num_inference_steps=4, seed=4)), atol=1e-3)
        scheduler, x = fast.scheduler, randn(2, 4, 8, 8)
        scheduler.set_timesteps(4)
        with pytest.raises(HastenError, match="timestep: 2 different ones at once"):
            scheduler.step(x, scheduler.timesteps[:2], x)


def test_compilation_asks_nothing_of_rows():
    pipe, arguments = every.build("ZImagePipeline")
    plain = every.call(pipe, arguments)
    with hasten.accelerate(pipe, {"compile": {"name": "torch-compile", "backend": "eager"}}) as fast:
        assert torch.allclose(every.call(fast, arguments), plain, atol=1e-4)


def test_a_scheduler_that_is_not_understood_hinders_no_recipe_that_does_not_ask_it():
    pipe, arguments = every.build("KarrasVePipeline")
    plain = every.call(pipe, arguments, steps=3)
    with hasten.accelerate(pipe, {"steps": 3}) as fast:
        assert torch.equal(every.call(fast, arguments, steps=None), plain)
    for recipe in ({"solver": "euler"}, {"caches": ["deepcache"]}):
        with pytest.raises(HastenError, match="scheduler: KarrasVeScheduler cannot be replaced or followed"):
            hasten.accelerate(pipe, recipe)
    assert torch.equal(every.call(pipe, arguments, steps=3), plain)
