"""What is fitted to a model: exact special cases unfitted, and measured gains on noises the fit never saw."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_processes import PROCESSES

from hasten import Recipe, sample
from hasten.core.errors import HastenError
from hasten.denoisers import GaussianMixture
from hasten.fit import Aim, Probe, Trajectory, converged, integrate, learning, learns, solve
from hasten.fit.dc_solver import after, fit_cascade, step_of
from hasten.fit.usf import breed, known, predicted
from hasten.grids import GRIDS, FittedGrid, Karras, resolve, schedule
from hasten.measure import bootstrap, drift
from hasten.predictions import Prediction
from hasten.processes import RectifiedFlow, VariancePreserving
from hasten.solvers import (
    BNS,
    DDIM,
    DEIS,
    USF,
    DCSolver,
    DPMSolver,
    DPMSolverPP,
    DPMSolverV3,
    HeavyBall,
    UniPC,
)
from hasten.solvers import all as all_solvers
from hasten.solvers.exponential import Frame, inner_nodes
from hasten.solvers.usf import Decision, uniform
from hasten.starts import GaussianTeleport, StudentT

VP, LINEAR, FLOW = VariancePreserving(), VariancePreserving.from_betas("linear", 1e-4, 0.02), RectifiedFlow()
SPAN = (-3.0, 2.0)
TIMES = LINEAR.time(np.linspace(*SPAN, 9))


def mixture(process=LINEAR, dimensions=2, components=3, stds=(0.2, 0.3), seed=0):
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(components, dimensions))
    return GaussianMixture(means, rng.uniform(*stds, components), None, process)


def noise(rows, seed, dimensions=2):
    return torch.randn(rows, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rms(a, b):
    return (a - b).square().mean().sqrt().item()


def close(a, b, tolerance=1e-12):
    assert (a - b).abs().max().item() <= tolerance * b.abs().max().item()


# where fits are


def test_nothing_that_is_fitted_is_loaded_before_somebody_fits():
    """Solvers, grids and starts walk, place and begin without `hasten.fit`; the first call of `fit` loads it."""
    code = """
import sys, torch, hasten
import hasten.solvers, hasten.grids, hasten.starts
from hasten.denoisers import GaussianMixture
from hasten.processes import RectifiedFlow
model, x = GaussianMixture([[0.5, -0.3], [1.0, 1.0]], 0.3, None, RectifiedFlow()), torch.randn(12, 2).double()
for solver in hasten.solvers.all():
    assert isinstance(solver().needs_fit, bool)
    hasten.sample(model, x, solver(), 4, hasten.grids.FittedGrid())
print([name for name in sys.modules if name.startswith("hasten.fit")])
hasten.solvers.BNS().fit(model, x, 3)
print("hasten.fit.bns" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "True"]


def test_what_has_nothing_to_fit_says_so_and_what_has_says_when_it_needs_it():
    for method in (DDIM(), Karras(), StudentT()):
        assert not method.needs_fit
        with pytest.raises(HastenError, match=f"{method.name}: has nothing that could be fitted"):
            method.fit(mixture(), noise(8, 0))
    for method in (BNS(), USF(), DCSolver(), DPMSolverV3(), FittedGrid(), GaussianTeleport()):
        assert method.needs_fit
    for method in (DCSolver(ratios=(1.0, 1.0)), USF(uniform(3)), FittedGrid((900.0, 100.0))):
        assert not method.needs_fit
    assert not GaussianTeleport().fit(noise(9, 0)).needs_fit


def test_bns_alone_learns_while_it_runs_and_only_until_it_is_fitted():
    model, x = mixture(), noise(16, 0)
    trajectory, times = converged(model, x), schedule("karras", LINEAR, 4)
    assert not any(learns(solver()) for solver in all_solvers() if solver is not BNS)
    assert learning(DDIM(), trajectory) is None
    learner = learning(BNS(order=2), trajectory)
    solve(learner, model, times, x)
    (fitted,) = learner.fitted
    assert fitted == BNS(order=2).fit(model, x, 4, "karras", trajectory)
    assert not learns(fitted) and learning(fitted, trajectory) is None


# what fits share


def test_integrate_is_fourth_order_and_right():
    one = GaussianMixture([[0.5, -0.3]], 0.5, None, FLOW)  # a table's kinks in time would set a floor
    x, times, errors = noise(20, 0), FLOW.time(np.array([-3.0, -1.0, 2.0])), []
    for substeps in (16, 32, 64):
        states = integrate(one, x, times, substeps)
        errors.append([rms(state, one.transport(x, times[0], t)) for state, t in zip(states[1:], times[1:])])
    assert (np.array(errors[0]) / errors[1] > 10).all() and max(errors[2]) < 1e-9


def test_integrate_ends_on_data_and_starts_where_alpha_is_zero():
    one = GaussianMixture([[0.5, -0.3]], 0.5, None, FLOW)
    x = noise(20, 0)
    end = integrate(one, x, [1.0, 0.5, 0.0], 40)[-1]
    close(end, one.transport(x, 1.0, FLOW.t_min) * 0 + torch.tensor([0.5, -0.3]) + 0.5 * x, 1e-3)


