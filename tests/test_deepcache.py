"""DeepCache does what the paper says: against a U-Net written out by hand, and against the listed schedules."""

import pytest
import torch
from pipelines import call, make
from tiny import randn, unet

from hasten.caches import CACHES, DeepCache
from hasten.caching.gates import Every, Listed
from hasten.caching.planned import centered_steps
from hasten.core.errors import HastenError, UnsupportedModel
from hasten.processes import VariancePreserving
from hasten.runtime.anatomy import unet_units
from hasten.runtime.run import Run
from hasten.runtime.view import view

DEPTH = 9  # units of `unet()`: the input convolution, 3 + 3 + 2 on the way down


def by_hand(network, x, t, text, branch: int, held=None):
    """(output, the tensor that entered u_branch): the network unit by unit, skipping the deep part if `held`."""
    rows = x.shape[0]
    emb = network.time_embedding(network.time_proj(torch.full((rows,), t)).to(x.dtype))

    def unit(h, resnet, attention):
        h = resnet(h, emb)
        return attention(h, encoder_hidden_states=text, return_dict=False)[0] if attention is not None else h

    def pairs(block):
        attentions = block.attentions if hasattr(block, "attentions") else [None] * len(block.resnets)
        return list(zip(block.resnets, attentions))

    h = network.conv_in(x)
    skips, ahead = [h], []
    for block in network.down_blocks:
        ahead += [lambda h, p=p: unit(h, *p) for p in pairs(block)]
        ahead += [lambda h, d=d: d(h) for d in block.downsamplers or ()]
    for number, step in enumerate(ahead, 1):
        if held is None or number <= branch:
            h = step(h)
            skips.append(h)
    if held is None:
        h = network.mid_block(h, emb, encoder_hidden_states=text)
    number = len(ahead)  # of the up unit to come
    for position, block in enumerate(network.up_blocks):
        for index, pair in enumerate(pairs(block)):
            if number == branch:
                h = entered = h if held is None else held
            if held is None or number <= branch:
                h = unit(torch.cat([h, skips.pop()], 1), *pair)
                if index + 1 == len(block.resnets) and block.upsamplers is not None:
                    h = block.upsamplers[0](h, skips[-1].shape[2:] if position + 1 < len(network.up_blocks) else None)
            number -= 1
    return network.conv_out(network.conv_act(network.conv_norm_out(h))), entered


class Host:
    """A network with DeepCache on it, and the run that a scheduler would keep."""

    def __init__(self, network, cache: DeepCache, steps: int = 6, images: int | None = None) -> None:
        self.run = Run(VariancePreserving())
        self.steps = steps
        self.network = view(network)
        cache.attach(self.network, self.run)
        self.network.register_forward_hook(self._count)
        self.begin(images)

    def _count(self, *_) -> None:
        self.run.called()

    def begin(self, images: int | None = None) -> None:
        self.run.begin(self.steps)
        self.run.images = images

    def __call__(self, step: int, *args, stage: int = 0, again: bool = False, **kwargs):
        if not again:
            self.run.ask(step, 900.0 - 100 * step, stage)
        with torch.no_grad():
            return self.network(*args, **kwargs).sample


def inputs(step: int, rows: int = 2, size: int = 8):
    return randn(rows, 4, size, size, seed=step), 900 - 100 * step, randn(rows, 5, 8, seed=50)


@pytest.mark.parametrize(("layers", "size"), [(2, 8), (1, 7), (1, 10)])
@torch.no_grad()
def test_every_step_equals_the_rule_written_out_by_hand(layers, size):
    network = unet(layers)
    for branch in range(3 * layers + 3):
        host = Host(network, DeepCache(interval=3, branch=branch))
        held = None
        for step in range(6):
            args = inputs(step, size=size)
            expected, entered = by_hand(network, *args, branch, held=None if step % 3 == 0 else held)
            held = entered if step % 3 == 0 else held
            got = host(step, *args)
            assert torch.equal(got, expected), f"branch {branch} step {step}"
            plain = network(*args).sample
            assert torch.equal(plain, got) == (step % 3 == 0)
    assert network.mid_block.resnets[0].forward.__func__ is type(network.mid_block.resnets[0]).forward


