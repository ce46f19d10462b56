"""Caches of U-Nets by pieces: Faster Diffusion against its rule written by hand; the table of feature inheritance."""

import json

import diffusers
import pytest
import torch
from pipelines import arguments, call, make
from test_deepcache import Host, inputs, skips_of
from tiny import randn, unet

from hasten import sample
from hasten.bridge import SolverScheduler
from hasten.caches import CACHES, DeepCache, FasterDiffusion, FeatureInheritance, TokenMerging
from hasten.caching.pieces import pieces_of
from hasten.core.errors import HastenError, UnsupportedModel
from hasten.denoisers import Denoiser
from hasten.guidance import DifferenceReuse
from hasten.processes import VariancePreserving
from hasten.runtime.acceleration import ordered
from hasten.runtime.following import AcceleratedDenoiser
from hasten.runtime.run import Run
from hasten.sampling import sample_many

PROCESS = VariancePreserving()


def opened(method, steps: int) -> list[int]:
    run = Run(PROCESS, number=1, steps=steps)
    return [run.step for run.step in range(steps) if method.gate.opens(run)]


# Faster Diffusion


def test_key_steps_are_those_of_the_authors_code():
    assert opened(FasterDiffusion(), 50) == [0, 1, 2, 3, 5, 10, 15, 25, 35]
    assert opened(FasterDiffusion(), 100) == [0, 2, 4, 6, 10, 20, 30, 50, 70]
    assert opened(FasterDiffusion(), 20) == [0, 1, 2, 4, 6, 10, 14]
    assert opened(FasterDiffusion(keys="pro"), 50) == [0, 2, 5, 9, 14, 20, 27, 35, 44]
    assert opened(FasterDiffusion(keys="pro"), 999) == [i for i in range(999) if (9 + 8 * i) ** 0.5 % 1 == 0]
    assert opened(FasterDiffusion(keys=4), 10) == [0, 4, 8]
    assert opened(FasterDiffusion(keys=(6, 3)), 10) == [0, 3, 6]


def encode(network, x, emb, text):
    h = network.conv_in(x)
    skips = [h]
    for block in network.down_blocks:
        more = {"encoder_hidden_states": text} if hasattr(block, "attentions") else {}
        h, out = block(h, emb, **more)
        skips += out
    return network.mid_block(h, emb, encoder_hidden_states=text), skips


def decode(network, h, skips, emb, text):
    skips = list(skips)
    for block in network.up_blocks:
        count = len(block.resnets)
        mine, skips = skips[-count:], skips[:-count]
        more = {"encoder_hidden_states": text} if hasattr(block, "attentions") else {}
        h = block(h, tuple(mine), emb, **more)
    return network.conv_out(network.conv_act(network.conv_norm_out(h)))


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
@torch.no_grad()
def test_the_serial_form_written_by_hand(scheduler):
    """With the noise that is put in before the network is asked, as the authors' loop does."""
    pipe = make("sd")
    more = {"clip_sample": False} if scheduler == "DDIMScheduler" else {}
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config, **more)
    network, clock = pipe.unet, pipe.scheduler
    method = FasterDiffusion(keys=(0, 1, 3), injection=0.05)
    with method.applied(pipe):
        got = call(pipe, steps=8, guidance_scale=1.0)
    clock.set_timesteps(8)
    text = arguments(pipe)["prompt_embeds"]
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * clock.init_noise_sigma
    start, held = x / (1 + (0 if clock.init_noise_sigma == 1 else clock.sigmas[0] ** 2)) ** 0.5, None
    for i, t in enumerate(clock.timesteps):
        if i and t / 1000 < 0.5:
            level = (1 + clock.sigmas[i] ** 2) ** 0.5 if scheduler.startswith("Euler") else 1.0
            x = x + 0.05 * start * level
        emb = network.time_embedding(network.time_proj(t.expand(1)).to(x.dtype))
        if i in (0, 1, 3):
            held = encode(network, clock.scale_model_input(x, t), emb, text)
        else:
            clock.scale_model_input(x, t)
        x = clock.step(decode(network, *held, emb, text), t, x).prev_sample
    assert (got - x).abs().max() < 1e-5 * x.abs().max()
    with FasterDiffusion(keys=(0, 1, 3), injection=0.0).applied(pipe):
        assert (call(pipe, steps=8, guidance_scale=1.0) - x).abs().max() > 1e-2


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
@pytest.mark.parametrize(("kind", "scale"), [("sd", 1.0), ("sd", 4.0), ("controlnet", 4.0), ("img2img", 4.0)])
@torch.no_grad()
def test_decoders_in_parallel_are_the_serial_form(kind, scale, scheduler):
    pipe = make(kind, torch.float64)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    more = {"guidance_scale": scale}
    if kind == "controlnet":  # it is felt at every step when serial, at key steps in parallel
        more["controlnet_conditioning_scale"] = 0.0
    ways, images = {}, {}
    for parallel in (1, 3, 8):
        ways[parallel] = 0
        with FasterDiffusion(keys=(0, 1, 5), injection=0.02, parallel=parallel).applied(pipe):
            up = pipe.unet.up_blocks[0]

            def count(*_, parallel=parallel):
                ways[parallel] += 1

            up.register_forward_hook(count)
            images[parallel] = call(pipe, prompts=2, steps=10, **more)
    for parallel in (3, 8):
        assert (images[parallel] - images[1]).abs().max() < 1e-8 * images[1].abs().max()
    if kind != "img2img":
        assert ways == {1: 10, 3: 5, 8: 3}  # 1 step, 4 in two calls or one, 5 likewise