def test_an_aim_looks_for_flips_beside_the_watershed():
    """Two modes mirrored at 0: results jump where the noise along the line between them changes sign."""
    two = GaussianMixture([[1.0, 0.0], [-1.0, 0.0]], 0.1, None, LINEAR)
    fine = schedule("karras", LINEAR, 24)
    aim = Aim.of(lambda x: integrate(two, x, fine, 2)[-1], noise(64, 3))
    assert len(aim.near) > 40 and len(aim.near) % 6 == 0
    assert (aim.here[:, 0] * aim.across[:, 0] < 0).all() and (aim.near[:, 0].abs() < 0.15).all()
    assert torch.equal(aim.here[:, 0] > 0, aim.near[:, 0] > 0)
    size, share = aim.judge(lambda x: integrate(two, x, fine, 2)[-1])
    assert size < -20 and share < 1e-6
    biased = aim.judge(lambda x: integrate(two, x + torch.tensor([0.02, 0.0]), fine, 2)[-1])[1]
    assert 0.1 < biased < 0.6  # about half the states on one side cross a watershed that moved by 0.02


# DPM-Solver-v3


def tables(*rows):
    """Constant tables of l, s, b, for each coordinate."""
    return torch.tensor(rows, dtype=torch.float64)[:, None].expand(3, 5, 2)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("end", [[], [0.0]], ids=["min", "data"])
def test_v3_with_trivial_statistics_is_dpm_solver(order, end):
    x, times = noise(50, 0), np.append(TIMES, end)
    run = lambda solver: sample(mixture(), x, solver, grid=times)  # noqa: E731
    v3 = DPMSolverV3(order=order, corrector="none")
    exact = UniPC(order=order, corrector=False, variant="exact")
    close(run(v3), run(exact))
    ones, zeros = [1.0, 1.0], [0.0, 0.0]
    close(run(replace(v3, statistics=tables(ones, zeros, zeros), span=SPAN)), run(exact))
    if not end:  # both then end on their own data prediction, of equal states
        minus = replace(v3, statistics=tables(zeros, [-1.0, -1.0], zeros), span=SPAN)
        close(run(minus), run(replace(exact, expand="noise")))


def test_v3_corrector_is_unipcs_where_both_take_the_same_polynomial():
    """Two nodes have one divided difference, so the pseudo corrector of order 1 is UniC of order 1."""
    x = noise(50, 0)
    ours = sample(mixture(), x, DPMSolverV3(order=1), grid=TIMES)
    close(ours, sample(mixture(), x, UniPC(order=1, variant="exact"), grid=TIMES))


@pytest.mark.parametrize(
    ("order", "corrector", "expected"),
    [(1, "none", 1), (2, "none", 2), (3, "none", 3), (2, "plain", 2), (1, "pseudo", 2)],
)
@pytest.mark.slow
def test_v3_converges_in_its_order_whatever_the_statistics(order, corrector, expected):
    """Any l, s, b only rewrite the ODE: with arbitrary ones the integrals must still add up."""
    rng = torch.Generator().manual_seed(4)
    statistics = torch.rand(3, 2, 2, dtype=torch.float64, generator=rng) * 2 - 1
    solver = DPMSolverV3(order, corrector, lower_order_final=False, statistics=statistics, span=SPAN)
    soft, x, counts, errors = mixture(stds=(0.5, 0.6)), noise(20, 1), (100, 200, 400), []
    exact = integrate(soft, x, LINEAR.time(np.array(SPAN)), 200)[-1]
    for steps in counts:
        h = (SPAN[1] - SPAN[0]) / steps
        lam = np.linspace(*SPAN, steps + 1)
        if order == 3:  # first steps shrunk so that starting at order 1 sets no floor
            lam = np.concatenate([lam[:1], SPAN[0] + h * np.array([h**2 / 2, h**1.5]), lam[1:]])
        times = LINEAR.time(lam)
        errors.append(rms(sample(soft, x, solver, grid=times), exact))
    assert np.polyfit(np.log(counts), -np.log(errors), 1)[0] == pytest.approx(expected, abs=0.15)


def test_v3_fitted_to_a_gaussian_solves_it_in_two_steps():
    """There sigma e = l x + constant, so that nothing is left to expand."""
    one = GaussianMixture([[0.5, -0.3]], 0.5, None, LINEAR)
    data = one.sample(300, torch.Generator().manual_seed(1))
    fitted = DPMSolverV3().fit(one, data, points=150)
    lam = np.linspace(*fitted.span, 150)
    t = LINEAR.time(lam)
    l = LINEAR.sigma(t) ** 2 / (LINEAR.alpha(t) ** 2 * 0.25 + LINEAR.sigma(t) ** 2)  # noqa: E741
    np.testing.assert_allclose(fitted.statistics[0], np.stack([l, l], 1), rtol=1e-5)
    x, times = noise(50, 0), LINEAR.time(np.linspace(*SPAN, 3))
    exact = one.transport(x, times[0], times[-1])
    assert rms(sample(one, x, fitted, grid=times), exact) < 3e-3 * rms(sample(one, x, DPMSolverV3(), grid=times), exact)


