"""Inversion: exact round trips, what they cost, how they fail, and the truth of the solvers that make them."""

import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import hasten
from hasten import invert, sample
from hasten.cli import main
from hasten.core.errors import HastenError, UnsupportedModel
from hasten.denoisers import GaussianMixture
from hasten.edit import Inverse, denoiser_of, pictures_of, states_of
from hasten.grids import schedule
from hasten.predictions import Pair
from hasten.processes import Cosine, RectifiedFlow, VarianceExploding, VariancePreserving
from hasten.sampling import sample_many
from hasten.solvers import BDIA, DDIM, EDICT, BDIAHeun, DPMSolverPP, Heun, UniPC
from hasten.solvers.reversible import Timeline

VP = VariancePreserving.from_betas("linear", 1e-4, 0.02)
PROCESSES = [VP, RectifiedFlow(), VarianceExploding(), Cosine(), VariancePreserving.from_betas(zero_terminal_snr=True)]
EXACT = [EDICT(), BDIA(), BDIA(gamma=0.9), BDIAHeun(exact=True)]
TILES = Path(hasten.__file__).parent / "zoo" / "weights" / "emoji-sd" / "samples.png"
ANGLES = np.arange(5) * 2 * np.pi / 5
MEANS = 1.5 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)


def mixture(process=VP):
    return GaussianMixture(MEANS, 0.25, None, process)


def times(steps):
    """The cards' runs: uniform in time, down to 2 % of it."""
    return np.linspace(1000, 20, steps + 1)


