"""Caches of transformers: their papers' schedules; outputs equal to diffusers' hooks, or to rules written by hand."""

import itertools
import json

import diffusers
import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS
from pipelines import WIDTH, arguments, call, make

from hasten.caches import CACHES, FORA, DeltaDiT, FirstBlockCache, MagCache, TaylorSeer, TeaCache
from hasten.caches.stacks import FLUX
from hasten.caching.history import History
from hasten.caching.planned import magnitude_steps
from hasten.caching.units import Joined, Units
from hasten.core.errors import HastenError, UnsupportedModel
from hasten.processes import VariancePreserving
from hasten.runtime.anatomy import blocks_of, network_of
from hasten.runtime.run import Run
from hasten.runtime.samples import Samples

RATIOS = tuple(FLUX_MAG_RATIOS.tolist())
STEPS = 14


def flux():
    """A Flux pipeline with two blocks of two streams and four of one."""
    pipe = make("flux")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        pipe.transformer = diffusers.FluxTransformer2DModel(
            patch_size=1, in_channels=4, num_layers=2, num_single_layers=4, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(2, 2, 4),
            guidance_embeds=True,
        ).eval()  # fmt: skip
    return pipe


def cached(pipe, method, **more):
    with method.applied(pipe):
        return call(pipe, **{"steps": STEPS} | more)


# schedules


def opened(method, steps: int) -> list[int]:
    run = Run(VariancePreserving(), number=1, steps=steps)
    return [run.step for run.step in range(steps) if method.gate.opens(run)]


def test_magcache_follows_its_table_as_the_authors_and_diffusers_do():
    assert opened(MagCache(ratios=RATIOS, keep=(11,)), 28) == [0, 1, 2, 5, 9, 11, 17, 23, 26]
    theirs = MagCache(threshold=0.06, most=3, retention=0.2, ratios=RATIOS)
    assert opened(theirs, 28) == [0, 1, 2, 3, 4, 5, 7, 9, 13, 17, 21, 24, 26, 27]
    assert opened(MagCache(most=0, ratios=RATIOS), 28) == list(range(28))
    assert opened(MagCache(most=2, retention=0.0), 8) == [0, 3, 6], "without a table, only the count"


def test_a_table_is_resampled_to_the_nearest_step():
    ratios = (1.0, 1.5, 1.0, 1.0, 1.0)
    assert magnitude_steps(5, ratios, 0.4, 9, 0.0, ()) == {0, 1}
    assert magnitude_steps(9, ratios, 0.4, 9, 0.0, ()) == {0, 2}, "steps 2 and no other is nearest to 1"
    assert magnitude_steps(1, ratios, 0.4, 9, 0.0, ()) == {0}


def test_taylorseer_and_fora_follow_their_codes():
    assert opened(TaylorSeer(), 14) == [0, 1, 5, 9, 13]
    assert opened(TaylorSeer(warmup=3, interval=6), 16) == [0, 1, 2, 8, 14]
    assert opened(TaylorSeer(warmup=3, interval=5, offset=4), 16) == [0, 1, 2, 4, 9, 14]
    assert opened(TaylorSeer(tail=2), 13) == [0, 1, 5, 9, 11, 12]
    seen = units_run(make("sd3"), FORA(3), 50)
    assert [step for step, ran in enumerate(seen) if ran][:5] == [0, 1, 4, 7, 10] and seen[49]


def units_run(pipe, method, steps: int) -> list[bool]:
    """At which steps the last block's MLP computes."""
    seen: list[int] = []
    with method.applied(pipe):
        run = pipe.scheduler.run
        blocks_of(pipe.transformer)[-1].ff.net[0].proj.register_forward_hook(lambda *_: seen.append(run.step))
        call(pipe, steps=steps)
    return [step in seen for step in range(steps)]


def decisions(gate, scores: list[float | None]) -> list[bool]:
    run, course, out = Run(VariancePreserving(), number=1, steps=len(scores)), History(), []
    course.nodes["x"] = []
    for run.step, score in enumerate(scores):
        out.append(course.settle(run.step, gate.decide(run, [course], [score])[0]))
    return out


def test_first_block_cache_is_strict_unless_it_is_to_be_diffusers():
    scores = [None, 0.04, 0.05, 0.06, 0.01, 0.01]
    assert decisions(FirstBlockCache().gate, scores) == [True, False, True, True, False, False]
    assert decisions(FirstBlockCache(compat=True).gate, scores) == [True, False, False, True, False, False]
    wary = FirstBlockCache(threshold=9.0, first=8, warmup=3, most=1, tail=1)
    assert decisions(wary.gate, [0.0] * 8) == [True, True, True, False, True, False, True, True]