def test_affine_model_of_the_derivative_on_a_gaussian():
    """With l = 0, f is e^-lam times the noise prediction, so proportional to e^-lam sigma / sqrt(variance)."""
    one = GaussianMixture([[0.0, 0.0]], 0.5, None, LINEAR)
    data = one.sample(200, torch.Generator().manual_seed(1))
    probe, zero = Probe(one, data, 1e-5, 0, 64, (0,)), torch.zeros(2, dtype=torch.float64)

    def log_f(lam):
        t = LINEAR.time(lam)
        alpha, sigma = LINEAR.alpha(t), LINEAR.sigma(t)
        return -lam + np.log(sigma) - 0.5 * np.log(alpha**2 * 0.25 + sigma**2)

    for lam in (-2.0, 0.1, 1.5):
        s, b = probe.affine(lam, zero, zero)
        slope = (log_f(lam + 1e-5) - log_f(lam - 1e-5)) / 2e-5
        np.testing.assert_allclose(s, slope, rtol=1e-4)
        assert b.abs().max() < 1e-4


def test_the_derivative_along_the_ode_is_the_one_of_differences():
    """For one row s is 0 and b the derivative itself, sigma / alpha ((l - 1) e + e') - l' x / alpha."""
    denoiser, lam, h = mixture(), 0.3, 1e-4
    datum = denoiser.sample(1, torch.Generator().manual_seed(3))
    l, turn = torch.tensor([0.6, 0.3]).double(), torch.tensor([-0.4, 0.2]).double()  # noqa: E741
    probe = Probe(denoiser, datum, 1e-5, 0, 64, (0,))
    x, *_ = next(iter(probe._noised(lam)))

    def f(at):
        t = float(LINEAR.time(at))
        y = integrate(denoiser, x, LINEAR.time(np.array([lam, at])), 8)[-1] if at > lam else x
        y = x + _back(at) if at < lam else y
        e = denoiser(y, t).noise
        return (float(LINEAR.sigma(t)) * e - (l + turn * (at - lam)) * y) / float(LINEAR.alpha(t))

    def _back(at):  # Runge-Kutta from a noisier state that leads to x, to first order in its error
        start = x
        for _ in range(4):
            start = start + x - integrate(denoiser, start, LINEAR.time(np.array([at, lam])), 8)[-1]
        return start - x

    s, b = probe.affine(lam, l, turn)
    change = (f(lam + h) - f(lam - h)) / (2 * h)
    assert s.abs().max() < 1e-6
    torch.testing.assert_close(b[None], change, rtol=1e-5, atol=1e-6)


def test_a_first_order_step_with_statistics_is_right_on_average():
    """The mean error of one step of 0.5 from 4,000 of the model's own states, in standard errors.

    b is what makes it 0. So it is without any statistics, which the card denies: the mean of the data prediction
    is that of the data at every noise level. It is not where l alone is taken.
    """
    denoiser = mixture()
    fitted = DPMSolverV3(1, "none").fit(denoiser, denoiser.sample(4096, torch.Generator().manual_seed(1)), points=60)
    only_l = replace(fitted, statistics=fitted.statistics * torch.tensor([1.0, 0.0, 0.0])[:, None, None])
    data, z = denoiser.sample(4000, torch.Generator().manual_seed(2)), noise(4000, 3)
    for lam in (-1.0, 0.5):
        times = LINEAR.time(np.array([lam, lam + 0.5]))
        x = float(LINEAR.alpha(times[0])) * data + float(LINEAR.sigma(times[0])) * z
        true = integrate(denoiser, x, times, 10)[-1]
        errors = [sample(denoiser, x, solver, grid=times) - true for solver in (fitted, only_l, DDIM())]
        bias = [(e.mean(0) / e.std(0) * 4000**0.5).abs().max().item() for e in errors]
        assert bias[0] < 5 and bias[1] > 15 and bias[2] < 4
        assert errors[0].std() < 0.4 * errors[2].std()


@pytest.fixture(scope="module")
def v3():
    data = mixture().sample(512, torch.Generator().manual_seed(1))
    return DPMSolverV3().fit(mixture(), data, points=60)


@pytest.mark.parametrize(("steps", "gain"), [(5, 2.5), (10, 2.5)])
def test_v3_with_statistics_is_several_times_closer_than_2m(v3, steps, gain):
    x, times = noise(300, 7), LINEAR.time(np.linspace(*SPAN, steps + 1))
    exact = integrate(mixture(), x, times, 40)[-1]
    error = {s: rms(sample(mixture(), x, s, grid=times), exact) for s in (DPMSolverPP(), DPMSolverV3(), v3)}
    assert error[v3] * gain < min(error[DPMSolverPP()], error[DPMSolverV3()])
    first = DPMSolverV3(order=1, corrector="none")
    with_statistics = replace(v3, order=1, corrector="none")
    ratio = rms(sample(mixture(), x, first, grid=times), exact) / rms(
        sample(mixture(), x, with_statistics, grid=times), exact
    )
    assert ratio > 2