@torch.no_grad()
def test_decoders_in_parallel_where_they_cannot_be():
    pipe = make("sd")
    plain = call(pipe, steps=6)
    with FasterDiffusion(keys=1, injection=0.0, parallel=4).applied(pipe):
        assert torch.equal(call(pipe, steps=6), plain)
    for scheduler in (diffusers.HeunDiscreteScheduler, SolverScheduler):
        more = {"solver": "heun"} if scheduler is SolverScheduler else {}
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **more)
        with FasterDiffusion(keys=2, parallel=4).applied(pipe), pytest.raises(HastenError, match="parallel: needs"):
            call(pipe, steps=6)
    with FasterDiffusion(parallel=2).applied(pipe), pytest.raises(HastenError, match="keep one of them"):
        TokenMerging().applied(pipe).__enter__()
    with DifferenceReuse().applied(pipe), pytest.raises(HastenError, match="keep one of them"):
        FasterDiffusion(parallel=2).applied(pipe).__enter__()


def test_noise_is_put_in_below_half_of_the_schedule_only():
    pipe = make("sd")
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    seen: dict[float, list] = {}
    for injection in (0.0, 0.1):
        states: list = []
        with FasterDiffusion(keys=1, injection=injection).applied(pipe):
            pipe.unet.conv_in.register_forward_pre_hook(lambda _, args, states=states: states.append(args[0]))
            call(pipe, steps=10)
        seen[injection] = states
    pipe.scheduler.set_timesteps(10)
    times = pipe.scheduler.timesteps.tolist()
    changed = [not torch.equal(a, b) for a, b in zip(seen[0.0], seen[0.1], strict=True)]
    assert changed == [t < 500 for t in times]


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpm++"])
@torch.no_grad()
def test_noise_is_put_in_alike_in_pipelines_and_in_sample_many(solver):
    network = unet(1)
    text = randn(1, 5, 8, seed=50)
    method = FasterDiffusion(keys=2, injection=0.02)

    def denoiser(net):
        return Denoiser(lambda x, n: net(x, n, text.expand(len(x), -1, -1)).sample, PROCESS)

    fast = AcceleratedDenoiser(network, denoiser, [method])
    runs = [{"noise": randn(n, 4, 8, 8, seed=n), "solver": solver, "steps": steps, "grid": "uniform"}
            for n, steps in ((2, 6), (1, 9))]  # fmt: skip
    for run, got in zip(runs, sample_many(fast, runs), strict=True):
        alone = sample(fast, **run)
        assert (got - alone).abs().max() <= 2e-5 * alone.abs().max()
        assert torch.equal(sample(fast, **run), alone)
        off = AcceleratedDenoiser(network, denoiser, [FasterDiffusion(keys=2, injection=0.0)])
        assert (sample(off, **run) - alone).abs().max() > 1e-3
    pipe = make("sd")
    pipe.unet, pipe.scheduler = network, SolverScheduler.from_config(pipe.scheduler.config, solver=solver)
    given = {"prompt_embeds": text, "negative_prompt_embeds": text, "guidance_scale": 1.0, "latents": runs[1]["noise"]}
    with method.applied(pipe):
        piped = call(pipe, steps=9, **given)
        times = [float(t) for t in pipe.scheduler._layout.times]
        assert pipe.scheduler.run.edits
    alone = sample(fast, runs[1]["noise"], solver=solver, grid=times)
    assert (piped - alone).abs().max() < 1e-4 * alone.abs().max()
    assert not pipe.scheduler.run.edits