def executed(network):
    """Attach counters inside every unit, and return the list that they fill: "d3", "u3", "mid", "out"."""
    seen: list[str] = []
    down, up = unet_units(network)
    named = [(f"d{i}", u.parts[0]) for i, u in enumerate(down)] + [(f"u{i}", u.parts[0]) for i, u in enumerate(up)]
    named += [("mid", network.mid_block.resnets[0]), ("out", network.conv_out), ("text", network.time_embedding)]
    for name, module in named:
        inner = getattr(module, "conv1", None) or getattr(module, "conv", None) or module  # called if it computes
        inner.register_forward_hook(lambda *_, name=name: seen.append(name))
    for block in (*network.down_blocks, *network.up_blocks):  # attentions compute in their first linear layer
        for i, attention in enumerate(getattr(block, "attentions", ())):
            name = next(n for n, m in named if m is block.resnets[i])
            attention.proj_in.register_forward_hook(lambda *_, name=name: seen.append(f"attention of {name}"))
    return seen


@pytest.mark.parametrize("branch", range(DEPTH))
def test_cached_steps_execute_exactly_the_shallow_units(branch):
    network = unet()
    seen = executed(network)
    host = Host(network, DeepCache(interval=2, branch=branch))
    host(0, *inputs(0))
    full = list(seen)
    assert {f"{way}{i}" for way in "du" for i in range(DEPTH)} | {"mid", "out"} <= set(full)
    seen.clear()
    host(1, *inputs(1))
    shallow = {f"{way}{i}" for way in "du" for i in range(branch + 1)}
    expected = [name for name in full if name.removeprefix("attention of ") in shallow | {"out", "text"}]
    assert seen == expected
    seen.clear()
    host(2, *inputs(2))
    assert seen == full


def test_interval_one_is_no_cache_in_every_branch():
    network = unet()
    for branch in range(DEPTH):
        host = Host(network, DeepCache(interval=1, branch=branch))
        for step in range(3):
            with torch.no_grad():
                assert torch.equal(host(step, *inputs(step)), network(*inputs(step)).sample)


def test_a_change_of_what_runs_is_computed_in_full():
    network = unet()
    host = Host(network, DeepCache(interval=9))

    def full(step, *args, **kwargs) -> bool:
        with torch.no_grad():
            return torch.equal(host(step, *args, **kwargs), network(*args).sample)

    assert full(0, *inputs(0))
    assert not full(1, *inputs(1))
    assert full(2, *inputs(2, rows=4)), "another number of rows"
    assert not full(3, *inputs(3, rows=4))
    assert full(4, *inputs(4, rows=4, size=10)), "another picture size"
    assert not full(5, *inputs(5, rows=4, size=10))
    host.begin()
    assert full(1, *inputs(1, rows=4, size=10)), "another generation"
    network.double()
    assert full(2, *(x.double() if isinstance(x, torch.Tensor) else x for x in inputs(2, rows=4, size=10)))


def test_nothing_is_kept_outside_of_a_generation():
    network = unet()
    host = Host(network, DeepCache(interval=2), steps=2)
    for step in (2, 3):  # past the end: somebody plays with the network
        with torch.no_grad():
            assert torch.equal(host(step, *inputs(step)), network(*inputs(step)).sample)
    idle = Host(network, DeepCache(interval=2))
    idle.run.number = 0
    for step in (1, 3):
        with torch.no_grad():
            assert torch.equal(idle(step, *inputs(step)), network(*inputs(step)).sample)