def test_the_linear_part_falls_from_noise_to_data(v3):
    """The card has a mean l from 0.998 to 0.05: near noise sigma e is x, near data it does not depend on it."""
    l = v3.statistics[0].mean(1)  # noqa: E741
    assert l[0] > 0.99 and l[-1] < 0.05 and (l.diff() < 0.02).all()


def test_statistics_travel_with_the_recipe(v3, tmp_path):
    recipe = Recipe(solver=v3, steps=6)
    with pytest.raises(HastenError, match=r"solver.statistics.*save\(folder\)"):
        recipe.to_json()
    recipe.save(tmp_path)
    back = Recipe.load(tmp_path)
    assert len(v3.query_times(LINEAR, TIMES)) == 8
    assert back.solver == v3 and back.solver != DPMSolverV3() and back == recipe
    x = noise(5, 0)
    assert torch.equal(sample(mixture(), x, back.solver, 6), sample(mixture(), x, v3, 6))


# DC-Solver


def run_by_the_paper(denoiser, x, times, ratios):
    """UniPC-2 with B2 and dynamic compensation, as the paper writes it, on the data prediction."""
    lam, alpha, sigma = (f(times) for f in (denoiser.process.lam, denoiser.process.alpha, denoiser.process.sigma))
    buffer = [denoiser(x, times[0]).data]
    steps = len(times) - 1
    for i in range(steps):
        if i >= 2:
            at, nodes = ratios[i] * times[i] + (1 - ratios[i]) * times[i - 1], times[[i, i - 1, i - 2]]
            parabola = np.linalg.solve(np.vander(nodes, 3).T, np.vander([at], 3)[0])
            buffer[0] = sum(float(w) * m for w, m in zip(parabola, buffer))
        h = lam[i + 1] - lam[i]
        z, base = -h, (sigma[i + 1] / sigma[i]) * x - alpha[i + 1] * np.expm1(-h) * buffer[0]
        phi_2 = (np.expm1(z) / z - 1) / np.expm1(z)  # z phi_2 / B, and the next one
        phi_3 = 2 * ((np.expm1(z) / z - 1) / z - 0.5) / np.expm1(z)
        c = alpha[i + 1] * np.expm1(z)
        order = min(2, i + 1, steps - i)
        if order == 2:
            r = (lam[i - 1] - lam[i]) / h
            old = (buffer[1] - buffer[0]) / r
            x_next = base - c * 0.5 * old
        else:
            x_next = base
        if i + 1 < steps:
            answer = denoiser(x_next, times[i + 1]).data
            if order == 2:
                weights = np.linalg.solve([[1, 1], [r, 1]], [phi_2, phi_3])
                x_next = base - c * (weights[0] * old + weights[1] * (answer - buffer[0]))
            else:
                x_next = base - c * 0.5 * (answer - buffer[0])
            buffer.insert(0, answer)
        x = x_next
    return x


def test_dc_is_the_papers_algorithm():
    ratios = (1.0, 1.0, 0.8, 1.1, 1.3, 0.9, 1.05, 1.4)
    x = noise(30, 0)
    ours = sample(mixture(), x, DCSolver(ratios=ratios), grid=TIMES)
    close(ours, run_by_the_paper(mixture(), x, TIMES, ratios), 1e-11)
    assert rms(ours, sample(mixture(), x, UniPC(), grid=TIMES)) > 1e-3


@pytest.mark.parametrize("fields", [{}, {"order": 3, "variant": "bh1"}, {"expand": "noise"}, {"corrector": False}])
def test_ratio_1_is_unipc_bit_for_bit(fields):
    x = noise(30, 0)
    for ratios in ((), (1.0,) * 8):
        ours = sample(mixture(), x, DCSolver(ratios=ratios, **fields), grid=TIMES)
        assert torch.equal(ours, sample(mixture(), x, UniPC(**fields), grid=TIMES))


RATIOS = (1.0, 1.0, 0.8, 1.1, 1.3, 0.9, 1.05, 1.4)


@pytest.mark.parametrize("fields", [{}, {"order": 3}, {"expand": "noise"}, {"corrector": False}], ids=str)
def test_momentum_around_compensation_keeps_it(fields):
    """A filter around DC follows its compensated values: with beta 1 it is DC, and beta acts on them."""
    x, dc = noise(30, 0), DCSolver(ratios=RATIOS, **fields)
    run = lambda solver: sample(mixture(), x, solver, grid=TIMES)  # noqa: E731
    close(run(HeavyBall(dc, beta=1.0)), run(dc))
    plain = UniPC(**fields)
    assert rms(run(HeavyBall(dc, beta=0.7)), run(HeavyBall(plain, beta=0.7))) > 0.3 * rms(run(dc), run(plain))
    with pytest.raises(HastenError, match="fitted for 8 steps"):
        HeavyBall(dc).query_times(LINEAR, TIMES[1:])