def test_the_second_query_of_a_step_goes_on_from_what_the_first_was_given():
    pipe = make("sd")
    pipe.scheduler = diffusers.HeunDiscreteScheduler.from_config(pipe.scheduler.config)
    given, found = [], []
    with FasterDiffusion(keys=1, injection=0.1).applied(pipe):
        run = pipe.scheduler.run
        inner = run.edits[0]
        run.edits[0] = lambda part, x: found.append((part.step, part.stage, inner(part, x) is not x)) or inner(part, x)
        pipe.unet.register_forward_hook(lambda *_: given.append((run.step, run.stage, run.time)))
        call(pipe, steps=6)
        half = run.process.t_max / 2
    expected = [(step, stage, stage == 0 and time < half) for step, stage, time in given[1:]]
    assert found == expected and sum(changed for *_, changed in found) >= 2


@torch.no_grad()
def test_adapters_and_freeu_do_not_spoil_what_is_held():
    network = unet()
    sizes = [s.shape for s in skips_of(network)]
    args = inputs(0)
    for method in (
        FasterDiffusion(keys=9, injection=0.0),
        FeatureInheritance(("d*", "mid", "u4", "u7"), "layer", "absolute", interval=9, last=False),
        FeatureInheritance(("* resnet", "* mlp"), interval=9, last=False),
    ):
        host = Host(network, method)
        for step in range(4):
            mine, theirs = ([torch.ones(s) for s in (sizes[3], sizes[5], sizes[8])] for _ in range(2))
            got = host(step, *args, down_intrablock_additional_residuals=mine)
            expected = network(*args, down_intrablock_additional_residuals=theirs).sample
            assert torch.equal(got, expected) if step == 0 else torch.allclose(got, expected, atol=1e-6)
    network.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    host = Host(network, FasterDiffusion(keys=9, injection=0.0))
    for step in range(4):
        assert torch.allclose(host(step, *args), network(*args).sample, atol=1e-6)


# feature inheritance


@pytest.mark.parametrize("kind", ["sd", "sdxl", "controlnet", "sd3", "flux", "pixart"])
@pytest.mark.parametrize("granularity", ["block", "layer", "unit"])
def test_all_compute_is_exact_for_every_piece(kind, granularity):
    pipe = make(kind)
    plain = call(pipe, prompts=2)
    for storage in ("residual", "absolute"):
        off = FeatureInheritance(("*",), granularity, storage, mode="mask", mask=(True,))
        with off.applied(pipe):
            assert torch.equal(call(pipe, prompts=2), plain)
        with FeatureInheritance(("*",), granularity, storage, interval=4).applied(pipe):
            changed = call(pipe, prompts=2)
            assert torch.isfinite(changed).all() and not torch.equal(changed, plain)


@pytest.mark.parametrize(("layers", "size"), [(2, 8), (1, 7)])
@torch.no_grad()
def test_deepcache_comes_out_of_the_table_exactly(layers, size):
    network = unet(layers)
    depth = 3 * layers + 3
    for branch in range(depth):
        deeper = [f"{way}{i}" for way in "du" for i in range(branch + 1, depth)]
        table = FeatureInheritance((*deeper, "mid"), "layer", "absolute", interval=3, last=False)
        ours, theirs = Host(network, table), Host(network, DeepCache(interval=3, branch=branch))
        if branch == depth - 1:  # mid enters u_branch itself
            assert table.pieces == ("mid",)
        for step in range(6):
            args = inputs(step, size=size)
            assert torch.equal(ours(step, *args), theirs(step, *args)), f"branch {branch} step {step}"


@pytest.mark.parametrize("kind", ["sd", "sdxl", "controlnet"])
def test_faster_diffusion_comes_out_of_the_table_exactly(kind):
    pipe = make(kind)
    faster = FasterDiffusion(injection=0.0)
    pipe.scheduler.set_timesteps(10)
    count = len(pipe.scheduler.timesteps)  # PNDM visits one twice
    mask = tuple(step in opened(faster, count) for step in range(count))
    table = FeatureInheritance(("in", "down *", "mid"), "block", "absolute", mode="mask", mask=mask)
    with faster.applied(pipe):
        expected = call(pipe, steps=10)
    with table.applied(pipe):
        assert torch.equal(call(pipe, steps=10), expected)
    assert not torch.equal(call(pipe, steps=10), expected) and sum(mask) < count