def seeded(rows=200):
    return torch.randn(rows, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def clean(rows=200):
    """States at the last of those times."""
    x0 = mixture().sample(rows, torch.Generator().manual_seed(1))
    return float(VP.alpha(20)) * x0 + float(VP.sigma(20)) * seeded(rows)


def rms(x):
    return x.square().mean().sqrt().item()


@pytest.fixture(scope="module")
def exact():
    """The ODE's own ends: where seeded() goes, and where clean() comes from."""
    solver = UniPC(order=3, lower_order_final=False)
    return sample(mixture(), seeded(), solver, grid=times(490)), invert(mixture(), clean(), solver, grid=times(490))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("end", ["data", "min"])
@pytest.mark.parametrize("solver", EXACT, ids=str)
def test_round_trips_are_exact_to_rounding(solver, end, process):
    x0, run = mixture().sample(50, torch.Generator().manual_seed(1)), {"steps": 50, "end": end}
    state = invert(mixture(process), x0, solver, **run)
    assert isinstance(state, Pair) and state.shape == (2, 50, 2) and torch.isfinite(state).all()
    assert (sample(mixture(process), state, solver, **run) - x0).abs().max() <= 1e-10


@pytest.mark.parametrize(("steps", "trip"), [(10, 0.19), (50, 0.039)])
def test_naive_inversion_comes_back_elsewhere(steps, trip):
    """The cards measured 0.34 and 0.078 on another mixture; the error falls with the step as first order does."""
    state = invert(mixture(), clean(), DDIM(), grid=times(steps))
    assert rms(sample(mixture(), state, DDIM(), grid=times(steps)) - clean()) == pytest.approx(trip, rel=0.1)
    for solver in EXACT:
        state = invert(mixture(), clean(), solver, grid=times(steps))
        assert (sample(mixture(), state, solver, grid=times(steps)) - clean()).abs().max() <= 1e-10


@pytest.mark.parametrize(("solver", "order"), [(DDIM(), 1), (Heun(), 2)], ids=str)
def test_walking_backwards_has_the_order_of_the_solver(solver, order, exact):
    errors = [rms(invert(mixture(), clean(), solver, grid=times(n)) - exact[1]) for n in (50, 100, 200)]
    assert np.polyfit(np.log([50, 100, 200]), -np.log(errors), 1)[0] == pytest.approx(order, abs=0.25)


def drive(stepping):
    """What a step returns once the mixture has answered its queries."""
    prediction = None
    try:
        while True:
            query = next(stepping) if prediction is None else stepping.send(prediction)
            prediction = mixture()(query.x, query.t)
    except StopIteration as done:
        return done.value


@pytest.mark.parametrize("solver", [*EXACT, EDICT(mixing=1.0), EDICT(mixing=0.9), BDIA(gamma=0.96)], ids=str)
@pytest.mark.parametrize("i", [1, 2, 7])
def test_each_step_is_undone_by_its_inverse(solver, i):
    run = Timeline.of(VP, times(8))
    pair = (seeded(), seeded() + 0.01 * clean())
    there = drive(solver.step(run, i, pair))
    back = drive(solver.inverse_step(run, i, there))
    for before, after in zip(pair, back):
        assert (before - after).abs().max() <= 1e-13


def test_noise_to_data_to_noise_is_exact_too():
    for solver in (EDICT(), EDICT(mixing=0.9), EDICT(mixing=1.0), BDIA(gamma=0.96)):
        run = Timeline.of(VP, times(10))
        pair = drive(solver.begin(run, seeded()))
        for i in range(solver.first, 10):
            pair = drive(solver.step(run, i, pair))
        for i in reversed(range(solver.first, 10)):
            pair = drive(solver.inverse_step(run, i, pair))
        assert (pair[0] - seeded()).abs().max() <= 1e-13


def test_the_copies_of_edict_part_by_p_to_the_minus_2n():
    """At 100 steps the cards measured 7e-6, 2.3e-2 and 14 at p = 0.97, 0.93, 0.9: in the ratio of p^-200, nearly."""
    apart = {}
    for mixing in (0.97, 0.93, 0.9):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x, y = invert(mixture(), clean(), EDICT(mixing=mixing), grid=times(100))
        apart[mixing] = rms(x - y)
    for one, other in [(0.93, 0.97), (0.9, 0.93)]:
        grown = EDICT(mixing=one).growth(100) / EDICT(mixing=other).growth(100)
        assert grown / 3 < apart[one] / apart[other] < grown
    assert EDICT().growth(50) == pytest.approx(1418, rel=1e-3) and EDICT(mixing=0.9).growth(50) > 3.7e4


def test_bdia_lets_rounding_grow_by_gamma_to_the_minus_n():
    assert BDIA(gamma=0.96).growth(50) == pytest.approx(7.4, rel=0.01)
    assert BDIA(gamma=0.9).growth(50) == pytest.approx(175, rel=0.01)
    assert BDIA(gamma=0.5).growth(50) == pytest.approx(5.6e14, rel=0.01)
    with pytest.warns(RuntimeWarning, match="bdia: inverting 50 steps .* 6e\\+14 times larger"):
        state = invert(mixture(), clean(), BDIA(gamma=0.5), grid=times(50))
    assert rms(state) > 1e10  # what the warning is about: noise that is no noise
    trip = (sample(mixture(), state, BDIA(gamma=0.5), grid=times(50)) - clean()).abs().max()
    assert 1e-6 < trip < 1e-1


def test_fair_settings_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for solver in (EDICT(), BDIA(), BDIA(gamma=0.9), DDIM()):
            invert(mixture(), clean(2), solver, steps=50)
    with pytest.warns(RuntimeWarning, match="edict: inverting 100 steps"):
        invert(mixture(), clean(2), EDICT(), steps=100)


def errors(solver, exact, counts):
    return [rms(sample(mixture(), seeded(), solver, grid=times(n)) - exact[0]) for n in counts]


@pytest.mark.parametrize(
    ("solver", "order"),
    [(EDICT(), 1), (EDICT(mixing=0.97), 1), (BDIA(gamma=0.5), 1), (BDIA(), 2), (BDIAHeun(), 2),
     (BDIAHeun(gamma=0.5), 2), (BDIAHeun(exact=True), 2)], ids=str,
)  # fmt: skip
def test_order_of_convergence(solver, order, exact):
    counts = (80, 160, 320)
    assert np.polyfit(np.log(counts), -np.log(errors(solver, exact, counts)), 1)[0] == pytest.approx(order, abs=0.15)


def test_bdia_divides_the_error_of_ddim(exact):
    """By (1 + gamma) / (1 - gamma), as its characteristic roots say; the card measured .607, .341, .056 at 640."""
    ddim = errors(DDIM(), exact, [640])[0]
    for gamma, ratio in [(0.25, 0.6), (0.5, 1 / 3), (0.9, 1 / 19)]:
        assert errors(BDIA(gamma=gamma), exact, [640])[0] / ddim == pytest.approx(ratio, rel=0.1)
    assert errors(EDICT(mixing=1.0), exact, [10])[0] > 2 * errors(DDIM(), exact, [10])[0]  # why EDICT mixes


def test_the_latents_of_an_inversion_are_near_those_of_the_ode(exact):
    """The card has 0.005 (BDIA 1), 0.037 (BDIA .96) and 0.041 (EDICT) at 50 steps, 1.4 too large at BDIA .9."""

    def off(solver):
        return rms(invert(mixture(), clean(), solver, grid=times(50))[0] - exact[1])

    assert off(BDIA()) == pytest.approx(0.019, rel=0.1) and off(EDICT()) == pytest.approx(0.045, rel=0.1)
    assert off(BDIA()) < off(EDICT()) < off(BDIA(gamma=0.96)) < off(BDIA(gamma=0.9))


def test_half_of_a_pair_is_not_enough():
    for solver, least in [(BDIA(), 0.05), (BDIA(gamma=0.9), 0.5), (EDICT(), 0.01)]:
        state = invert(mixture(), clean(), solver, grid=times(50))
        assert rms(sample(mixture(), state[0], solver, grid=times(50)) - clean()) > least


@pytest.mark.parametrize("process", PROCESSES[:3], ids=lambda p: type(p).__name__)
def test_without_mending_bdia_is_its_base(process):
    x = seeded(20) * process.start_scale
    for mended, base in [(BDIA(gamma=0.0), DDIM()), (BDIAHeun(gamma=0.0), Heun()), (BDIAHeun(0.0, True), Heun())]:
        got, want = (sample(mixture(process), x, solver, 12) for solver in (mended, base))
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_a_bdia_step_is_the_papers_line():
    """z' = gamma z_older - gamma F(t_older) + F(t'), F(u) = alpha_u data + sigma_u noise."""
    run, (older, x) = Timeline.of(VP, times(10)), (seeded(), clean())
    p = mixture()(x, float(run.times[4]))
    back, on = (float(VP.alpha(t)) * p.data + float(VP.sigma(t)) * p.noise for t in (run.times[3], run.times[5]))
    for gamma in (0.0, 0.7, 1.0):
        _, got = drive(BDIA(gamma=gamma).step(run, 4, (older, x)))
        torch.testing.assert_close(got, gamma * older - gamma * back + on, rtol=1e-12, atol=1e-12)


def test_bdia_edm_does_better_than_heun_for_the_same_calls():
    """Card: Heun .207/.105/.0428 and BDIA .108/.066/.030 (gamma 1), .105/.068/.032 (0.5) at 17, 23, 35 calls.

    Here the smallest sigma has as much say, so 0.5 beats 1 throughout; both beat Heun.
    """
    gm, x = mixture(VarianceExploding()), 80 * seeded()
    truth = sample(gm, x, UniPC(order=3), 600, "karras")
    for steps in (9, 12, 18):
        solvers = (Heun(), BDIAHeun(gamma=0.5), BDIAHeun())
        heun, half, full = (rms(sample(gm, x, s, steps, "karras") - truth) for s in solvers)
        assert {len(s.query_times(gm.process, schedule("karras", gm.process, steps))) for s in solvers} == {
            2 * steps - 1
        }
        assert half < 0.7 * heun and full < heun


def test_full_mending_needs_steps_that_change_slowly():
    """9 Karras times from sigma 80: leapfrog is worse than DDIM there, half of the mending far better."""
    gm, x = mixture(VarianceExploding()), 80 * seeded()
    truth = sample(gm, x, UniPC(order=3), 600, "karras")
    ddim, half, full = (rms(sample(gm, x, s, 9, "karras") - truth) for s in (DDIM(), BDIA(gamma=0.5), BDIA()))
    assert half < 0.4 * ddim and full > 2 * ddim


def test_edict_in_its_papers_words():
    """x' = a x + b eps(y), y' = a y + b eps(x'), roles swapped in odd steps, then mixed one after the other."""
    run, p = Timeline.of(VP, times(4)), 0.93
    x, y = seeded(), seeded() + 0.01 * clean()

    def eps(state, t):
        return mixture()(state, t).noise

    want = [x, y]
    for i in range(4):
        (a0, a1), (s0, s1) = VP.alpha(run.times[i : i + 2]), VP.sigma(run.times[i : i + 2])
        a, b, t = float(a1 / a0), float(s1 - a1 / a0 * s0), float(run.times[i])
        first, second = i % 2, 1 - i % 2
        want[first] = a * want[first] + b * eps(want[second], t)
        want[second] = a * want[second] + b * eps(want[first], t)
        want[0] = p * want[0] + (1 - p) * want[1]
        want[1] = p * want[1] + (1 - p) * want[0]
    got = sample(mixture(), Pair.of(x, y), EDICT(), grid=times(4))
    torch.testing.assert_close(got, want[0], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("steps", "worse"), [(10, 1.72), (80, 0.89)])
def test_the_copies_take_turns_because_few_steps_need_it(steps, worse, exact):
    """Without turns the card's errors are 2.2 times larger at 10 steps and 3.2 times at 20, and equal at 80.

    Here 1.7 times at 10, and equal from 20 on.
    """
    run, solver = Timeline.of(VP, times(steps)), EDICT()

    def stepped(i, pair):  # as `EDICT.step`, the first copy always moving first
        x, y = pair
        p = yield run.query(y, i, i)
        x = run.euler(x, run.value(p), i, i + 1)
        p = yield run.query(x, i, i)
        y = run.euler(y, run.value(p), i, i + 1)
        x = solver.mixing * x + (1 - solver.mixing) * y
        return x, solver.mixing * y + (1 - solver.mixing) * x

    pair = (seeded(), seeded())
    for i in range(steps):
        pair = drive(stepped(i, pair))
    turns = rms(sample(mixture(), seeded(), solver, grid=times(steps)) - exact[0])
    assert rms(pair[0] - exact[0]) / turns == pytest.approx(worse, abs=0.1)


def test_inversions_run_side_by_side_in_any_host():
    runs = [
        {"noise": clean(3 + i), "solver": Inverse(solver), "steps": 6 + i}
        for i, solver in enumerate([EDICT(), BDIA(), DDIM(), DPMSolverPP()])
    ]
    for run, got in zip(runs, sample_many(mixture(), runs)):
        torch.testing.assert_close(got, invert(mixture(), run["noise"], run["solver"].solver, run["steps"]))
    back = sample_many(mixture(), [
        {"noise": invert(mixture(), clean(4), s, 8), "solver": s, "steps": 8} for s in EXACT
    ])  # fmt: skip
    assert all((x - clean(4)).abs().max() <= 1e-11 for x in back)


def test_a_pair_stays_one_when_moved_and_is_a_plain_tensor_otherwise(tmp_path):
    pair = invert(mixture(), clean(3), steps=4)
    assert all(isinstance(moved, Pair) for moved in (pair.float(), pair.to("cpu"), pair.clone()))
    assert not any(isinstance(part, Pair) for part in (pair[0], pair * 2, pair.mean(), *pair.unbind()))
    save_file({"noise": pair}, tmp_path / "noise.safetensors")
    again = Pair.of(*load_file(tmp_path / "noise.safetensors")["noise"])
    assert (sample(mixture(), again, EDICT(), 4) - clean(3)).abs().max() <= 1e-12


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EDICT(mixing=0.0), "mixing: 0.0"),
        (lambda: BDIA(gamma=1.5), "gamma: 1.5"),
        (lambda: invert(mixture(), clean(2), DDIM(eta=1.0)), "solver: 'ddim' draws noise"),
        (lambda: invert(mixture(), clean(2), BDIA(gamma=0.0)), "gamma: 0 is plain DDIM"),
        (lambda: invert(mixture(), clean(2), BDIAHeun()), "exact: False"),
        (lambda: invert(mixture(), clean(2), "edikt"), "did you mean 'edict'"),
        (lambda: invert(mixture(), clean(2) * math.nan), "not finite"),
    ],
)
def test_what_cannot_be_inverted_is_refused(make, message):
    with pytest.raises(HastenError, match=message):
        make()