def test_dc_on_noise_from_pure_noise_walks_as_it_was_fitted():
    """Where alpha starts at 0 the first value is data, which noises must not be mixed with."""
    denoiser, x, times, ratios = mixture(FLOW), noise(20, 0), np.linspace(1, 0.1, 7), (1.0, 1.0, 0.9, 1.1, 0.95, 1.05)
    close(*(sample(denoiser, x, solver(expand="noise"), grid=times) for solver in (DCSolver, UniPC)))
    solver, frame = DCSolver(expand="noise", ratios=ratios), Frame.of(FLOW, times, "noise")
    state, values = x, [denoiser(x, 1.0).data]
    for ratio in ratios:
        state, values = after(solver, denoiser, frame, times, state, values, ratio)
    close(sample(denoiser, x, solver, grid=times), state, 1e-10)


def test_compensation_reads_a_parabola_exactly():
    """Answers quadratic in time, compensated: the last kept value is the parabola at the shifted time."""
    times = np.array([900.0, 700.0, 450.0, 300.0, 0.0])
    ratio = 1.3
    curve = lambda t: 2 - 3e-3 * t + 4e-6 * t * t  # noqa: E731
    walk = DCSolver(ratios=(1.0, 1.0, 1.0, ratio)).walk(
        LINEAR, times, torch.zeros(1, 1, dtype=torch.float64), lambda i: None
    )
    query = next(walk)
    with pytest.raises(StopIteration) as done:
        while True:
            a, s = float(LINEAR.alpha(query.t)), float(LINEAR.sigma(query.t))
            value = torch.full((1, 1), curve(query.t), dtype=torch.float64)
            query = walk.send(Prediction(query.x, a, s, value, "sample"))
    # onto data the result is the kept value itself
    assert done.value.value.item() == pytest.approx(curve(ratio * 300 + (1 - ratio) * 450), rel=1e-12)


@pytest.mark.parametrize("steps", [5, 6, 8, 10])
def test_dc_gains_what_the_card_saw(steps):
    """lam -5 to 3, uniform in time, 10 noises to search on: the card's mean squared errors fall 3.8 to 4.2 times."""
    times = np.linspace(float(LINEAR.time(-5)), float(LINEAR.time(3)), steps + 1)
    denoiser = mixture(stds=(0.4, 0.6))
    fitted = DCSolver().fit(denoiser, noise(10, 0), grid=times)
    assert fitted.ratios[:2] == (1.0, 1.0) and fitted == DCSolver().fit(denoiser, noise(10, 0), grid=times)
    x = noise(300, 1)
    exact = integrate(denoiser, x, times, 40)[-1]
    before, after = (rms(sample(denoiser, x, s, grid=times), exact) ** 2 for s in (UniPC(), fitted))
    assert after * 3 < before


def test_dc_makes_up_for_what_is_asked_at_the_wrong_state():
    """The card's reference for that, UniPC that asks again at the corrected state, at twice the calls a step.

    Without guidance that alone gains 4 %: what DC gains (7 times less error) is not only that misalignment.
    """
    times = np.linspace(float(LINEAR.time(-5)), float(LINEAR.time(3)), 9)
    denoiser, x = mixture(stds=(0.4, 0.6)), noise(300, 1)
    frame, unipc, again, values = Frame.of(LINEAR, times), DCSolver(), x, [denoiser(x, times[0]).data]
    for i in range(8):
        ahead = step_of(unipc, frame, again, values, i)
        if i < 7:
            ahead = step_of(unipc, frame, again, [*values, denoiser(ahead, times[i + 1]).data], i)
            values.append(denoiser(ahead, times[i + 1]).data)
        again = ahead
    exact = integrate(denoiser, x, times, 40)[-1]
    fitted = DCSolver().fit(denoiser, noise(10, 0), grid=times)
    plain, compensated = (rms(sample(denoiser, x, s, grid=times), exact) for s in (UniPC(), fitted))
    assert 0.85 * plain < rms(again, exact) < plain and compensated < 0.2 * plain


class Guided:
    """A conditional component of a mixture, guided away from the whole."""

    def __init__(self, scale):
        self.whole, self.scale, self.process = mixture(stds=(0.5, 0.7)), scale, LINEAR
        self.part = GaussianMixture(self.whole.means[:1], self.whole.stds[:1], None, LINEAR)

    def __call__(self, x, t):
        whole, part = self.whole(x, t), self.part(x, t)
        return Prediction(x, whole.alpha, whole.sigma, whole.data + self.scale * (part.data - whole.data), "sample")


@pytest.mark.slow
def test_cascade_keeps_most_of_the_gain_where_nothing_was_searched():
    """Leave one (steps, guidance) out of a 4 x 3 table, predict its ratios."""
    x, left_out = noise(200, 1), Guided(2.0)
    scales, counts = (1.0, 1.5, 2.5, 3.0), (6, 7, 9)
    cascade = fit_cascade(DCSolver(), {g: Guided(g) for g in scales}, noise(10, 0), counts)
    predicted_ratios = replace(cascade, guidance=2.0)
    searched = DCSolver().fit(left_out, noise(10, 0), 8)
    exact = integrate(left_out, x, np.append(schedule("karras", LINEAR, 30)[:-1], 0.0), 4)[-1]
    e = {s: rms(sample(left_out, x, s, 8, "trailing"), exact) for s in (DCSolver(), predicted_ratios, searched)}
    assert predicted_ratios.ratios_for(8)[:2] == (1.0, 1.0)
    kept = np.log(e[DCSolver()] / e[predicted_ratios]) / np.log(e[DCSolver()] / e[searched])
    assert kept > 0.5