def test_modes_are_masks():
    def steps(**fields):
        return opened(FeatureInheritance(**fields), 10)

    assert steps() == [0, 2, 4, 6, 8, 9]
    assert steps(interval=3, last=False) == [0, 3, 6, 9] and steps(interval=4) == [0, 4, 8, 9]
    assert steps(mode="front", interval=5) == [0, 1, 2, 5, 9]
    assert steps(mode="back", interval=5, share=0.2) == [0, 5, 8, 9]
    assert steps(mode="ends", interval=9, share=0.2) == [0, 1, 8, 9]
    assert steps(mode="mask", mask=[1, 0, 0, 1, 0]) == [0, 1, 6, 7]
    assert steps(mode="mask", mask=[0] * 10) == [0]
    assert steps(mode="mask", mask=[1, 0] * 10) == list(range(10)), "every second of its steps is looked at"


@torch.no_grad()
def test_pieces_of_their_own_have_masks_of_their_own():
    network = unet()
    table = FeatureInheritance(policy=(
        {"pieces": ["u4 mlp", "mid self-*"], "interval": 3, "last": False},
        {"pieces": ["down 0"], "granularity": "block", "storage": "absolute", "interval": 2, "last": False},
    ))  # fmt: skip
    assert CACHES.build(json.loads(json.dumps(CACHES.describe(table)))) == table and hash(table)
    host = Host(network, table)
    seen: list[str] = []
    up, mid = host.network.up_blocks[1].attentions, host.network.mid_block.attentions
    watched = {
        "u4": up[1].transformer_blocks[0].ff.net[2], "u5": up[0].transformer_blocks[0].ff.net[2],
        "mid": mid[0].transformer_blocks[0].attn1.to_q, "cross": mid[0].transformer_blocks[0].attn2.to_q,
        "down": host.network.down_blocks[0].resnets[0].conv1,
    }  # fmt: skip
    for name, module in watched.items():
        module.register_forward_hook(lambda *_, name=name: seen.append(name))
    for step in range(4):
        seen.clear()
        host(step, *inputs(step))
        expected = (
            {"u5", "cross"} | ({"u4", "mid"} if step % 3 == 0 else set()) | ({"down"} if step % 2 == 0 else set())
        )
        assert set(seen) == expected, f"step {step}"


@torch.no_grad()
def test_nothing_of_a_layer_runs_while_it_inherits():
    network = unet()
    host = Host(network, FeatureInheritance(("u3", "d3", "d4"), "layer", "absolute", interval=9, last=False))
    up, down = host.network.up_blocks[1], host.network.down_blocks
    inside = [up.resnets[2].conv1, up.attentions[2].proj_in, up.upsamplers[0].conv, down[0].downsamplers[0].conv]
    inside += [down[1].resnets[0].conv1, down[1].attentions[0].proj_in]
    beside = [up.resnets[1].conv1, host.network.up_blocks[2].resnets[0].conv1, down[1].resnets[1].conv1]
    ran: list[int] = []
    for i, module in enumerate((*inside, *beside)):
        module.register_forward_hook(lambda *_, i=i: ran.append(i))
    host(0, *inputs(0))
    assert sorted(ran) == list(range(9))
    ran.clear()
    host(1, *inputs(1))
    assert sorted(ran) == [6, 7, 8]


@torch.no_grad()
def test_a_residual_is_added_to_what_enters_now():
    network = unet()
    for storage in ("residual", "absolute"):
        host = Host(network, FeatureInheritance(("mid",), "block", storage, interval=9, last=False))
        plain: list = []
        handle = network.mid_block.register_forward_hook(lambda _, args, out, plain=plain: plain.append((args[0], out)))
        for step in (0, 1):
            network(*inputs(step))
        handle.remove()
        views: list = []
        host.network.up_blocks[0].register_forward_pre_hook(
            lambda _, args, kwargs, views=views: views.append(kwargs["hidden_states"]), with_kwargs=True
        )
        for step in (0, 1):
            host(step, *inputs(step))
        (x0, y0), (x1, y1) = plain
        expected = x1 + (y0 - x0) if storage == "residual" else y0
        assert torch.equal(views[0], y0) and torch.allclose(views[1], expected, atol=1e-6)
        assert not torch.allclose(views[1], y1, atol=1e-4)