@pytest.fixture(scope="module")
def emoji():
    """The pipeline and, as states, one of the pictures that ship with it (a tile of its sample grid)."""
    picture = Image.open(TILES).crop((4, 4, 68, 68))
    pipe = hasten.load("emoji-sd")
    return pipe, picture, states_of(pipe, picture)


@pytest.mark.slow
def test_a_real_network_comes_back_in_float32(emoji):
    """50 steps without guidance: exact to 1e-4 where naive inversion is three orders of magnitude off."""
    pipe, _, x0 = emoji
    denoiser = denoiser_of(pipe, "")
    off = {}
    for solver in (EDICT(), BDIA(gamma=0.96), DDIM()):
        state = invert(denoiser, x0, solver, 50, "trailing")
        off[solver.name] = (sample(denoiser, state, solver, 50, "trailing") - x0).abs().max().item()
    assert off["edict"] <= 1e-4 and off["bdia"] <= 1e-4 and off["ddim"] > 1e-2


def test_a_guided_network_comes_back_too(emoji):
    pipe, _, x0 = emoji
    denoiser = denoiser_of(pipe, "noto red apple", guidance=3.0)
    state = invert(denoiser, x0, BDIA(gamma=0.96), 10)
    assert (sample(denoiser, state, BDIA(gamma=0.96), 10) - x0).abs().max() <= 1e-3