# learnt and published grids


@pytest.fixture(scope="module")
def modes():
    """Eight well separated modes: a few samples land in another one when steps are few."""
    denoiser = mixture(VP, 16, 8, (0.1, 0.4))
    x = noise(1500, 1, 16)
    return denoiser, x, integrate(denoiser, x, np.append(schedule("karras", VP, 24)[:-1], 0.0), 1)[-1]


@pytest.mark.parametrize(("solver", "steps", "gain"), [(DPMSolverPP(), 6, 1.3), (UniPC(order=3), 8, 1.5)], ids=str)
def test_a_learnt_grid_is_nearer_and_flips_no_more_on_noises_it_never_saw(modes, solver, steps, gain):
    denoiser, x, exact = modes
    fitted = FittedGrid().fit(denoiser, solver, noise(64, 0, 16), steps, evaluations=60)
    found = {g: drift(sample(denoiser, x, solver, steps, g), exact) for g in ("karras", fitted)}
    karras, ours = found["karras"], found[fitted]
    assert ours.estimate().value * gain < karras.estimate().value
    assert ours.flipped.sum() <= karras.flipped.sum()
    assert ours.estimate("rmse", "p95").value < karras.estimate("rmse", "p95").value


def test_a_learnt_grid_is_plain_data_and_the_same_every_time():
    one = mixture(VP)
    fits = [FittedGrid().fit(one, DDIM(), noise(16, 0), 4, evaluations=20) for _ in range(2)]
    assert fits[0] == fits[1] and len(fits[0].at) == 4 and fits[0].at[0] == VP.t_max
    recipe = Recipe(solver="ddim", steps=4, grid=fits[0])
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert resolve(json.loads(json.dumps(GRIDS.describe(fits[0])))) == fits[0]
    with pytest.raises(HastenError, match="eta to 0"):
        FittedGrid().fit(one, DDIM(eta=1.0), noise(16, 0), 4)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_fitted_times_are_read_off_between_for_other_counts(process):
    at = tuple(schedule("karras", process, 7)[:-1])
    grid = FittedGrid(at)
    assert tuple(grid.times(process, 7)) == at
    np.testing.assert_allclose(grid.times(process, 13)[2::2], at[1:], rtol=1e-9)
    assert grid.times(process, 13)[0] == at[0]
    between = process.lam(grid.times(process, 13)[3:12:2])
    np.testing.assert_allclose(between, (process.lam(at[1:-1]) + process.lam(at[2:])) / 2, rtol=1e-6, atol=1e-9)


def test_align_your_steps_are_the_published_labels():
    labels = {
        "sd15": [999, 850, 736, 645, 545, 455, 343, 233, 124, 24],
        "sdxl": [999, 845, 730, 587, 443, 310, 193, 116, 53, 13],
    }
    for model, published in labels.items():
        ours = VP.network_time(schedule({"name": "ays", "model": model}, VP, 10)[:-1])
        np.testing.assert_allclose(ours, published, atol=0.7)
    with pytest.raises(HastenError, match="more noise than this process has"):
        schedule({"name": "ays", "model": "svd"}, VP, 10)


# USF and S3