@torch.no_grad()
def test_guidance_that_ends_midway_goes_on_with_the_conditional_rows():
    network = unet()
    host = Host(network, DeepCache(interval=3, branch=2), images=1)
    x, t, text = inputs(0)
    _, entered = by_hand(network, x, t, text, 2)
    host(0, x, t, text)
    x, t, text = inputs(1)
    expected, _ = by_hand(network, x[1:], t, text[1:], 2, held=entered[1:])
    assert torch.equal(host(1, x[1:], t, text[1:]), expected)
    x, t, text = inputs(2)
    expected, _ = by_hand(network, x, t, text, 2, held=entered)
    assert torch.equal(host(2, x, t, text), expected), "and comes back"


@torch.no_grad()
def test_guidance_in_two_calls_has_a_memory_for_each():
    network = unet()
    both, apart = (Host(network, DeepCache(interval=3, branch=1)) for _ in range(2))
    for step in range(5):
        x, t, text = inputs(step)
        expected = both(step, x, t, text)
        one = apart(step, x[:1], t, text[:1])
        other = apart(step, x[1:], t, text[1:], again=True)
        assert (torch.cat([one, other]) - expected).abs().max() < 1e-5


@torch.no_grad()
def test_the_second_query_of_a_step_shares_its_decision():
    network = unet()
    host = Host(network, DeepCache(interval=2))
    for step, full in ((0, True), (1, False), (2, True)):
        for stage in (0, 1):
            args = inputs(10 * step + stage)
            assert torch.equal(host(step, *args, stage=stage), network(*args).sample) == full


@pytest.mark.parametrize("branch", [0, 2, 3, 5, 8])
@torch.no_grad()
def test_freeu_works_on_what_is_remembered_without_spoiling_it(branch):
    network = unet()
    network.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    host = Host(network, DeepCache(interval=9, branch=branch))
    args = inputs(0)
    plain = network(*args).sample
    assert torch.equal(host(0, *args), plain)
    for step in range(1, 4):  # same input, same held tensor: nothing changes, however often it is used
        assert torch.allclose(host(step, *args), plain, atol=1e-6)


@torch.no_grad()
def test_controlnet_and_adapter_residuals_of_the_running_part_are_felt():
    network = unet()
    sizes = [s.shape for s in skips_of(network)]
    mid = sizes[-1]
    for branch in range(DEPTH):
        host = Host(network, DeepCache(interval=9, branch=branch))
        zero = {
            "down_block_additional_residuals": [torch.zeros(s) for s in sizes],
            "mid_block_additional_residual": torch.zeros(mid),
        }
        some = {
            "down_block_additional_residuals": [torch.ones(s) for s in sizes],
            "mid_block_additional_residual": torch.ones(mid),
        }
        args = inputs(0)
        assert torch.equal(host(0, *args, **some), network(*args, **some).sample)
        assert torch.allclose(host(1, *args, **some), network(*args, **some).sample, atol=1e-6)
        assert not torch.allclose(host(2, *args, **zero), network(*args, **some).sample, atol=1e-3)
        adapter = {"down_intrablock_additional_residuals": [torch.ones(s) for s in (sizes[3], sizes[5], sizes[8])]}
        fresh = Host(network, DeepCache(interval=9, branch=branch))
        for step in (0, 1, 2):
            mine = {k: [r.clone() for r in v] for k, v in adapter.items()}
            theirs = {k: [r.clone() for r in v] for k, v in adapter.items()}
            expected = network(*args, **theirs).sample
            assert torch.allclose(fresh(step, *args, **mine), expected, atol=1e-6)


def skips_of(network):
    x, t, text = inputs(0)
    skips = [network.conv_in(x)]
    emb = network.time_embedding(network.time_proj(torch.full((len(x),), t)))
    for block in network.down_blocks:
        more = {"encoder_hidden_states": text} if hasattr(block, "attentions") else {}
        skips += block(skips[-1], emb, **more)[1]
    return skips