def test_teacache_sums_the_polynomial_of_what_it_sees():
    small, large = 0.02, 0.1
    a, b = np.polyval(FLUX, [small, large])
    assert (a, b) == (pytest.approx(0.207978, abs=1e-6), pytest.approx(0.206847, abs=1e-6))
    gate = TeaCache(threshold=0.4, coefficients=FLUX).gate
    assert decisions(gate, [None, *[small] * 6]) == [True, False, True, False, True, False, True]
    assert decisions(TeaCache(threshold=0.7, coefficients=FLUX).gate, [None, *[large] * 6]) == [
        True, False, False, False, True, False, True,
    ]  # fmt: skip
    sinking = TeaCache(threshold=0.4, coefficients=(1.0, -0.5)).gate
    assert decisions(sinking, [None, 0.1, 0.95, 0.0, 0.0]) == [True, False, True, False, True], "clamped at 0"


# equal to diffusers' own


@pytest.mark.parametrize(("config", "ours"), [
    (FirstBlockCacheConfig(threshold=0.3), FirstBlockCache(threshold=0.3, compat=True)),
    (MagCacheConfig(mag_ratios=FLUX_MAG_RATIOS, num_inference_steps=STEPS),
     MagCache(threshold=0.06, most=3, retention=0.2, ratios=RATIOS)),
    (TaylorSeerCacheConfig(taylor_factors_dtype=torch.float32),
     TaylorSeer(warmup=3, interval=5, offset=4, units="attention")),
    (TaylorSeerCacheConfig(taylor_factors_dtype=torch.float32, max_order=2, cache_interval=3),
     TaylorSeer(order=2, warmup=3, interval=3, offset=4, units="attention", compat=True)),
], ids=["first-block", "magcache", "taylorseer 1", "taylorseer 2"])  # fmt: skip
def test_the_same_as_diffusers_own_hooks(config, ours):
    theirs = flux()
    plain = call(theirs, steps=STEPS)
    theirs.transformer.enable_cache(config)
    expected = call(theirs, steps=STEPS)
    changed = (expected - plain).abs().max()
    assert changed > 1e-3
    got = cached(flux(), ours)
    exact = not isinstance(ours, TaylorSeer)  # theirs multiplies differences, ours weighs the outputs
    assert torch.equal(got, expected) if exact else (got - expected).abs().max() < 1e-3 * changed


def test_newtons_form_differs_from_the_published_one_above_order_one():
    pipe = flux()
    one, two = (
        [cached(pipe, TaylorSeer(order=order, interval=3, compat=compat)) for compat in (False, True)]
        for order in (1, 2)
    )
    assert torch.allclose(*one, atol=1e-6) and (two[0] - two[1]).abs().max() > 1e-4


# rules written by hand, as hooks that put stored outputs in place


def by_hooks(pipe, full, modules, run):
    """Of each module, what it gave at the last full step comes out at the others."""
    held = {}

    def hook(module, _, output):
        if full(run.step):
            held[module] = output
        return held[module]

    for module in modules:
        module.register_forward_hook(hook)
    return call(pipe, steps=STEPS)


@pytest.mark.parametrize("kind", ["sd3", "flux", "pixart"])
def test_fora_holds_units_and_keeps_their_gates_fresh(kind):
    pipe = flux() if kind == "flux" else make(kind)
    got = cached(pipe, FORA(3))
    names = ("attn", "attn1", "attn2", "ff", "ff_context", "proj_out")
    with FORA(1).applied(pipe):
        units = [
            part for block in blocks_of(pipe.transformer) for name, part in block.named_children()
            if name in names and not (name == "attn" and hasattr(block, "proj_out"))
        ]  # fmt: skip
        run = pipe.scheduler.run
        expected = by_hooks(pipe, lambda k: k == 0 or (STEPS - 1 - k) % 3 == 0, units, run)
    assert torch.equal(got, expected) and not torch.equal(got, call(pipe, steps=STEPS))