@pytest.mark.parametrize("end", [[], [0.0]], ids=["min", "data"])
@pytest.mark.parametrize(
    ("solver", "decision"),
    [
        (DPMSolverPP(), {}),
        (DPMSolverPP(order=3), {"order": 3}),
        (UniPC(), {"correct": True}),
        (UniPC(order=3, variant="bh1"), {"order": 3, "rule": "linear", "correct": True}),
        (UniPC(expand="noise", variant="exact"), {"expand": "noise", "rule": "exact", "correct": True}),
        (DPMSolver(3, "multistep", "exact"), {"order": 3, "expand": "noise", "rule": "exact"}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)  # fmt: skip
def test_decision_lists_are_the_solvers_they_spell(solver, decision, end):
    x, times = noise(30, 0), np.append(TIMES, end)
    ours = sample(mixture(), x, USF(uniform(len(times) - 1, **decision)), grid=times)
    close(ours, sample(mixture(), x, solver, grid=times))


def test_equal_decisions_without_a_lower_end_are_deis():
    x, decisions = noise(30, 0), (Decision(3, "noise", "exact"),) * 8
    close(*(sample(mixture(), x, s, grid=TIMES) for s in (USF(decisions), DEIS(3, "log-rho"))))


def test_decisions_on_noise_take_data_where_alpha_is_zero():
    """Noise says nothing about data at the start of a flow; the values of two kinds are kept apart."""
    x, times = noise(30, 0), np.linspace(1, 0.1, 8)
    for fields in ({}, {"correct": True}):
        solver = UniPC(expand="noise", variant="exact", corrector=bool(fields))
        usf = USF(uniform(7, expand="noise", rule="exact", **fields))
        close(sample(mixture(FLOW), x, usf, grid=times), sample(mixture(FLOW), x, solver, grid=times))
    with pytest.raises(HastenError, match="no one kind of slope"):
        sample(mixture(FLOW), x, HeavyBall(usf), grid=times)
    two_m = HeavyBall(USF(uniform(7)), 0.7)
    close(sample(mixture(FLOW), x, two_m, grid=times), sample(mixture(FLOW), x, HeavyBall("dpm++", 0.7), grid=times))


def test_singlestep_methods_start_from_the_state_before():
    x = noise(30, 0)
    nodes, _ = inner_nodes(LINEAR, TIMES, (0.5,))
    ours = sample(mixture(), x, USF((Decision(1), Decision(2, start=1)) * 8), grid=nodes)
    close(ours, sample(mixture(), x, DPMSolverPP(method="singlestep"), grid=TIMES))


def test_decisions_may_change_from_step_to_step():
    """Data then noise expansion, each corrected, by hand."""
    x, times, denoiser = noise(10, 0), LINEAR.time(np.array([-1.0, -0.4, 0.1])), mixture()
    (a0, a1, a2), (s0, s1, s2) = LINEAR.alpha(times), LINEAR.sigma(times)
    h = 0.5
    p = denoiser(x, times[0])
    q = denoiser(s1 / s0 * x + (a1 - a0 * s1 / s0) * p.data, times[1])
    linear = s1 / s0 * x + (a1 - a0 * s1 / s0) * (p.data + q.data) / 2  # order 2 by the midpoint rule
    slope = (np.exp(h) - 1) / h - 1  # exact weight of a noise prediction that rises by 1 over h
    expected = a2 / a1 * linear - s2 * ((np.exp(h) - 1) * q.noise + slope * h / 0.6 * (q.noise - p.noise))
    decisions = (Decision(1, correct=True), Decision(2, "noise", "exact"))
    close(sample(denoiser, x, USF(decisions), grid=times), expected, 1e-9)


@pytest.fixture(scope="module")
def search():
    return mixture(VP, 8, 5), noise(600, 5, 8)


def test_s3_beats_every_solver_it_starts_from(search):
    denoiser, x = search
    exact = integrate(denoiser, x, np.append(schedule("karras", VP, 24)[:-1], 0.0), 1)[-1]
    fitted = USF().fit(denoiser, noise(32, 1, 8), 6, evaluations=120, rounds=4)
    assert fitted == USF(json.loads(json.dumps(fitted.decisions)))
    found = [drift(sample(denoiser, x, USF(d), 6), exact) for d in (*known(6), fitted.decisions)]
    errors = [float(np.log(d.samples["rmse"]).mean()) for d in found]
    assert errors[-1] < min(errors[:-1]) - 0.4  # a third nearer than the best of them, in the geometric mean
    best = found[int(np.argmin(errors[:-1]))]
    gain = bootstrap(np.log(best.samples["rmse"] / found[-1].samples["rmse"]), "mean")  # noise by noise
    assert gain.low > 0.3
    assert found[-1].flipped.sum() <= found[0].flipped.sum()
    assert USF(fitted.decisions).query_times(VP, schedule("logsnr", VP, 6))[-1].step == 5


def test_s3s_predictor_ranks_lists_it_has_not_seen(search):
    from scipy.stats import kendalltau

    denoiser, x = search
    times, rng, scores = schedule("logsnr", VP, 6), np.random.default_rng(1), {}
    exact = integrate(denoiser, x[:24], np.append(schedule("karras", VP, 24)[:-1], 0.0), 1)[-1]
    while len(scores) < 260:
        decisions = breed(known(6), rng, 0.3)
        run = solve(USF(decisions), denoiser, times, x[:24])
        scores.setdefault(decisions, (run - exact).square().mean(1).log().mean().item())
    lists = list(scores)
    guess = predicted({d: scores[d] for d in lists[:200]}, lists[200:], VP, times)
    tau = kendalltau(guess, [scores[d] for d in lists[200:]]).statistic
    assert tau > 0.45


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DCSolver(ratios=(1.0, -1.0)), "ratios"),
        (lambda: DCSolver(cascade=(1.0,)), "cascade: 1 numbers"),
        (lambda: sample(mixture(), noise(2, 0), DCSolver(ratios=(1.0, 1.0, 1.1)), 5), "fitted for 3 steps"),
        (lambda: DPMSolverV3(order=4), "order: 4"),
        (lambda: DPMSolverV3(corrector="half"), "corrector"),
        (lambda: DPMSolverV3(statistics=torch.zeros(2, 4)), "statistics"),
        (lambda: USF(((4,),)), "decisions.order: 4"),
        (lambda: USF(((2, "score"),)), "decisions.expand"),
        (lambda: USF(((1, "data", "exact", False, 1),)), "decisions.start"),
        (lambda: sample(mixture(), noise(2, 0), USF(((1,), (1,))), 5), "made for 2 steps"),
        (lambda: resolve({"name": "ays", "model": "sd3"}), "model: 'sd3'"),
    ],
)
def test_impossible_settings_are_refused_by_field(make, message):
    with pytest.raises(HastenError, match=message):
        make()


