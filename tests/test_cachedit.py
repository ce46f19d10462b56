"""DBCache gives what cache-dit gives on the same pipeline, and is gone without a trace."""

import gc
import subprocess
import sys
import weakref

import pytest
import torch
from pipelines import arguments, call, make
from tiny import fingerprint

from hasten.caches import CACHES, DBCache
from hasten.core.errors import HastenError, UnsupportedModel
from hasten.recipe import Recipe
from hasten.runtime.anatomy import network_of

STEPS = 9
cache_dit = pytest.importorskip("cache_dit")


def theirs(kind: str, separate: bool = False, **settings):
    """Of another pipeline, changed as the documentation of cache-dit says, and its first call."""
    pipe = make(kind)
    series = settings.pop("series", None)
    config = cache_dit.DBCacheConfig(**settings, enable_separate_cfg=separate)
    cache_dit.enable_cache(pipe.transformer, cache_config=config, calibrator_config=series)
    return pipe


PAIRS = [
    ("flux", DBCache(1, 0, 0.4, 2), {"Fn_compute_blocks": 1, "residual_diff_threshold": 0.4, "max_warmup_steps": 2}),
    (
        "flux",
        DBCache(1, 1, 1e9, 1, most=4, in_a_row=2),
        {
            "Fn_compute_blocks": 1, "Bn_compute_blocks": 1, "residual_diff_threshold": 1e9, "max_warmup_steps": 1,
            "max_cached_steps": 4, "max_continuous_cached_steps": 2,
        },
    ),
    ("pixart", DBCache(1, 0, 0.3, 3), {"Fn_compute_blocks": 1, "residual_diff_threshold": 0.3, "max_warmup_steps": 3}),
    (
        "pixart",
        DBCache(1, 0, 0.6, 2, order=1),
        {
            "Fn_compute_blocks": 1, "residual_diff_threshold": 0.6, "max_warmup_steps": 2,
            "series": cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1),
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "cache", "settings"), PAIRS)
def test_it_equals_cache_dit_bit_for_bit(kind, cache, settings):
    pipe = make(kind)
    plain = call(pipe, steps=STEPS)
    expected = call(theirs(kind, **settings), steps=STEPS)
    assert not torch.equal(expected, plain), "the example must do something, or this test shows nothing"
    before = fingerprint(pipe)
    with cache.applied(pipe):
        assert torch.equal(call(pipe, steps=STEPS), expected)
        call(pipe, steps=3, prompts=2)
        assert torch.equal(call(pipe, steps=STEPS), expected), "nothing is left of the generation before"
    assert fingerprint(pipe) == before
    assert torch.equal(call(pipe, steps=STEPS), plain)


def test_guidance_in_two_calls_is_kept_apart():
    pipe = make("flux")
    negative = {f"negative_{k}": torch.zeros_like(v) for k, v in arguments(pipe).items() if k.endswith("embeds")}
    guided = negative | {"true_cfg_scale": 3.0}
    settings = {"Fn_compute_blocks": 1, "residual_diff_threshold": 0.4, "max_warmup_steps": 2}
    expected = call(theirs("flux", separate=True, **settings), steps=STEPS, **guided)
    with DBCache(1, 0, 0.4, 2).applied(pipe):
        assert torch.equal(call(pipe, steps=STEPS, **guided), expected)


def test_memory_is_free_afterwards():
    pipe = make("flux")
    with DBCache(1).applied(pipe):
        call(pipe)
        graft = weakref.ref(pipe.transformer)
    gc.collect()
    assert graft() is None


def test_nothing_of_it_is_imported_before_it_is_used():
    code = "import sys, hasten.caches as c; c.DBCache(); print(sorted({'cache_dit', 'diffusers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_stands_alone():
    for other in ("deepcache", "diffusers-first-block", "diffusers-pab"):
        with pytest.raises(HastenError, match="cannot work together"):
            Recipe(caches=[other, "cache-dit"])


@pytest.mark.parametrize(
    ("kind", "cache", "message"),
    [
        ("sd", DBCache(), "UNet2DConditionModel is none of the transformers"),
        ("flux", DBCache(), "FluxTransformer2DModel has 3 blocks; give front and back .* at most 3, not 8"),
    ],
)
def test_models_that_lack_what_is_needed_are_refused_in_one_line(kind, cache, message):
    with pytest.raises(UnsupportedModel, match=message):
        cache.check(network_of(make(kind)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"front": 0}, "front: 0"), ({"threshold": -1.0}, "threshold: -1.0"), ({"most": 0}, "most: 0")],
)
def test_bad_settings_are_refused_in_one_line(fields, message):
    with pytest.raises(HastenError, match=message):
        CACHES.build({"name": "cache-dit"} | fields)


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cache_dit", None)
    with pytest.raises(HastenError, match=r"cache-dit: is not installed; pip install 'hasten\[compare\]'"):
        DBCache().check(make("flux").transformer)