def test_a_pipelines_denoiser_is_what_the_pipeline_asks(emoji):
    """The same noise through `pipe(...)` with hasten's scheduler and through `sample`."""
    from hasten.bridge import SolverScheduler

    pipe, _, _ = emoji
    noise, old = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), pipe.scheduler
    pipe.scheduler = SolverScheduler.from_config(old.config, solver="ddim", grid="trailing")
    call = {"num_inference_steps": 3, "guidance_scale": 4.0, "latents": noise, "output_type": "pt"}
    try:
        want = pipe("noto red apple", **call).images
    finally:
        pipe.scheduler = old
    got = sample(denoiser_of(pipe, "noto red apple", 4.0), noise, DDIM(), 3, "trailing")
    torch.testing.assert_close(pictures_of(pipe, got), want, rtol=0, atol=1e-4)


def test_a_flow_transformer_comes_back_too():
    """The zoo's Flux: latents that its pipeline packs, a scale it is not shown, an autoencoder of its own."""
    pipe = hasten.load("emoji-flux")
    x0 = states_of(pipe, Image.open(TILES).crop((4, 4, 68, 68)))
    denoiser = denoiser_of(pipe, "noto red apple")
    state = invert(denoiser, x0, BDIA(gamma=0.96), 8)
    assert (sample(denoiser, state, BDIA(gamma=0.96), 8) - x0).abs().max() <= 1e-3
    assert pictures_of(pipe, x0).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("solver", ["edict", "ddim"])