# weights fitted along the trajectory


def test_a_trajectory_is_right_at_any_time_and_of_fourth_order():
    one, x, errors = GaussianMixture([[0.5, -0.3]], 0.5, None, FLOW), noise(20, 0), []
    middles = [float(FLOW.time(lam)) for lam in np.linspace(-3.9, 3.9, 31)]
    for count in (40, 80):
        times = FLOW.time(np.linspace(-4, 4, count))
        states = [one.transport(x, times[0], t) for t in times]
        trajectory = Trajectory(FLOW, times, states, [one(state, t).velocity for state, t in zip(states, times)], x)
        errors.append(max(rms(trajectory.at(t), one.transport(x, times[0], t)) for t in middles))
    assert errors[0] / errors[1] > 13 and errors[1] < 1e-6
    solved = converged(one, x, 256)
    assert max(rms(solved.at(t), one.transport(x, 1.0, t)) for t in middles) < 1e-4
    assert solved.at(0.0) is solved.end and (solved.at(1.0) - x).abs().max() < 1e-12
    close(solved.rows(slice(3, 5)).at(0.3), solved.at(0.3)[3:5])


@pytest.mark.parametrize("process", [LINEAR, FLOW], ids=["linear", "flow"])
def test_bns_without_a_fit_is_2m(process):
    model, x = mixture(process), noise(8, 1)
    assert torch.equal(sample(model, x, BNS(), 7), sample(model, x, DPMSolverPP(order=2), 7))


@pytest.mark.parametrize("process", [LINEAR, FLOW], ids=["linear", "flow"])
def test_bns_solves_a_gaussian_exactly(process):
    """Its ODE is affine, and so are a state and a data prediction: two weights a step are enough for any times."""
    one = GaussianMixture([[0.5, -0.3]], 0.5, None, process)
    fitted = BNS(order=1).fit(one, noise(8, 0), 3, "trailing", ridge=1e-12)
    x = noise(8, 1)
    fine = converged(one, x, 512).end
    assert rms(sample(one, x, fitted, 3, "trailing"), fine) < 1e-4
    assert rms(sample(one, x, DPMSolverPP(), 3, "trailing"), fine) > 2e-2


def test_bns_is_nearer_on_noises_it_never_saw_and_flips_no_more():
    model, x = mixture(dimensions=16, components=6), noise(400, 1, 16)
    exact = integrate(model, x, np.append(schedule("karras", LINEAR, 60)[:-1], 0.0), 4)[-1]
    fitted = BNS().fit(model, noise(200, 0, 16), 6, "karras")
    errors, flips = [], []
    for solver in (fitted, DPMSolverPP(), UniPC(order=2)):
        made = sample(model, x, solver, 6, "karras")
        errors.append((made - exact).square().mean(1).sqrt().median().item())
        near = [torch.cdist(y, model.means).argmin(1) for y in (made, exact)]
        flips.append((near[0] != near[1]).sum().item())
    assert errors[0] < 0.4 * min(errors[1:]) and flips[0] <= min(flips[1:])


def test_bns_lowers_the_error_of_every_step_on_what_it_was_fitted_to():
    """Least squares from weights that are 2M's: the fitted first step cannot be further off than 2M's."""
    model, x, times = mixture(), noise(50, 0), schedule("karras", LINEAR, 4)
    trajectory = converged(model, x)
    fitted = BNS(order=2).fit(model, x, 4, "karras", trajectory)
    p = model(x, times[0])
    w = fitted.weights[:2]
    plain = sample(model, x, DPMSolverPP(), grid=times[:2])
    assert rms(w[0] * x + w[1] * p.data, trajectory.at(times[1])) < rms(plain, trajectory.at(times[1]))


def test_bns_refuses_other_times_and_may_start_later_on_its_own():
    model, x = mixture(), noise(20, 0)
    fitted, times = BNS(order=3).fit(model, x, 6, "karras"), schedule("karras", LINEAR, 6)
    for wrong in (5, 7):
        with pytest.raises(HastenError, match="weights: fitted for 6 steps at other times"):
            sample(model, x, fitted, wrong, "karras")
    with pytest.raises(HastenError, match="weights"):
        sample(model, x, fitted, 6, "logsnr")
    _, late = fitted.table(LINEAR, times[2:])
    _, base = DPMSolverPP(order=2).table(LINEAR, times[2:])
    _, whole = fitted.table(LINEAR, times)
    assert late[:2] == base[:2]  # as many predictions as these were fitted with there are not yet
    assert [(row.a, row.b) for row in late[2:]] == [(row.a, row.b) for row in whole[4:]]


def test_bns_is_kept_by_a_recipe():
    fitted = BNS(order=2).fit(mixture(), noise(20, 0), 5, "karras")
    again = Recipe.from_json(Recipe(solver=fitted, steps=5, grid="karras").to_json()).solver
    assert again == fitted and again.weights == fitted.weights
    with pytest.raises(HastenError, match="weights: 3 numbers"):
        BNS(weights=(1.0, 2.0, 3.0), at=(1.0, 0.5, 0.0))