def test_what_feeds_a_joined_unit_does_not_run():
    pipe = flux()
    units = Units("all").inside(pipe.transformer)
    assert sum(isinstance(unit, Joined) for unit in units) == 4 and len(units) == 2 * 3 + 4
    steps: list[int] = []
    with FORA(4).applied(pipe):
        run = pipe.scheduler.run
        single = pipe.transformer.single_transformer_blocks[0]
        for linear in (single.attn.to_q, single.proj_mlp, single.proj_out):
            # the layer itself is called only where it is computed
            inner = linear.forward
            linear.__dict__["forward"] = lambda *args, inner=inner: (steps.append(run.step), inner(*args))[1]
        before = len(steps)
        call(pipe, steps=9)
    assert before == 0 and set(steps[: steps.index(0) + 1]) == {0}
    assert [k for k in range(9) if steps.count(k) == 3] == [0, 4, 8]
    assert all(steps.count(k) <= 2 for k in range(9) if k not in (0, 4, 8))


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_delta_dit_holds_what_rear_blocks_add_early_and_front_blocks_late(share):
    pipe = flux()
    got = cached(pipe, DeltaDiT(interval=3, boundary=0.4, share=share))
    with FORA(1).applied(pipe):
        run, blocks = pipe.scheduler.run, blocks_of(pipe.transformer)
        count = round(share * 6)
        for chosen, early in ((blocks[-count:], True), (blocks[:count], False)):
            hold_increments(chosen, run, lambda k, early=early: k % 3 == 0 or early != (k < 0.4 * STEPS))
        expected = call(pipe, steps=STEPS)
    assert torch.equal(got, expected) and not torch.equal(got, call(pipe, steps=STEPS))


def hold_increments(blocks, run, full) -> None:
    entered, added = {}, []

    def enter(_, args, kwargs):
        entered.update(kwargs | dict(zip(("hidden_states", "encoder_hidden_states"), args)))

    def leave(_, __, output):
        before = [entered["encoder_hidden_states"], entered["hidden_states"]]
        if full(run.step):
            added[:] = [out - x for out, x in zip(output, before)]
            return output
        return tuple(x + more for x, more in zip(before, added))

    blocks[0].register_forward_pre_hook(enter, with_kwargs=True)
    blocks[-1].register_forward_hook(leave)


def test_the_last_blocks_run_at_every_step_if_they_are_to():
    pipe = flux()
    for first, last in ((1, 0), (2, 1), (1, 3)):
        ran: dict[int, int] = {}
        with FirstBlockCache(threshold=9.0, first=first, last=last).applied(pipe):
            for i, block in enumerate(blocks_of(pipe.transformer)):
                block.attn.to_q.register_forward_hook(lambda *_, i=i, ran=ran: ran.update({i: ran.get(i, 0) + 1}))
            call(pipe, steps=5)
        assert [ran[i] for i in range(6)] == [5] * first + [1] * (6 - first - last) + [5] * last
    with pytest.raises(UnsupportedModel, match="none from 3 to -3"):
        FirstBlockCache(first=3, last=3).check(pipe.transformer)


# fits


def recorded(pipe, **more):
    """By hand: per step the tokens that the first attention sees, what enters and leaves the stack, and the output."""
    seen: dict[str, list] = {"attention": [], "in": [], "out": [], "output": []}
    blocks = blocks_of(network_of(pipe))
    handles = [
        blocks[0].attn.register_forward_pre_hook(lambda _, __, k: seen["attention"].append(k["hidden_states"]),
                                                 with_kwargs=True),
        blocks[0].register_forward_pre_hook(lambda _, __, k: seen["in"].append(k["hidden_states"]), with_kwargs=True),
        blocks[-1].register_forward_hook(lambda _, __, out: seen["out"].append(out[1])),
        network_of(pipe).register_forward_hook(lambda _, __, out: seen["output"].append(out[0])),
    ]  # fmt: skip
    call(pipe, **more)
    for handle in handles:
        handle.remove()
    return seen


def images(count: int) -> dict:
    return {"prompts": count, "generator": [torch.Generator().manual_seed(i) for i in range(count)]}


def arguments_of(pipe, count: int) -> dict:
    return arguments(pipe, count) | {"generator": images(count)["generator"]}


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_teacache_is_fitted_by_least_squares_over_every_row_and_step(kind):
    pipe = make(kind)
    seen = recorded(pipe, steps=9, **images(3))
    fitted = TeaCache(threshold=0.1).fit(pipe, steps=9, degree=2, **arguments_of(pipe, 3))

    def changes(tensors):
        return [float((b[i] - a[i]).abs().mean() / a[i].abs().mean())
                for a, b in itertools.pairwise(tensors) for i in range(len(a))]  # fmt: skip

    x, y = np.array(changes(seen["attention"])), np.array(changes(seen["output"]))
    assert len(x) == 8 * 3 * (2 if kind == "sd3" else 1)
    expected = np.linalg.lstsq(np.stack([x**2, x, x**0], 1), y, rcond=None)[0]
    best, got = (float(((np.polyval(c, x) - y) ** 2).mean()) for c in (expected, fitted.coefficients))
    assert got == pytest.approx(best, rel=1e-3)
    assert fitted.threshold == 0.1 and not fitted.needs_fit and TeaCache().needs_fit
    assert torch.isfinite(cached(pipe, fitted)).all()


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_magcache_is_fitted_to_the_mean_ratio_of_sizes(kind):
    pipe = make(kind)
    seen = recorded(pipe, steps=6, **images(2))
    fitted = MagCache(most=3).fit(pipe, steps=6, **arguments_of(pipe, 2))
    added = [(out - x).norm(dim=-1) for x, out in zip(seen["in"], seen["out"])]
    expected = [1.0, *(float((b / a).mean()) for a, b in itertools.pairwise(added))]
    assert fitted.ratios == pytest.approx(expected, rel=1e-5) and fitted.most == 3
    assert not fitted.needs_fit and MagCache().needs_fit


