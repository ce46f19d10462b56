"""The tokens of a U-Net's blocks that are computed while the others are held: which, when, and what comes of it."""

import diffusers
import pytest
import torch
from pipelines import arguments, call, make
from test_caches import RUNS, Guided
from tiny import unet

from hasten import sample
from hasten.caches import CACHES, SADA
from hasten.caches.tokens import Refresh, Tokens
from hasten.caching.history import History
from hasten.core.errors import HastenError, UnsupportedModel
from hasten.processes import VariancePreserving
from hasten.runtime.following import AcceleratedDenoiser
from hasten.runtime.run import Run
from hasten.sampling import sample_many

BUSY = SADA("official", acc_range=(0.0, 1.0), tail=0, lagrange_int=1, max_downsample=2, sx=2, sy=2)


def tokens(interval: int = 4, **fields):
    site = {"name": "tokens", "max_downsample": 2} | fields
    return CACHES.build(
        {"name": "cache", "site": site, "gate": {"name": "refresh", "interval": interval, "start": 0.2}}
    )


def test_the_more_tokens_the_smaller_the_error_and_with_all_there_is_none():
    pipe = make("sd")
    plain = call(pipe, steps=14)

    def error(**fields) -> float:
        with tokens(**fields).applied(pipe):
            return float((call(pipe, steps=14) - plain).abs().mean())

    errors = [error(sx=8, sy=8, max_fix=count, scheme="official") for count in (0, 8, 24, 64)]
    assert errors[0] > errors[1] > errors[2] > errors[3] > 0, "what is stable stays held"
    assert error(sx=1, sy=1, max_fix=0) == 0
    assert error(sx=8, sy=8, max_downsample=1) < error(sx=8, sy=8, max_downsample=2)


def test_blocks_run_on_the_chosen_tokens_only():
    pipe = make("sd")
    seen: list[tuple[int, int]] = []
    with tokens(sx=4, sy=4, max_fix=3, max_downsample=1).applied(pipe):
        fine, coarse = (pipe.unet.down_blocks[i].attentions[0].transformer_blocks[0].ff for i in (0, 1))
        fine.register_forward_pre_hook(lambda _, args: seen.append((pipe.scheduler.run.step, args[0].shape[1])))
        coarse.register_forward_pre_hook(lambda _, args: seen.append((-1, args[0].shape[1])))
        call(pipe, steps=14)  # and one more, as PNDM does
    assert {count for step, count in seen if step < 0} == {16}
    counts = dict(seen)
    assert [step for step in range(15) if counts[step] == 64] == [0, 1, 2, 3, 7, 11]
    assert all(4 <= counts[step] <= 7 for step in (4, 5, 6, 8, 9, 10, 12, 13, 14)), "one in each window, and up to 3"


def test_a_token_stays_as_it_was_computed_last():
    pipe = make("sd")
    outputs: dict[int, torch.Tensor] = {}
    tokens_of: dict[int, set[int]] = {}
    with tokens(sx=4, sy=4, max_fix=3, max_downsample=1).applied(pipe):
        run = pipe.scheduler.run
        site = Tokens(sx=4, sy=4, max_fix=3, max_downsample=1)

        def note(_module, _args, out):
            outputs[run.step] = out.clone()
            if site in run.notes and run.notes[site][0] == run.step:
                tokens_of[run.step] = set(run.notes[site][1][0, 8, 8].tolist())

        pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].register_forward_hook(note)
        call(pipe, steps=14)
    for step in (5, 6, 9, 10):
        fresh = torch.tensor(sorted(tokens_of[step]))
        held = torch.tensor(sorted(set(range(64)) - tokens_of[step]))
        assert tokens_of[step] != tokens_of.get(step - 1)
        assert torch.equal(outputs[step][:, held], outputs[step - 1][:, held])
        assert (outputs[step][:, fresh] != outputs[step - 1][:, fresh]).any(-1).all()