def test_pieces_have_names():
    assert list(pieces_of(make("sd").unet, "block")) == ["in", "down 0", "down 1", "mid", "up 0", "up 1"]
    assert list(pieces_of(make("sd").unet, "layer")) == ["d0", "d1", "d2", "d3", "mid", "u3", "u2", "u1", "u0"]
    units = list(pieces_of(make("sd").unet, "unit"))
    assert units[:4] == ["d1 resnet", "d1 self-attention", "d1 cross-attention", "d1 mlp"] and "d2 resnet" not in units
    assert list(pieces_of(make("pixart").transformer, "unit"))[3:] == [
        "block 1 self-attention", "block 1 cross-attention", "block 1 mlp",
    ]  # fmt: skip
    assert list(pieces_of(make("flux").transformer, "layer")) == ["block 0", "block 1", "block 2"]


def test_bad_tables_are_refused_in_one_line():
    unet, dit = make("sd").unet, make("flux").transformer
    with pytest.raises(UnsupportedModel, match=r"has no block 'up 7'; give names out of: in, down 0"):
        FeatureInheritance(("mid", "up 7"), "block").check(unet)
    with pytest.raises(UnsupportedModel, match=r"FluxTransformer2DModel has no layer 'd1'; .* block 0"):
        FeatureInheritance(("d1",), "layer").check(dit)
    row = {"pieces": ["mid"], "granularity": "block"}
    with pytest.raises(HastenError, match="policy: block 'mid' is in two rows"):
        FeatureInheritance(policy=(row, row)).check(unet)
    for fields, message in (
        ({"mode": "middle"}, "mode: 'middle'"), ({"storage": "none"}, "storage: 'none'"),
        ({"mode": "mask"}, r"mask: \(\)"),
        ({"granularity": "net"}, "granularity: 'net'"), ({"share": 2.0}, "share: 2"), ({"interval": 0}, "interval: 0"),
        ({"policy": [{"interval": 2}]}, "policy: .* is not a row"),
        ({"policy": [{"pieces": ["mid"], "intervall": 2}]}, "did you mean 'interval'"),
    ):  # fmt: skip
        with pytest.raises(HastenError, match=message):
            CACHES.build({"name": "feature-inheritance"} | fields)
    for fields, message in (
        ({"keys": "60ls"}, "keys: '60ls'"), ({"keys": 0}, "keys: 0"), ({"keys": [-1]}, "keys: -1"),
        ({"keys": None}, "keys: None"), ({"injection": -0.1}, "injection: -0.1"), ({"below": 2.0}, "below: 2"),
    ):  # fmt: skip
        with pytest.raises(HastenError, match=message):
            CACHES.build({"name": "faster-diffusion"} | fields)


# ControlNet, and caches inside of caches


@pytest.mark.parametrize("method", [
    DeepCache(interval=4), FasterDiffusion(keys=4, injection=0.0),
    FeatureInheritance(("in", "down *", "mid", "up 0"), "block", interval=4, last=False),
    FeatureInheritance(interval=4),
], ids=lambda m: m.name)  # fmt: skip
def test_a_controlnet_is_felt_although_only_while_parts_are_skipped(method):
    """It acts at steps 1 to 3 alone, at which nothing that the cache skips is computed."""
    pipe = make("controlnet")
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    ends = {"control_guidance_start": 0.2, "control_guidance_end": 1.0}
    plain = [call(pipe, controlnet_conditioning_scale=scale, **ends) for scale in (0.0, 1.0)]
    with method.applied(pipe):
        cached = [call(pipe, controlnet_conditioning_scale=scale, **ends) for scale in (0.0, 1.0)]
    effect, kept = ((b - a).flatten() for a, b in (plain, cached))
    assert kept.norm() > 0.05 * effect.norm()


def test_caches_that_remember_what_deepcache_leaves_stand_inside_of_it():
    composed = [CACHES.build({"name": "cache", "site": site}) for site in ("unet-encoder", "pieces")]
    for method in (FasterDiffusion(), FeatureInheritance(), *composed):
        assert ordered([method, DeepCache()]) == [DeepCache(), method]
        pipe = make("sd")
        with (
            pytest.raises(HastenError, match="must be applied before"),
            method.applied(pipe),
            DeepCache().applied(pipe),
        ):
            pytest.fail("accepted")
