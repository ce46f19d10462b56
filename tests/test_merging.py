"""Token merging follows the published rule, on any grid, and leaves everything else as it was."""

import pytest
import torch
from pipelines import call, make
from tiny import randn, unet

import hasten
from hasten.caches import CACHES, DeepCache, DiffusersPAB, TokenMerging
from hasten.caches.merging import Matching, destinations
from hasten.core.errors import HastenError, UnsupportedModel
from hasten.measure import macs
from hasten.processes import VariancePreserving
from hasten.runtime.run import Run
from hasten.runtime.view import view


def test_the_rule_on_a_scripted_grid():
    """2 x 4 tokens, destinations 0 and 2; 1 points along 0, 3 and 5 nearly along 2."""
    angles = torch.tensor([0.0, 0.01, 90.0, 88.0, 45.0, 70.0, 150.0, 200.0]).deg2rad()
    tokens = torch.stack([angles.cos(), angles.sin()], 1)[None] * torch.arange(1.0, 9.0)[None, :, None]
    matching = Matching(tokens, torch.tensor([0, 2]), merged=3)
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])[None, :, None]
    merged = matching.merge(values)[0, :, 0]
    # the rest by how alike they are: 45 degrees to either, 60 to the second; 110 to the second
    assert merged.tolist() == pytest.approx([16.0, 64.0, 128.0, (1 + 2) / 2, (4 + 8 + 32) / 3])
    back = matching.unmerge(torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0])[None, :, None])[0, :, 0]
    assert back.tolist() == [40.0, 40.0, 50.0, 50.0, 10.0, 50.0, 20.0, 30.0]


def test_nothing_merged_is_the_identity():
    x = randn(3, 48, 5)
    matching = Matching(randn(3, 48, 7), destinations(6, 8, [1]), 0)
    assert torch.equal(matching.unmerge(matching.merge(x)), x)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 7), (2, 9), (3, 3)])
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.75])
def test_the_mean_is_preserved_and_rows_do_not_mix(height, width, ratio):
    count = height * width
    tokens, x = randn(3, count, 7), randn(3, count, 5, seed=1)
    into = destinations(height, width, [3])
    merged = min(int(ratio * count), count - len(into))
    matching = Matching(tokens, into, int(ratio * count))
    small = matching.merge(x)
    assert small.shape == (3, count - merged, 5)
    sizes = torch.ones(3, small.shape[1])
    sizes[:, -len(into) :].scatter_add_(1, matching.into, torch.ones_like(matching.into, dtype=torch.float32))
    assert sizes.sum(1).tolist() == [count] * 3
    assert torch.allclose((small * sizes[..., None]).sum(1), x.sum(1), atol=1e-5)
    for row in range(3):
        alone = Matching(tokens[row : row + 1], into, int(ratio * count))
        assert torch.equal(alone.merge(x[row : row + 1]), small[row : row + 1])
    constant = torch.ones(3, count, 1)
    assert torch.equal(matching.unmerge(matching.merge(constant)), constant)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 8), (6, 3)])
