"""Borrowed caches give what their own library gives on the same pipeline, and are gone without a trace."""

import copy
import gc
import weakref
from itertools import pairwise

import pytest
import torch
from pipelines import arguments, call, make
from tiny import fingerprint

from hasten.caches import CACHES, DeepCache
from hasten.caches import DiffusersFasterCache as FasterCache
from hasten.caches import DiffusersFirstBlock as FirstBlock
from hasten.caches import DiffusersMagCache as MagCache
from hasten.caches import DiffusersPAB as PyramidAttention
from hasten.caches import DiffusersTaylorSeer as TaylorSeer
from hasten.core.errors import HastenError, UnsupportedModel
from hasten.guidance import GuidanceInterval
from hasten.recipe import Recipe
from hasten.runtime.anatomy import network_of

STEPS = 9
RATIOS = (1.0, 1.2, 1.05, 1.0, 0.98, 0.9)


class Theirs:
    """A pipeline of its own, changed as the documentation of diffusers says."""

    def __init__(self, kind: str, apply, steps: int = STEPS, calls_a_step: int = 1) -> None:
        self.pipe, self.steps, self.calls_a_step, self.calls = make(kind), steps, calls_a_step, 0
        network = self.pipe.transformer if hasattr(self.pipe, "transformer") else self.pipe.unet
        apply(network, self.timestep)
        network.register_forward_pre_hook(self._count)
        if kind != "flux":  # the only one of these pipelines that opens a context
            inner = network.forward

            def in_context(*args, **kwargs):
                from diffusers.hooks.hooks import CacheContext, HookRegistry, _set_cache_context

                HookRegistry.check_if_exists_or_initialize(network).invalidate_child_registries_cache()
                _set_cache_context(network, CacheContext("one"))
                return inner(*args, **kwargs)

            network.forward = in_context

    def _count(self, *_) -> None:
        self.calls += 1

    def timestep(self) -> float:
        return float(self.pipe.scheduler.timesteps[(self.calls - 1) // self.calls_a_step])

    def __call__(self, **more):
        return call(self.pipe, steps=self.steps, **more)


def first_block(threshold):
    from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache

    return lambda network, _: apply_first_block_cache(network, FirstBlockCacheConfig(threshold))


def mag_cache(threshold, most, retain):
    from diffusers.hooks import MagCacheConfig, apply_mag_cache

    config = MagCacheConfig(threshold, most, retain, STEPS, list(RATIOS))
    return lambda network, _: apply_mag_cache(network, config)


def pab(low, high, **every):
    from diffusers.hooks import PyramidAttentionBroadcastConfig, apply_pyramid_attention_broadcast

    ranges = {f"{kind}_attention_timestep_skip_range": (low, high) for kind in ("spatial", "cross")}
    every = {f"{kind}_attention_block_skip_range": n for kind, n in every.items()}
    return lambda network, at: apply_pyramid_attention_broadcast(
        network, PyramidAttentionBroadcastConfig(current_timestep_callback=at, **every, **ranges)
    )


def faster_cache(distilled=False, **settings):
    from diffusers.hooks import FasterCacheConfig, apply_faster_cache

    names = ["hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask", "pooled_projections"]
    return lambda network, at: apply_faster_cache(
        network,
        FasterCacheConfig(
            current_timestep_callback=at, tensor_format="BCHW", is_guidance_distilled=distilled,
            _unconditional_conditional_input_kwargs_identifiers=names, **settings,
        ),
    )  # fmt: skip


def taylorseer(*settings, **more):
    from diffusers.hooks import TaylorSeerCacheConfig, apply_taylorseer_cache

    return lambda network, _: apply_taylorseer_cache(network, TaylorSeerCacheConfig(*settings, **more))


PAIRS = [
    ("flux", FirstBlock(0.6), first_block(0.6)),
    ("pixart", FirstBlock(0.3), first_block(0.3)),
    ("flux", MagCache(0.5, 2, 0.2, RATIOS), mag_cache(0.5, 2, 0.2)),
    ("sd3", MagCache(0.3, 3, 0.0, RATIOS), mag_cache(0.3, 3, 0.0)),
    ("pixart", MagCache(0.3, 3, 0.4, RATIOS), mag_cache(0.3, 3, 0.4)),
    ("flux", PyramidAttention(), pab(100, 800, spatial=2)),
    ("sd3", PyramidAttention(spatial=3, low=300), pab(300, 800, spatial=3)),
    ("pixart", PyramidAttention(cross=4), pab(100, 800, spatial=2, cross=4)),
    ("sd", PyramidAttention(cross=3), pab(100, 800, spatial=2, cross=3)),
    ("sdxl", PyramidAttention(spatial=1, cross=3, high=900), pab(100, 900, cross=3)),
    ("controlnet", PyramidAttention(), pab(100, 800, spatial=2)),
    ("flux", FasterCache(attention=3), faster_cache(True, spatial_attention_block_skip_range=3)),
    ("sd3", FasterCache(), faster_cache()),
    ("pixart", FasterCache(), faster_cache()),
    (
        "sd3",
        FasterCache(
            weight=0.3, unconditional=3, low=1.3, high=0.8, low_between=(200, 901), high_between=(0, 500),
            attention_below=801.0, unconditional_below=701.0,
        ),
        faster_cache(
            attention_weight_callback=lambda _: 0.3, unconditional_batch_skip_range=3, alpha_low_frequency=1.3,
            alpha_high_frequency=0.8, low_frequency_weight_update_timestep_range=(200, 901),
            high_frequency_weight_update_timestep_range=(0, 500), spatial_attention_timestep_skip_range=(-1, 801),
            unconditional_batch_timestep_skip_range=(-1, 701),
        ),
    ),
    ("flux", TaylorSeer(), taylorseer()),
    ("sd3", TaylorSeer(3, 2, order=2, dtype="float32"), taylorseer(3, 2, None, 2, torch.float32)),
    ("pixart", TaylorSeer(2, modules=(r".*attn\d",), tail=7), taylorseer(2, 3, 7, cache_identifiers=[r".*attn\d"])),
    ("sd", TaylorSeer(3, modules=(".*attn1",)), taylorseer(3, cache_identifiers=[".*attn1"])),
    ("flux", TaylorSeer(3, lite=True), taylorseer(3, use_lite_mode=True)),
]  # fmt: skip
every_pair = pytest.mark.parametrize(("kind", "cache", "apply"), PAIRS, ids=lambda x: getattr(x, "name", None))


@every_pair
def test_it_equals_diffusers_own_bit_for_bit(kind, cache, apply):
    pipe = make(kind)
    plain = call(pipe, steps=STEPS)
    expected = Theirs(kind, apply)()
    assert not torch.equal(expected, plain), "the example must do something, or this test shows nothing"
    before = fingerprint(pipe)
    with cache.applied(pipe):
        assert torch.equal(call(pipe, steps=STEPS), expected)
        call(pipe, steps=3, prompts=2)
        assert torch.equal(call(pipe, steps=STEPS), expected), "nothing is left of the generation before"
    assert fingerprint(pipe) == before
    assert torch.equal(call(pipe, steps=STEPS), plain)


def two_calls(prompts: int = 1) -> dict:
    embeds = arguments(make("flux"), prompts)
    negative = {f"negative_{key}": torch.zeros_like(value) for key, value in embeds.items() if key.endswith("embeds")}
    return negative | {"true_cfg_scale": 3.0}


@pytest.mark.parametrize(
    ("cache", "apply"),
    [(FirstBlock(0.6), first_block(0.6)), (MagCache(0.5, 2, 0.2, RATIOS), mag_cache(0.5, 2, 0.2)),
     (TaylorSeer(), taylorseer())],
    ids=["first-block", "magcache", "taylorseer"],
)  # fmt: skip
def test_guidance_in_two_calls_equals_diffusers_contexts(cache, apply):
    pipe = make("flux")
    expected = Theirs("flux", apply, calls_a_step=2)(**two_calls())
    with cache.applied(pipe):
        assert torch.equal(call(pipe, steps=STEPS, **two_calls()), expected)


@pytest.mark.parametrize("cache", [PyramidAttention(low=-1), FasterCache(attention_below=1001)], ids=lambda c: c.name)
def test_guidance_in_two_calls_is_not_mixed_up_where_diffusers_knows_no_contexts(cache):
    """With equal prompts both calls are the same, and guidance has nothing to add, whatever the cache holds."""
    pipe = make("flux")
    embeds = arguments(pipe)
    same = {f"negative_{k}": v for k, v in embeds.items() if k.endswith("embeds")}
    with cache.applied(pipe):
        unguided = call(pipe, steps=STEPS)
        assert (call(pipe, steps=STEPS, true_cfg_scale=3.0, **same) - unguided).abs().max() < 1e-5
        twice = call(pipe, steps=STEPS, **two_calls())
        again = call(pipe, steps=STEPS, **two_calls())
    assert torch.equal(twice, again)


def test_a_generation_that_starts_inside_of_the_range_does_not_read_an_empty_cache():
    """diffusers' own fails here: its first call skips attention that was never computed."""
    theirs = Theirs("flux", faster_cache(True, spatial_attention_timestep_skip_range=(-1, 1001)))
    with pytest.raises(TypeError, match="NoneType"):
        theirs()
    pipe = make("flux")
    with FasterCache(attention_below=1001).applied(pipe):
        assert torch.isfinite(call(pipe, steps=STEPS)).all()


@pytest.mark.parametrize("kind", ["sd3", "pixart"])
def test_without_guidance_images_are_not_taken_for_branches(kind):
    """Two images and no guidance: halving this batch would hand one image the other's prediction."""
    pipe = make(kind)
    cache = FasterCache(attention=1, unconditional=2, unconditional_below=1001)
    plain = call(pipe, prompts=2, guidance_scale=1.0)
    with cache.applied(pipe):
        assert torch.equal(call(pipe, prompts=2, guidance_scale=1.0), plain)


# order and company


def test_a_guidance_interval_outside_changes_the_rows_that_a_cache_sees():
    pipe = make("pixart")
    for cache in (TaylorSeer(2, 1, modules=(".*attn1",)), PyramidAttention(low=-1, high=1001), FirstBlock(0.3)):
        with GuidanceInterval(low=1.0).applied(pipe), cache.applied(pipe):
            first = call(pipe, steps=6)
            assert torch.isfinite(first).all() and torch.equal(call(pipe, steps=6), first)


def test_layers_before_and_after_stay_around_and_inside():
    """A cache that skips everything shows who runs: outer layers always, inner ones on computed steps."""
    from hasten.caches.hooked import adopt
    from hasten.runtime.view import view, wrap

    seen: list[str] = []

    def named(name):
        def forward(inner, *args, **kwargs):
            seen.append(name)
            return inner(*args, **kwargs)

        return forward

    network = view(make("flux").transformer)
    block = network.transformer_blocks[0]
    wrap(block, named("outer"))
    adopt(network, lambda n: taylorseer(2, 1, cache_identifiers=["transformer_blocks.0"])(n, None), lambda _: None)
    wrap(block, named("inner"))
    assert block._diffusers_hook.hooks
    from diffusers.hooks.hooks import CacheContext, _set_cache_context

    args = (torch.zeros(1, 3, 16), torch.zeros(1, 2, 16), torch.zeros(1, 16))
    rotary = (torch.ones(5, 8), torch.zeros(5, 8))
    _set_cache_context(network, CacheContext("one"))
    with torch.no_grad():
        for _ in range(3):
            block(*args, image_rotary_emb=rotary)
    assert seen == ["outer", "inner", "outer", "outer", "inner"]  # steps 0 and 2 are computed


@pytest.mark.parametrize("cls", [FirstBlock, MagCache, FasterCache, TaylorSeer], ids=lambda c: c.name)
def test_two_caches_of_the_same_steps_are_refused(cls):
    for other in (DeepCache, *(c for c in (FirstBlock, MagCache, FasterCache, TaylorSeer) if c is not cls)):
        with pytest.raises(HastenError, match="cannot work together"):
            Recipe(caches=[cls.name, other.name])
        with pytest.raises(HastenError, match="cannot work together"):
            Recipe(caches=[other.name, cls.name])


@pytest.mark.parametrize("guidance", ["reuse", "reuse-frequencies"])
def test_two_that_leave_out_the_unconditional_branch_are_refused(guidance):
    with pytest.raises(HastenError, match="cannot work together"):
        Recipe(guidance=guidance, caches="diffusers-fastercache")
    assert Recipe(guidance=guidance, caches="diffusers-first-block").accelerations


def test_broadcast_attention_joins_deepcache():
    pipe = make("sd")
    with DeepCache(2).applied(pipe):
        alone = call(pipe, steps=6)
        with PyramidAttention(low=-1, high=1001).applied(pipe):
            both = call(pipe, steps=6)
            assert torch.equal(call(pipe, steps=6), both) and not torch.equal(both, alone)
        assert torch.equal(call(pipe, steps=6), alone)


def test_a_network_that_has_been_in_a_cache_context_can_be_accelerated():
    """diffusers leaves an empty registry on a network; that of the caller must not be taken for the view's."""
    pipe = make("flux")
    cold = make("flux")
    with FirstBlock(0.6).applied(cold):
        expected = call(cold, steps=STEPS)
    call(pipe)
    registry = pipe.transformer._diffusers_hook
    held = copy.copy(vars(registry))
    with FirstBlock(0.6).applied(pipe):
        assert torch.equal(call(pipe, steps=STEPS), expected)
    assert pipe.transformer._diffusers_hook is registry and vars(registry) == held


def test_memory_is_free_afterwards():
    pipe = make("flux")
    with TaylorSeer().applied(pipe):
        call(pipe)
        graft = weakref.ref(pipe.transformer)
    gc.collect()
    assert graft() is None


# MagCache is calibrated


def test_calibrated_ratios_are_those_of_the_residuals():
    pipe = make("pixart")
    blocks = pipe.transformer.transformer_blocks
    entered, left = [], []
    handles = [
        blocks[0].register_forward_pre_hook(lambda _, args: entered.append(args[0].clone())),
        blocks[-1].register_forward_hook(lambda _, args, out: left.append(out.clone())),
    ]
    call(pipe, steps=5)
    for handle in handles:
        handle.remove()
    norms = [(b - a).norm(dim=-1) for a, b in zip(entered, left, strict=True)]
    expected = [1.0, *((new / old).mean().item() for old, new in pairwise(norms))]
    before = fingerprint(pipe)
    fitted = MagCache().fit(pipe, **arguments(pipe), num_inference_steps=5, output_type="latent",
                            generator=torch.Generator().manual_seed(0))  # fmt: skip
    assert fitted.ratios == pytest.approx(expected, rel=1e-4) and fingerprint(pipe) == before
    assert fitted.threshold == MagCache().threshold


def test_magcache_without_ratios_is_refused_until_it_is_fitted():
    pipe = make("flux")
    with pytest.raises(HastenError, match=r"ratios: none are given; calibrate"), MagCache().applied(pipe):
        pytest.fail("accepted")


def test_magcache_schedule_is_that_of_the_published_table():
    """28 steps of Flux's table at the defaults: these steps are computed."""
    from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS

    pipe, computed = make("flux"), []
    with MagCache(ratios=tuple(FLUX_MAG_RATIOS.tolist())).applied(pipe):
        last = pipe.transformer.single_transformer_blocks[-1]
        last.norm.register_forward_hook(lambda *_: computed.append(pipe.scheduler.run.step))
        call(pipe, steps=28)
    assert computed == [*range(6), 7, 9, 13, 17, 21, 24, 26, 27]


def test_taylorseer_schedule():
    pipe, computed = make("flux"), []
    with TaylorSeer().applied(pipe):
        pipe.transformer.transformer_blocks[0].attn.to_q.register_forward_hook(
            lambda *_: computed.append(pipe.scheduler.run.step)
        )
        call(pipe, steps=16)
    assert computed == [0, 1, 2, 4, 9, 14]


# what is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "diffusers-first-block", "threshold": -1.0}, "threshold: -1.0"),
        ({"name": "diffusers-first-block", "treshold": 1.0}, "did you mean 'threshold'"),
        ({"name": "diffusers-magcache", "most": -1}, "most: -1"),
        ({"name": "diffusers-magcache", "retain": 2.0}, "retain: 2.0"),
        ({"name": "diffusers-magcache", "ratios": [1.0, -1.0]}, "ratios: -1.0"),
        ({"name": "diffusers-pab", "spatial": 0}, "spatial: 0"),
        ({"name": "diffusers-fastercache", "attention": 0}, "attention: 0"),
        ({"name": "diffusers-fastercache", "low_between": [1.0]}, "low_between: "),
        ({"name": "diffusers-taylorseer", "warmup": 0}, "warmup: 0"),
        ({"name": "diffusers-taylorseer", "dtype": "int8"}, "dtype: 'int8'"),
        ({"name": "diffusers-taylorseer", "modules": ["("]}, "modules: '\\('"),
    ],
)
def test_bad_settings_are_refused_in_one_line(fields, message):
    with pytest.raises(HastenError, match=message):
        CACHES.build(fields)


@pytest.mark.parametrize(
    ("kind", "cache", "message"),
    [
        ("sd", FirstBlock(), "UNet2DConditionModel has 0 transformer blocks"),
        ("sd3", FirstBlock(), "SD3Transformer2DModel hands no text on"),
        ("sd", FasterCache(), "UNet2DConditionModel has no attention in"),
        ("pixart", TaylorSeer(), "PixArtTransformer2DModel has no module called"),
        ("flux", PyramidAttention(spatial=1, cross=2), "FluxTransformer2DModel has no cross-attention"),
    ],
)
def test_models_that_lack_what_is_needed_are_refused_in_one_line(kind, cache, message):
    with pytest.raises(UnsupportedModel, match=message) as caught:
        cache.check(network_of(make(kind)))
    assert "\n" not in str(caught.value) and ";" in str(caught.value)