def test_magcache_finds_the_ratios_that_diffusers_finds(capsys):
    ours = MagCache().fit(flux(), steps=7, **arguments_of(flux(), 1))
    theirs = flux()
    theirs.transformer.enable_cache(MagCacheConfig(calibrate=True, num_inference_steps=7))
    call(theirs, steps=7)
    printed = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("[1.0"))
    assert ours.ratios == pytest.approx(json.loads(printed), rel=1e-5)


def test_fits_take_prompts_are_json_and_leave_the_pipeline():
    pipe = make("sd3")
    plain = call(pipe)
    given = arguments(pipe) | {"generator": torch.Generator().manual_seed(3)}
    for method in (TeaCache().fit(pipe, steps=6, **given), MagCache().fit(pipe, steps=6, **given)):
        assert CACHES.build(json.loads(json.dumps(CACHES.describe(method)))) == method
        assert hash(method) == hash(method)
    assert torch.equal(call(pipe), plain)
    asked, two = [], arguments(pipe, 2)

    class Pipe(type(pipe)):
        def __call__(self, **kwargs):
            asked.append(kwargs.pop("prompt"))
            return super().__call__(**kwargs)

    pipe.__class__ = Pipe
    MagCache().fit(pipe, ["a", "b"], steps=3, **two)
    assert asked == [["a", "b"]]


def test_samples_are_drawn_with_their_own_seeds():
    pipe, asked = make("sd3"), []
    given = {"steps": 7} | arguments(pipe, 2)

    class Pipe(type(pipe)):
        def __call__(self, **kwargs):
            asked.append(kwargs.pop("prompt"))
            return super().__call__(**kwargs)

    pipe.__class__ = Pipe
    for cache in (TeaCache(), MagCache()):
        generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
        by_samples = cache.fit(pipe, Samples(("a", "b"), (5, 6)), **given)
        assert by_samples == cache.fit(pipe, ["a", "b"], **given | {"generator": generators})
        assert by_samples != cache.fit(pipe, ["a", "b"], **given)
    assert asked == [["a", "b"]] * 6


def test_a_fit_that_cannot_be_made_is_refused_in_one_line():
    pipe = make("sd3")
    given = arguments(pipe)
    with pytest.raises(HastenError, match=r"degree: 4 needs more than 4 changes .* 2 were seen; give more steps"):
        TeaCache().fit(pipe, steps=2, **given)
    with pytest.raises(HastenError, match="steps: nothing changes in a run of one step"):
        MagCache().fit(pipe, steps=1, **given)
    for method in (TeaCache(), MagCache()):
        with pytest.raises(UnsupportedModel, match="UNet2DConditionModel has no list of attention blocks"):
            method.fit(make("sd"), steps=4, **arguments(make("sd")))


@pytest.mark.parametrize(("spec", "message"), [
    ({"name": "first-block", "first": 0}, "first: 0"), ({"name": "first-block", "last": -1}, "last: -1"),
    ({"name": "first-block", "threshold": -0.1}, "threshold: -0.1"), ({"name": "magcache", "most": -1}, "most: -1"),
    ({"name": "magcache", "retention": 1.5}, "retention: 1.5"), ({"name": "fora", "interval": 0}, "interval: 0"),
    ({"name": "delta-dit", "share": 0.0}, "share: 0.0"), ({"name": "delta-dit", "boundary": 2}, "boundary: 2"),
    ({"name": "taylorseer", "order": -1}, "order: -1"), ({"name": "taylorseer", "units": "mlps"}, "kind: 'mlps'"),
    ({"name": "teacache", "threshold": -1.0}, "threshold: -1.0"),
])  # fmt: skip
def test_bad_settings_are_refused_in_one_line(spec, message):
    with pytest.raises(HastenError, match=message):
        CACHES.build(spec)