def test_random_tokens_lie_one_in_a_window_and_depend_on_seed_and_step_alone():
    before = torch.get_rng_state()
    for height, width in ((8, 8), (7, 10), (2, 1)):
        picks = Tokens(seed=1)._spread(5, height, width)
        windows = {(int(p) // width // 3, int(p) % width // 3) for p in picks}
        assert len(windows) == len(picks) == -(-height // 3) * -(-width // 3)
        assert int(picks.min()) >= 0 and int(picks.max()) < height * width
        assert torch.equal(picks, Tokens(seed=1)._spread(5, height, width))
    many = {tuple(Tokens(seed=s)._spread(k, 9, 9).tolist()) for s in range(3) for k in range(20)}
    assert len(many) == 60
    assert torch.equal(torch.get_rng_state(), before)


def test_all_tokens_are_refreshed_after_a_gap_and_every_few_steps():
    gate, course = Refresh(interval=4, start=0.1), History()
    run = Run(VariancePreserving(), number=1, steps=40)
    course.nodes["x"] = []
    opened = []
    for step in (*range(11), 13, 14, 15, 16, 17, 18, 21, 22):
        run.step = step
        if course.settle(step, gate.decide(run, [course], [None])[0]):
            opened.append(step)
    assert opened == [0, 1, 2, 3, 4, 8, 13, 17, 21]
    run.step = 39
    assert gate.decide(run, [History(step=38)], [None]) == [False]
    assert Refresh(4, 0.1, tail=1).decide(run, [History(step=38)], [None]) == [True]
    assert all(
        Refresh(1).decide(Run(VariancePreserving(), steps=9, step=k), [History(step=k - 1)], [])[0] for k in range(9)
    )


@pytest.mark.parametrize("kind", ["sd", "sdxl", "img2img", "controlnet"])
@pytest.mark.parametrize("method", [tokens(sx=2, sy=2, max_fix=5), BUSY], ids=["tokens", "sada"])
def test_a_batch_equals_its_singles_and_the_second_call_the_first(kind, method):
    pipe = make(kind, torch.float64)  # in float32 the order of rounding, which batches change, can decide a near tie
    if method is BUSY and kind == "sd":  # where steps that are not skipped follow one another
        pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    plain = call(pipe, steps=14)
    three = arguments(pipe, 3)
    with method.applied(pipe):
        first = call(pipe, steps=14)
        generators = [torch.Generator().manual_seed(i) for i in range(3)]
        batch = call(pipe, steps=14, prompts=3, generator=generators)
        singles = [
            call(pipe, steps=14, generator=torch.Generator().manual_seed(i), **{
                k: v[i : i + 1] if isinstance(v, torch.Tensor) and len(v) == 3 else v for k, v in three.items()
            })
            for i in range(3)
        ]  # fmt: skip
        assert torch.equal(call(pipe, steps=14), first)
    assert (batch - torch.cat(singles)).abs().max() <= 1e-5 * batch.abs().max()
    assert not torch.equal(first, plain)
    assert torch.equal(call(pipe, steps=14), plain)


def test_tokens_matter_beside_the_steps_that_are_skipped():
    pipe, outcomes = make("sd"), []
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    for size in (0, 1, 2):
        with SADA("official", (0.0, 1.0), tail=0, lagrange_int=1, max_downsample=size).applied(pipe):
            outcomes.append(call(pipe, steps=20))
    assert not torch.equal(outcomes[0], outcomes[1]) and not torch.equal(outcomes[1], outcomes[2])
    with SADA(**SADA.off, max_downsample=2).applied(pipe):
        off = call(pipe, steps=14)
    assert torch.equal(off, call(pipe, steps=14))


@pytest.mark.parametrize("calls", [1, 2])
@torch.no_grad()
@pytest.mark.slow
def test_sample_many_equals_sample(calls):
    fast = AcceleratedDenoiser(
        unet(1), lambda net: Guided(net, calls), [tokens(sx=3, sy=3, max_fix=4, max_downsample=4)]
    )
    runs = [run | {"steps": 3 * run["steps"]} for run in RUNS]
    for run, got in zip(runs, sample_many(fast, runs), strict=True):
        assert (got - sample(fast, **run)).abs().max() <= 2e-5 * got.abs().max()
        assert not torch.allclose(sample(Guided(fast.network, calls), **run), got, rtol=1e-3)


def test_what_cannot_be_is_refused():
    for kind in ("flux", "sd3"):
        with pytest.raises(UnsupportedModel, match="is no U-Net"), SADA(max_downsample=1).applied(make(kind)):
            pytest.fail("accepted")
    for field in ("sx", "max_downsample", "max_fix", "scheme"):
        with pytest.raises(HastenError, match=field):
            Tokens(**{field: -1})