def test_a_controlnet_keeps_its_effect_on_every_step():
    pipe = make("controlnet")
    with DeepCache(interval=4).applied(pipe):
        weak, strong = (call(pipe, controlnet_conditioning_scale=scale) for scale in (0.0, 1.0))
    assert (weak - strong).abs().max() > 1e-3


# schedules


@pytest.mark.parametrize(
    ("steps", "interval", "center", "expected"),
    [
        (50, 5, 15, [0, 5, 9, 13, 17, 21, 26, 31, 37, 43]),
        (50, 3, 15, [0, 3, 6, 8, 11, 13, 15, 17, 20, 22, 25, 28, 32, 35, 38, 42, 46]),
        (50, 10, 15, [0, 9, 17, 26, 37]),
        (250, 10, 60, [0, 9, 16, 24, 32, 40, 48, 55, 63, 71, 80, 89, 98, 108, 118, 128, 139, 150, 161, 173, 185, 197,
                       210, 223, 236]),
    ],
)  # fmt: skip
def test_official_schedules_are_those_of_the_authors_code(steps, interval, center, expected):
    assert sorted(centered_steps(steps, interval, center, 1.4, signed=False)) == expected


def test_signed_schedule():
    assert sorted(centered_steps(50, 5, 15, 1.4, signed=True)) == [0, 6, 10, 14, 16, 19, 24, 30, 36, 43]


@pytest.mark.parametrize("signed", [False, True])
def test_schedules_have_the_promised_number_of_full_steps_and_begin_with_one(signed):
    for steps in (7, 20, 28, 50, 100):
        for interval in (1, 2, 3, 5, 10):
            full = centered_steps(steps, interval, steps // 3, 1.4, signed)
            assert 0 in full and len(full) == -(-steps // interval) and max(full) < steps


def test_a_schedule_that_does_not_exist_is_refused_in_one_line():
    with pytest.raises(HastenError, match=r'center: no 15 of 30 steps .* around step 15 .* schedule="uniform"'):
        centered_steps(30, 2, 15, 1.4, signed=False)


def test_gates_go_by_the_step_alone():
    run = Run(VariancePreserving(), number=1, steps=7)

    def opened(gate) -> list[int]:
        return [run.step for run.step in range(7) if gate.opens(run)]

    assert opened(Every(3)) == [0, 3, 6]
    assert opened(Listed(frozenset({2, 5}))) == [0, 2, 5]
    assert opened(DeepCache(schedule="official", interval=3, center=2).gate) == sorted(
        centered_steps(7, 3, 2, 1.4, False)
    )


# what is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"interval": 0}, "interval: 0"),
        ({"interval": 2.5}, "interval: 2.5"),
        ({"branch": -1}, "branch: -1"),
        ({"schedule": "dense"}, "schedule: 'dense' .* uniform"),
        ({"center": -3}, "center: -3"),
        ({"power": 1.0}, "power: 1.0"),
        ({"intervall": 2}, "did you mean 'interval'"),
    ],
)
def test_bad_settings_are_refused_in_one_line(fields, message):
    with pytest.raises(HastenError, match=message):
        CACHES.build({"name": "deepcache"} | fields)


def test_models_without_the_site_are_refused_in_one_line():
    with pytest.raises(UnsupportedModel, match=r"branch: 9 is deeper .* from 0 to 8"):
        DeepCache(branch=9).check(unet())
    DeepCache(branch=8).check(unet())
    for kind in ("sd3", "flux", "pixart"):
        with pytest.raises(UnsupportedModel, match=r"Transformer2DModel has no conv_in; give a U-Net"):
            DeepCache().check(make(kind).transformer)
    from diffusers import UNet2DModel

    one_skip_a_block = UNet2DModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 32), norm_num_groups=4,
        down_block_types=("SkipDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "SkipUpBlock2D"),
    )  # fmt: skip
    with pytest.raises(UnsupportedModel, match="UNet2DModel has resnet_down in its SkipDownBlock2D"):
        DeepCache().check(one_skip_a_block)