def test_destinations_are_one_a_cell(height, width):
    for key in (None, [0, 1, 2], [0, 2, 2]):
        places = destinations(height, width, key)
        rows, columns = places // width, places % width
        cells = (rows // 2 * (width // 2) + columns // 2).tolist()
        assert cells == list(range(height // 2 * (width // 2)))
    assert destinations(height, width, None).tolist()[:2] == ([0, 2] if width > 3 else [0, 6])
    assert destinations(16, 16, [0, 1]).tolist() != destinations(16, 16, [0, 2]).tolist()


def tokens_seen(network) -> list[int]:
    """The lengths of all sequences that self-attention really works on."""
    seen: list[int] = []
    for module in network.modules():
        if getattr(module, "attn1", None) is not None:
            module.attn1.to_q.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
            module.attn2.to_q.register_forward_pre_hook(lambda _, args: seen.append(-args[0].shape[1]))
    return seen


@pytest.mark.parametrize(("size", "finest"), [((8, 8), 64), ((8, 12), 96), ((10, 6), 60), ((7, 9), 63)])
def test_any_aspect_ratio_merges_the_finest_grids_only(size, finest):
    network = unet(layers=1, down_block_types=("CrossAttnDownBlock2D",) * 3, up_block_types=("CrossAttnUpBlock2D",) * 3)
    twin = view(network)
    TokenMerging(ratio=0.5).attach(twin, Run(VariancePreserving(), number=1, steps=4))
    seen = tokens_seen(twin)
    args = (randn(2, 4, *size), 500, randn(2, 5, 8))
    with torch.no_grad():
        merged, plain = twin(*args).sample, network(*args).sample
    assert merged.shape == plain.shape and not torch.equal(merged, plain)
    own = [n for n in seen if n > 0]
    middle, coarse = ([-(-n // d) for n in size] for d in (2, 4))
    fine = finest - finest // 2
    assert own == [fine, middle[0] * middle[1], coarse[0] * coarse[1], *[coarse[0] * coarse[1]] * 3,
                   *[middle[0] * middle[1]] * 2, fine, fine]  # fmt: skip
    assert {-n for n in seen if n < 0} == {finest, middle[0] * middle[1], coarse[0] * coarse[1]}


def test_downsample_reaches_coarser_grids():
    pipe = make("sd")
    with TokenMerging(downsample=2).applied(pipe):
        seen = tokens_seen(pipe.unet)
        call(pipe, steps=1)
    assert {n for n in seen if n > 0} == {32, 8}


@torch.no_grad()
def test_one_block_written_out_by_hand():
    """norm1(x) is merged by what x is like, attended to, copied back, and added."""
    pipe = make("sd")
    with TokenMerging(ratio=0.4, seed=5).applied(pipe):
        network = pipe.unet
        block = network.down_blocks[0].attentions[0].transformer_blocks[0]
        pipe.scheduler.set_timesteps(4)
        given: list = []
        block.register_forward_hook(lambda _, args, kwargs, out: given.append((args, kwargs, out)), with_kwargs=True)
        network(randn(2, 4, 8, 8), 500, randn(2, 5, 8))
        (x, *_), kwargs, out = given[0]
        matching = Matching(x, destinations(8, 8, [5, 0, 0]), int(0.4 * 64))
        plain = make("sd").unet.down_blocks[0].attentions[0].transformer_blocks[0]
        h = x + matching.unmerge(plain.attn1(matching.merge(plain.norm1(x))))
        h = h + plain.attn2(plain.norm2(h), encoder_hidden_states=kwargs["encoder_hidden_states"])
        assert torch.allclose(out, h + plain.ff(plain.norm3(h)), atol=1e-6)


def test_it_draws_by_seed_step_and_block_and_not_from_anybody_elses_numbers():
    pipe = make("sd")
    with TokenMerging(seed=1).applied(pipe):
        state = torch.get_rng_state()
        first = call(pipe)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(99)
        assert torch.equal(call(pipe), first)
    with TokenMerging(seed=2).applied(pipe):
        assert not torch.equal(call(pipe), first)
    with TokenMerging(random=False, seed=1).applied(pipe):
        top_left = call(pipe)
    with TokenMerging(random=False, seed=2).applied(pipe):
        assert torch.equal(call(pipe), top_left)


@torch.no_grad()
def test_each_step_draws_its_own():
    run = Run(VariancePreserving(), number=1, steps=9)
    network = view(make("sd").unet)
    TokenMerging().attach(network, run)
    args = (randn(2, 4, 8, 8), 500, randn(2, 5, 8))
    answers = []
    for run.step in (0, 1, 0):
        answers.append(network(*args).sample)
    assert torch.equal(answers[0], answers[2]) and not torch.equal(answers[0], answers[1])


@torch.no_grad()
def test_coarser_grids_of_odd_sizes_are_found():
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",) * 3, "up_block_types": ("CrossAttnUpBlock2D",) * 3}
    network = view(unet(layers=1, **blocks))
    TokenMerging(downsample=4).attach(network, Run(VariancePreserving(), number=1, steps=4))
    seen = tokens_seen(network)
    network(randn(2, 4, 13, 11), 500, randn(2, 5, 8))
    assert {n for n in seen if n > 0} == {143 - 71, 42 - 21, 12 - 6}  # 13 x 11, 7 x 6, 4 x 3


def test_fewer_multiply_adds():
    pipe = make("sd")
    plain = macs(lambda: call(pipe))
    with TokenMerging(ratio=0.75).applied(pipe):
        assert macs(lambda: call(pipe)) < 0.99 * plain


def test_a_masked_attention_runs_as_it_is():
    network = view(make("sd").unet)
    run = Run(VariancePreserving(), number=1, steps=4)
    TokenMerging().attach(network, run)
    plain = make("sd").unet
    args = (randn(2, 4, 8, 8), 500, randn(2, 5, 8))
    mask = torch.zeros(2, 64, dtype=torch.bool)
    mask[:, :40] = True
    block, own = (n.down_blocks[0].attentions[0].transformer_blocks[0] for n in (network, plain))
    with torch.no_grad():
        network(*args)
        args = (randn(2, 64, 4), -1e4 * mask.float()[:, None], randn(2, 5, 8))
        assert torch.equal(block(*args), own(*args)) and not torch.equal(block(args[0], None, args[2]), own(*args))


def test_held_attention_outside_has_all_tokens():
    pipe = make("sd")
    refused = pytest.raises(HastenError, match="must be applied before")
    with refused, TokenMerging().applied(pipe), DiffusersPAB(low=-1).applied(pipe):
        pytest.fail("accepted")
    for cache in (DiffusersPAB(low=-1), DeepCache(2)):
        with cache.applied(pipe):
            alone = call(pipe)
            with TokenMerging().applied(pipe):
                both = call(pipe)
                assert torch.equal(call(pipe), both) and not torch.equal(both, alone)
            assert torch.equal(call(pipe), alone)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"ratio": 0.8}, "ratio: 0.8"), ({"ratio": -0.1}, "ratio: -0.1"), ({"downsample": 3}, "downsample: 3"),
     ({"seed": -1}, "seed: -1"), ({"ration": 0.5}, "did you mean 'ratio'")],
)  # fmt: skip
def test_bad_settings_are_refused_in_one_line(fields, message):
    with pytest.raises(HastenError, match=message):
        CACHES.build({"name": "tome"} | fields)


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_models_without_such_blocks_are_refused(kind):
    with pytest.raises(UnsupportedModel, match=r"tome: .*Transformer2DModel has no blocks with a self-attention"):
        TokenMerging().check(make(kind).transformer)


def test_a_unet_without_attention_on_fine_grids_says_which_setting_it_takes() -> None:
    pipe = hasten.load("emoji-sd")
    with pytest.raises(UnsupportedModel, match="give downsample=2"):
        TokenMerging().check(pipe.unet)
    TokenMerging(downsample=2).check(pipe.unet)