def test_the_command_inverts_a_picture_and_says_how_well(solver, emoji, tmp_path, capsys):
    pipe, picture, x0 = emoji
    picture.save(tmp_path / "picture.png")
    out = tmp_path / "sub" / "rebuilt.png"
    typed = f"invert emoji-sd {tmp_path}/picture.png --solver {solver} --steps 4 --out {out}"
    with pytest.raises(SystemExit) as end:
        main(typed.split())
    assert end.value.code == 0 and Image.open(out).size == (64, 64)
    told = re.search(r"most (\S+), .* (\S+) dB PSNR\n.*: (\S+) dB \((\S+) dB", capsys.readouterr().out)
    states, pictures, whole, autoencoder = map(float, told.groups())
    noise = load_file(out.with_suffix(".safetensors"))["noise"]
    assert autoencoder > 24
    if solver == "ddim":
        assert noise.shape == x0.shape and states > 0.1 and pictures < 45
        return
    assert states < 1e-3 and pictures > 60 and whole == pytest.approx(autoencoder)
    rebuilt = sample(denoiser_of(pipe, ""), Pair.of(*noise), EDICT(), 4)
    assert (rebuilt - x0).abs().max() == pytest.approx(states, rel=0.1)


def test_digits_and_foreign_pipelines():
    pipe = hasten.load("digits")
    picture = pipe("three", num_inference_steps=5, generator=torch.Generator().manual_seed(0)).images[0]
    x0, denoiser = states_of(pipe, picture), denoiser_of(pipe, "three", guidance=2.0)
    state = invert(denoiser, x0, BDIA(gamma=0.96), 8)
    assert (sample(denoiser, state, BDIA(gamma=0.96), 8) - x0).abs().max() <= 1e-3
    with pytest.raises(UnsupportedModel, match="object cannot be inverted"):
        denoiser_of(object(), "three")


def test_times_of_a_naive_inversion_are_those_of_its_run_the_other_way():
    for process in PROCESSES:
        run = schedule("logsnr", process, 6)
        asked = [q.t for q in Inverse(DDIM()).query_times(process, run)]
        assert asked[0] >= process.t_min and asked == sorted(asked)
