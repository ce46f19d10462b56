"""accelerate and restore, on every kind of pipeline: what the recipe says happens, and nothing of it stays."""

import json

import pipelines
import pytest
import torch
from tiny import fingerprint

import hasten
from hasten import Recipe
from hasten.core.errors import HastenError, UnsupportedModel

PLAIN = {"solver": {"name": "dpm++", "order": 2}, "steps": 3}
FULL = PLAIN | {
    "guidance": {"scale": 4.0, "name": "interval", "low": 0.5, "high": 8.0},
    "caches": [{"name": "deepcache", "interval": 2}],
}
UNETS = ("sd", "img2img", "inpaint", "controlnet", "sdxl")
CASES = [*((kind, FULL) for kind in UNETS), *((kind, PLAIN) for kind in ("sd3", "flux", "pixart"))]
each = pytest.mark.parametrize(("kind", "recipe"), CASES, ids=[kind for kind, _ in CASES])


def settled(pipe):
    """The fingerprint without the notes that a diffusers pipeline itself leaves about its latest call."""
    notes = {name for name in vars(pipe) if name.startswith("_") and name != "_internal_dict"}
    return {key: value for key, value in fingerprint(pipe).items() if key[0] not in notes}


@each
def test_restore_leaves_every_bit_as_it_was(kind, recipe):
    pipe = pipelines.make(kind)
    before, shown = pipelines.call(pipe), settled(pipe)
    fast = hasten.accelerate(pipe, recipe)
    while_fast = pipelines.call(fast)
    fast.restore()
    assert settled(pipe) == shown
    assert not torch.equal(while_fast, before)
    assert torch.equal(pipelines.call(pipe), before)
    fast.restore()  # a second time does nothing
    assert torch.equal(pipelines.call(pipe), before)


@each
def test_restore_after_the_call_raised(kind, recipe):
    pipe = pipelines.make(kind)
    before = pipelines.call(pipe)
    shown = settled(pipe)

    def interrupt(pipe, step, timestep, kwargs):
        if step == 1:
            raise KeyboardInterrupt
        return kwargs

    hook = (
        {"callback": lambda *_: interrupt(pipe, 1, 0, {})} if kind == "pixart" else {"callback_on_step_end": interrupt}
    )
    with pytest.raises(KeyboardInterrupt), hasten.accelerate(pipe, recipe) as fast:
        pipelines.call(fast, **hook)
    assert settled(pipe) == shown
    assert torch.equal(pipelines.call(pipe), before)


def test_the_recipe_is_what_runs_and_the_caller_wins():
    pipe = pipelines.make("sd")
    network_rows = []
    pipe.unet.register_forward_pre_hook(lambda _, args: network_rows.append(len(args[0])))
    with hasten.accelerate(pipe, Recipe(solver="heun", steps=3, guidance=3.0)) as fast:
        fast("abc", height=16, width=16, output_type="latent")
        assert network_rows == [2] * 5
        network_rows.clear()
        fast("abc", height=16, width=16, output_type="latent", num_inference_steps=2, guidance_scale=1.0)
        assert network_rows == [1] * 3


def test_a_seed_is_an_image_in_any_batch_of_any_size():
    pipe = pipelines.make("sd")
    same = {"height": 16, "width": 16, "output_type": "latent"}
    with hasten.accelerate(pipe, FULL | {"solver": {"name": "dpm++", "eta": 1.0}}) as fast:
        alone = fast("cab", seed=7, **same).images
        pair = fast(["ab", "cab"], seed=7, **same).images
        four = fast(["bc", "cab"], seed=6, num_images_per_prompt=2, **same).images
        listed = fast(["cab", "x"], seed=[7, 99], **same).images
    for other in (pair[1:], four[3:], listed[:1]):
        torch.testing.assert_close(other, alone, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(four[2], four[3])


@pytest.mark.parametrize("kind", ["sd3", "flux", "pixart", "sdxl"])
def test_stochastic_solvers_take_their_noise_from_the_images_own_generators(kind):
    pipe = pipelines.make(kind)

    def generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    with hasten.accelerate(pipe, {"solver": {"name": "ddim", "eta": 1.0}}) as fast:
        pair = pipelines.call(fast, generator=generators(3, 4), prompts=2)
        first, again = (pipelines.call(fast, generator=generators(3)) for _ in range(2))
    assert torch.equal(first, again)
    torch.testing.assert_close(pair[:1], first, rtol=1e-4, atol=1e-4)


def test_a_recipe_without_a_solver_keeps_the_pipelines_own_scheduler():
    pipe = pipelines.make("sd")
    plain = pipelines.call(pipe, steps=4)
    with hasten.accelerate(pipe, {"caches": [{"name": "deepcache", "interval": 1}]}) as fast:
        assert torch.equal(pipelines.call(fast, steps=4), plain)
        assert type(fast.scheduler) is type(pipe.scheduler)


def test_paths_text_and_folders_are_recipes(tmp_path):
    pipe = pipelines.make("sd")
    Recipe(**FULL).save(tmp_path)
    results = []
    for recipe in (FULL, Recipe(**FULL), json.dumps(FULL), str(tmp_path), tmp_path / "recipe.json"):
        with hasten.accelerate(pipe, recipe) as fast:
            results.append(pipelines.call(fast))
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize(
    ("kind", "recipe", "error", "message"),
    [
        ("flux", {"caches": ["deepcache"]}, UnsupportedModel, "FluxTransformer2DModel"),
        ("sd3", {"solver": "ddim", "caches": ["deepcache"]}, UnsupportedModel, "SD3Transformer2DModel"),
        ("flux", {"guidance": "interval"}, UnsupportedModel, "guidance"),
        ("sd", {"caches": [{"name": "deepcache", "branch": 99}]}, UnsupportedModel, "branch: 99"),
        ("sd", {"solver": "dmp++"}, HastenError, "did you mean 'dpm"),
        ("sd", "no-such-recipe.json", HastenError, "there is no file"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_is_touched(kind, recipe, error, message):
    pipe = pipelines.make(kind)
    shown = fingerprint(pipe)
    with pytest.raises(error, match=message) as caught:
        hasten.accelerate(pipe, recipe)
    assert "\n" not in str(caught.value)
    assert fingerprint(pipe) == shown


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"latents": torch.full((1, 4, 8, 8), float("nan"))}, "latents"),
        ({"num_inference_steps": 0}, "num_inference_steps: 0"),
        ({"seed": -1}, "seed: -1"),
        ({"seed": [1, 2]}, "2 seeds"),
        ({"seed": 1, "generator": torch.Generator()}, "generator"),
    ],
)
def test_bad_calls_are_refused_and_the_next_one_works(call, message):
    pipe = pipelines.make("sd")
    same = {"height": 16, "width": 16, "output_type": "latent"}
    with hasten.accelerate(pipe, FULL) as fast:
        first = fast("ab", seed=0, **same).images
        with pytest.raises(HastenError, match=message):
            fast("ab", **same | call)
        assert torch.equal(fast("ab", seed=0, **same).images, first)
        if "seed" not in call:
            with hasten.accelerate(pipelines.make("sd"), {"solver": "ddim", "grid": [900.0, 100.0, 0.0]}) as explicit:
                explicit("ab", **same)
                with pytest.raises(HastenError, match="num_inference_steps: the recipe"):
                    explicit("ab", num_inference_steps=7, **same)
