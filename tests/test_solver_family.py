"""The solvers one by one: formulas of the papers written out, polynomial exactness, noise, and what peers get wrong."""

import functools
import math
import warnings
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from hasten import sample
from hasten.denoisers import GaussianMixture
from hasten.errors import HastenError
from hasten.predictions import Prediction
from hasten.processes import Cosine, RectifiedFlow, VarianceExploding, VariancePreserving
from hasten.sampling import brownian_noise, sample_many, seeded_noise
from hasten.solvers import (
    DDIM, DEIS, EDM, GHVB, IPNDM, PNDM, DPMAdaptive, DPMSolver, DPMSolverPP, EulerAncestral, HeavyBall, Heun,
    Thresholded, UniPC,
)  # fmt: skip
from hasten.solvers.exponential import fast_orders
from hasten.solvers.filters import thresholded
from hasten.solvers.multistep import adams

VP, FLOW, VE = VariancePreserving(), RectifiedFlow(), VarianceExploding()
PROCESSES = {"vp": VP, "flow": FLOW, "ve": VE}


def mixture(process, guidance=1.0):
    """Three Gaussians in the plane; guidance pulls towards the first of them, as classifier-free guidance does."""
    means = np.random.default_rng(0).normal(size=(3, 2))
    every, one = GaussianMixture(means, [0.4, 0.5, 0.6], [0.2, 0.5, 0.3], process), GaussianMixture(
        means[:1], [0.4], None, process
    )  # fmt: skip

    def guided(x, t):
        without, wanted = every(x, t).data, one(x, t).data
        return every(x, t).with_data(without + guidance * (wanted - without))

    guided.process = process
    return guided if guidance != 1 else every


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=1e-11):
    assert (a - b).abs().max().item() <= tolerance * b.abs().max().item()


def levels(process, times):
    return process.alpha(times), process.sigma(times), process.lam(times)


def run(solver, process, times, x, answer, noise=None, kind="epsilon"):
    """Walk with a network `answer(x, t)`; returns the queries and the result."""
    walk = solver.walk(process, np.asarray(times, float), x, noise or (lambda i: torch.zeros_like(x)))
    queries = []
    try:
        query = next(walk)
        while True:
            queries.append(query)
            a, s = float(process.alpha(query.t)), float(process.sigma(query.t))
            query = walk.send(Prediction(query.x, a, s, answer(query.x, query.t), kind))
    except StopIteration as done:
        return queries, done.value


def net(x, t=None):
    """A nonlinear answer that does not look at the time."""
    return torch.tanh(0.7 * x) + 0.3 * torch.sin(2 * x.roll(1, -1))


# --- exactness


def exact_step(process, s, t, x, kind, poly, eta):
    """From s to t along the exact integral of a prediction that is a polynomial of lam - lam_s."""
    (a0, a1), (s0, s1), (l0, l1) = levels(process, np.array([s, t]))
    h = l1 - l0
    if kind == "sample":
        integral = quad(lambda u: math.exp(-(1 + eta) * (h - u)) * poly(u + l0), 0, h, epsabs=1e-13)[0]
        return s1 / s0 * math.exp(-eta * h) * x + a1 * (1 + eta) * integral
    return a1 / a0 * x - s1 * (1 + eta) * quad(lambda u: math.exp(h - u) * poly(u + l0), 0, h, epsabs=1e-13)[0]


EXACT = {
    "multistep": lambda p, kind, eta: (DPMSolverPP if kind == "sample" else DPMSolver)(
        order=p, method="multistep", rule="exact", eta=eta, lower_order_final=False
    ),
    "singlestep": lambda p, kind, eta: (DPMSolverPP if kind == "sample" else DPMSolver)(
        order=p, method="singlestep", rule="exact", eta=eta, schedule="fixed"
    ),
    "unip": lambda p, kind, eta: UniPC(
        order=p, corrector=False, variant="exact", lower_order_final=False, expand="data" if kind == "sample" else "noise"
    ),
}  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    family=st.sampled_from(list(EXACT)), order=st.integers(1, 3), kind=st.sampled_from(["sample", "epsilon"]),
    eta=st.sampled_from([0.0, 0.5, 1.0]), process=st.sampled_from(list(PROCESSES)),
    gaps=st.lists(st.floats(0.1, 1.0), min_size=4, max_size=4), c=st.lists(st.floats(-2, 2), min_size=3, max_size=3),
)  # fmt: skip
def test_order_k_integrates_polynomials_of_degree_k_minus_1(family, order, kind, eta, process, gaps, c):
    eta = 0.0 if family == "unip" else eta
    process, solver = PROCESSES[process], EXACT[family](order, kind, eta)
    times = process.time(np.cumsum([-2.0, *gaps]))
    lam0 = float(process.lam(times[0]))
    poly = lambda lam: sum(c[k] * (lam - lam0) ** k for k in range(order))  # noqa: E731
    answer = lambda x, t: torch.full_like(x, poly(float(process.lam(t))))  # noqa: E731
    queries, end = run(solver, process, times, torch.ones(1, 1, dtype=torch.float64), answer, kind=kind)
    last = [q for q in queries if q.stage == 0][-1]
    expected = exact_step(process, last.t, times[-1], last.x.item(), kind, poly, eta)
    assert end.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(
    order=st.integers(1, 4), variable=st.sampled_from(["time", "rho", "log-rho"]),
    process=st.sampled_from(["flow", "ve", "cosine"]), gaps=st.lists(st.floats(0.2, 1.0), min_size=5, max_size=5),
)  # fmt: skip
def test_deis_integrates_polynomials_of_its_variable(order, variable, process, gaps):
    process = {"flow": FLOW, "ve": VE, "cosine": Cosine()}[process]
    times = process.time(np.cumsum([-2.0, *gaps]))
    alpha, sigma, lam = levels(process, times)
    at = {"time": lambda t: t, "rho": lambda t: np.exp(-process.lam(t)), "log-rho": process.lam}[variable]
    scale = float(at(times[0]) - at(times[-1]))
    poly = lambda t: float(((at(t) - at(times[-1])) / scale) ** (order - 1))  # noqa: E731
    answer = lambda x, t: torch.full_like(x, poly(t))  # noqa: E731
    queries, end = run(DEIS(order, variable), process, times, torch.ones(1, 1, dtype=torch.float64), answer)
    slope = quad(lambda r: poly(process.time(-math.log(r))), *np.exp(-lam[-2:]), epsabs=1e-12)[0]
    expected = alpha[-1] * (queries[-1].x.item() / alpha[-2] + slope)
    assert end.item() == pytest.approx(expected, rel=1e-8)


@settings(max_examples=60, deadline=None)
@given(order=st.integers(1, 5), beta=st.floats(0.2, 1.0), c=st.lists(st.floats(-2, 2), min_size=5, max_size=5))
def test_averaged_slopes_are_integrated_to_the_same_order(order, beta, c):
    """Where the averages v are a polynomial of degree < order, so are the slopes e behind them."""
    v = np.polynomial.Polynomial(c[:order])
    e = lambda n: (v(n) - (1 - beta) * v(n - 1)) / beta  # noqa: E731
    got = adams(order, beta) @ v(-np.arange(order))
    assert got == pytest.approx(quad(e, 0, 1)[0], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("b", [0.3, 0.8, 1.0])
def test_weights_of_momentum_are_the_papers(b):
    """GHVB of order 2 to 5; beta 1 is Adams-Bashforth."""
    table = [
        np.array([2 + b, -(2 - b)]) / (2 * b),
        np.array([18 + 5 * b, -(24 - 8 * b), 6 - b]) / (12 * b),
        np.array([46 + 9 * b, -(78 - 19 * b), 42 - 5 * b, -(10 - b)]) / (24 * b),
        np.array([1650 + 251 * b, -(3420 - 646 * b), 2880 - 264 * b, -(1380 - 106 * b), 270 - 19 * b]) / (720 * b),
    ]
    for order, weights in enumerate(table, 2):
        np.testing.assert_allclose(adams(order, b), weights, rtol=1e-12)
        assert adams(order, b).sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(adams(4), np.array([55, -59, 37, -9]) / 24, rtol=1e-14)


# --- equalities


def final_state(solver, process=VP, steps=9, guidance=1.0, **more):
    first = normal(20, 2) * process.start_scale
    return sample(mixture(process, guidance), first, solver, steps, **more)


@pytest.mark.parametrize("end", ["data", "min"])
def test_special_cases_are_other_solvers(end):
    same = functools.partial(final_state, end=end)
    noise_2m = DPMSolver(order=2, method="multistep", rule="exact", lower_order_final=False)
    close(same(DEIS(2, "log-rho")), same(noise_2m))
    close(same(DEIS(1)), same(DDIM()))
    close(same(DEIS(1)), same(IPNDM(1)))
    close(same(DPMSolver(order=1)), same(DDIM()))
    close(same(GHVB(3, beta=1.0)), same(IPNDM(3)))
    close(same(HeavyBall(beta=1.0)), same(IPNDM()))
    close(same(HeavyBall("dpm++", beta=1.0)), same(DPMSolverPP()))
    close(same(HeavyBall(beta=1.0, nesterov=True)), same(IPNDM()))
    close(same(HeavyBall({"name": "ipndm", "order": 2}, 0.7)), same(GHVB_as_filter(2, 0.7)))
    close(same(EDM(churn=0)), same(Heun()))
    close(same(EulerAncestral()), same(DDIM(eta=1.0)))
    close(same(EulerAncestral(eta=0.0)), same(DDIM()))
    close(same(DPMSolver(order=2, method="multistep", lower_order_final=True)), same(UniPC(2, "bh2", False, "noise")))
    if end == "min":
        fixed = DPMSolver(order=2, schedule="fixed")
        times = VP.time(np.linspace(-2, 3, 9))
        run_ = functools.partial(sample, mixture(VP), normal(20, 2))
        close(run_(DPMSolver(order=2), grid=times), run_(fixed, grid=times[::2]))


def GHVB_as_filter(order, beta):
    """Heavy ball of order 2 is Adams-Bashforth on averaged slopes: the two averages commute."""

    class Filtered(GHVB):
        def _weights(self, order):
            return adams(order)

    return Filtered(order, beta)


def test_the_transfer_of_pndm_is_ddims_step():
    """Liu et al. 2022, eq. (11), in alpha-bar: phi(x, e, s, t)."""
    times = VP.time(np.linspace(-2, 3, 5))
    x, bar = normal(4, 2), VP.alpha(times) ** 2
    e = net(x)
    phi = math.sqrt(bar[1] / bar[0]) * x - (bar[1] - bar[0]) * e / (
        math.sqrt(bar[0]) * (math.sqrt((1 - bar[1]) * bar[0]) + math.sqrt((1 - bar[0]) * bar[1]))
    )
    close(run(PNDM("s-pndm"), VP, times[:2], x, lambda y, t: e)[1], phi)
    close(run(DDIM(), VP, times[:2], x, lambda y, t: e)[1], phi)


def test_runge_kutta_starts_are_the_papers():
    times = np.array([900.0, 700.0, 500.0])
    x = normal(4, 2)

    def transfer(x, s, t, e):
        (a0, a1), (s0, s1), _ = levels(VP, np.array([s, t]))
        return a1 * ((x - s0 * e) / a0) + s1 * e

    y = x
    for s, t in pairwise(times):
        m = (s + t) / 2
        e1 = net(y)
        e2 = net(transfer(y, s, m, e1))
        e3 = net(transfer(y, s, m, e2))
        e4 = net(transfer(y, s, t, e3))
        y = transfer(y, s, t, (e1 + 2 * e2 + 2 * e3 + e4) / 6)
    queries, got = run(PNDM("f-pndm"), VP, times, x, net)
    close(got, y)
    assert [q.t for q in queries] == [900, 800, 800, 700, 700, 600, 600, 500]
    heun = transfer(x, 900, 700, (net(x) + net(transfer(x, 900, 700, net(x)))) / 2)
    close(run(PNDM("s-pndm"), VP, times[:2], x, net)[1], heun)


def averaged(beta, nesterov=False):
    v = None

    def average(g):
        nonlocal v
        v = g if v is None else (1 - beta) * v + beta * g
        return (1 - beta) * v + beta * g if nesterov else v

    return average


@pytest.mark.parametrize("nesterov", [False, True])
def test_heavy_ball_as_the_paper_writes_it(nesterov):
    """Algorithm 1 on x / alpha, and on DPM-Solver++ 2M; the combination is averaged, cold start included."""
    times, x = VP.time(np.linspace(-2, 3, 8)), normal(4, 2)
    alpha, sigma, lam = levels(VP, times)
    y, average, past = x / alpha[0], averaged(0.8, nesterov), []
    for i in range(7):
        past = [net(y * alpha[i]), *past]
        c = min(4, i + 1)
        y = y + (sigma[i + 1] / alpha[i + 1] - sigma[i] / alpha[i]) * average(sum(w * e for w, e in zip(adams(c), past)))
    close(run(HeavyBall(beta=0.8, nesterov=nesterov), VP, times, x, net)[1], y * alpha[-1])

    y, average, past = x, averaged(0.6, nesterov), []
    for i in range(7):
        h = lam[i + 1] - lam[i]
        past = [net(y), *past]
        q = past[0] if i == 0 else past[0] + (past[0] - past[1]) * h / (2 * (lam[i] - lam[i - 1]))
        y = sigma[i + 1] / sigma[i] * y - alpha[i + 1] * math.expm1(-h) * average(q)
    two_m = {"name": "dpm++", "lower_order_final": False}
    close(run(HeavyBall(two_m, 0.6, nesterov), VP, times, x, net, kind="sample")[1], y)


def test_ghvb_as_the_paper_writes_it():
    times, x = VP.time(np.linspace(-2, 3, 8)), normal(4, 2)
    alpha, sigma, _ = levels(VP, times)
    y, average, kept, b = x / alpha[0], averaged(0.7), [], 0.7
    for i in range(7):
        kept = [average(net(y * alpha[i])), *kept]
        u = kept[0]
        if i == 1:
            u = ((2 + b) * kept[0] - (2 - b) * kept[1]) / (2 * b)
        if i >= 2:
            u = ((18 + 5 * b) * kept[0] - (24 - 8 * b) * kept[1] + (6 - b) * kept[2]) / (12 * b)
        y = y + (sigma[i + 1] / alpha[i + 1] - sigma[i] / alpha[i]) * u
    close(run(GHVB(3, beta=0.7), VP, times, x, net)[1], y * alpha[-1])


def test_momentum_is_stable_where_adams_bashforth_is_not():
    """x' = [[0, 1], [-9, -10]] x from (-1, 0), 26 steps on [0, 3]: the paper's toy system, run as a diffusion."""
    matrix = torch.tensor([[0.0, 1.0], [-9.0, -10.0]], dtype=torch.float64)
    start, times = torch.tensor([[-1.0, 0.0]], dtype=torch.float64), 3.5 - np.linspace(0, 3, 27)
    exact = start @ torch.linalg.matrix_exp(3 * matrix).T

    def error(solver):
        return (run(solver, VE, times, start, lambda x, t: -x @ matrix.T)[1] - exact).norm().item()

    two = {"name": "ipndm", "order": 2}
    assert error(IPNDM(2)) == pytest.approx(1.44, rel=0.1)
    assert error(IPNDM(1)) == pytest.approx(1.4e-2, rel=0.1)
    assert error(HeavyBall(two, 0.8)) == pytest.approx(6.3e-3, rel=0.1)
    assert error(HeavyBall(two, 0.9)) == pytest.approx(2.9e-3, rel=0.1)
    assert error(GHVB(2, beta=0.8)) == pytest.approx(7.2e-4, rel=0.1)


def test_singlestep_formulas_are_the_papers():
    """DPM-Solver-2 and -3, type dpmsolver, in the noise prediction; and ++ 2S in the data prediction."""
    times, x = VP.time(np.array([-1.0, 0.5])), normal(4, 2)
    h = 1.5
    level = lambda share: levels(VP, VP.time(-1.0 + share * h))[:2]  # noqa: E731
    (a0, s0), (a, s), (a_half, s_half), (a1, s1), (a2, s2) = map(level, (0, 1, 1 / 2, 1 / 3, 2 / 3))
    e0 = net(x)
    e1 = net(a_half / a0 * x - s_half * math.expm1(h / 2) * e0)
    close(run(DPMSolver(2, schedule="fixed"), VP, times, x, net)[1], a / a0 * x - s * math.expm1(h) * e1)
    e1 = net(a1 / a0 * x - s1 * math.expm1(h / 3) * e0)
    phi = lambda z: math.expm1(z) / z - 1  # noqa: E731
    e2 = net(a2 / a0 * x - s2 * math.expm1(2 * h / 3) * e0 - 2 * s2 * phi(2 * h / 3) * (e1 - e0))
    third = a / a0 * x - s * math.expm1(h) * e0 - s * 1.5 * phi(h) * (e2 - e0)
    close(run(DPMSolver(3, schedule="fixed"), VP, times, x, net)[1], third)
    m1 = net(s_half / s0 * x - a_half * math.expm1(-h / 2) * e0)
    second = s / s0 * x - a * math.expm1(-h) * m1
    close(run(DPMSolverPP(2, "singlestep"), VP, times, x, net, kind="sample")[1], second)


def test_noise_prediction_sde_is_the_published_one():
    """x_t = (a_t / a_s) x - 2 s_t (e^h - 1) e0 - correction + s_t sqrt(e^2h - 1) z, both types."""
    times, x, z = VP.time(np.array([-1.0, -0.2, 0.5])), normal(4, 2), normal(4, 2, seed=1)
    alpha, sigma, lam = levels(VP, times)
    for rule in ("midpoint", "exact"):
        solver = DPMSolver(2, "multistep", rule, eta=1.0, lower_order_final=False)
        queries, got = run(solver, VP, times, x, net, lambda i: z)
        h, before = lam[2] - lam[1], lam[1] - lam[0]
        y, e0, e1 = queries[1].x, net(queries[1].x), net(x)
        share = math.expm1(h) if rule == "midpoint" else 2 * (math.expm1(h) / h - 1)
        want = alpha[2] / alpha[1] * y - 2 * sigma[2] * math.expm1(h) * e0 - sigma[2] * share * (e0 - e1) * h / before
        close(got, want + sigma[2] * math.sqrt(math.expm1(2 * h)) * z)


# --- noise


def test_singlestep_sde_is_dpmpp_sde():
    """k-diffusion's sampler in sigma / alpha, at eta 1: down to the middle and up, then down to the end and up."""
    times, x = VE.time(np.array([-1.0, 0.5])), normal(4, 2)
    z = [normal(4, 2, seed=1), normal(4, 2, seed=2)]
    s, m, t = np.exp([1.0, 0.25, -0.5])

    def ancestral(a, b):
        up = math.sqrt(b**2 * (a**2 - b**2) / a**2)
        return math.sqrt(b**2 - up**2), up

    d0 = net(x)
    down, up = ancestral(s, m)
    u = down / s * x + (1 - down / s) * d0 + up * z[0]
    d1 = net(u)
    down, whole = ancestral(s, t)
    mean = down / s * x + (1 - down / s) * d1
    # the middle's noise, as far as it is still there at the end, and fresh noise since
    kept = ancestral(m, t)[0] / m * up
    got = run(DPMSolverPP(2, "singlestep", eta=1.0), VE, times, x, net, lambda i: z[i], "sample")[1]
    close(got, mean + kept * z[0] + math.sqrt(whole**2 - kept**2) * z[1])
    assert ancestral(m, t)[1] == pytest.approx(math.sqrt(whole**2 - kept**2), rel=1e-12)


def test_churn_is_edms_algorithm_2():
    times = (80 ** (1 / 7) + np.arange(10) / 9 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    times, x = np.append(times, 0), 80 * normal(5, 2)
    noise, denoise, y = seeded_noise(x, 3), mixture(VE), x
    for i, (s, t) in enumerate(pairwise(times)):
        gamma = min(6 / 10, math.sqrt(2) - 1) if 0.05 <= s <= 50 else 0
        hat = s * (1 + gamma)
        raised = y + 1.003 * math.sqrt(hat**2 - s**2) * noise(i)
        slope = (raised - denoise(raised, hat).data) / hat
        y = raised + (t - hat) * slope
        if t > 0:
            y = raised + (t - hat) * (slope + (y - denoise(y, t).data) / t) / 2
    close(sample(denoise, x, EDM(churn=6.0, s_noise=1.003), grid=times, seed=3), y)


def variance(solver, process, steps, data=0.5, last=3.0):
    """Of the result for N(0, data^2), exactly: every walk is linear, so its responses to each noise add up."""
    gaussian = GaussianMixture([[0.0]], data, None, process)
    times = process.time(np.linspace(-2.0, last, steps + 1))
    start = float(np.hypot(data * process.alpha(times[0]), process.sigma(times[0])))
    x = torch.zeros(2 * steps + 1, 1, dtype=torch.float64)
    x[0] = start
    response = lambda i: torch.zeros_like(x).index_fill_(0, torch.tensor(i + 1), 1.0)  # noqa: E731
    got = run(solver, process, times, x, lambda y, t: gaussian(y, t).data, response, "sample")[1]
    exact = data**2 * process.alpha(times[-1]) ** 2 + process.sigma(times[-1]) ** 2
    return got.square().sum().item() / float(exact)


WEAK = [
    (DDIM(eta=1.0), 1), (DPMSolverPP(1, eta=0.5), 1), (EulerAncestral(eta=0.5), 1),
    (DPMSolverPP(2, eta=1.0), 1), (DPMSolverPP(3, eta=1.0), 1), (DPMSolver(2, "multistep", eta=1.0), 1),
    (DPMSolverPP(2, "singlestep", eta=1.0), 1), (DPMSolverPP(3, "singlestep", eta=0.5), 1),
]  # fmt: skip


@pytest.mark.parametrize(("solver", "order"), WEAK, ids=str)
@pytest.mark.parametrize("process", list(PROCESSES))
def test_variances_converge_at_the_weak_order(solver, order, process):
    counts = (40, 80, 160)
    errors = [abs(variance(solver, PROCESSES[process], n) - 1) for n in counts]
    print(solver, process, errors, np.polyfit(np.log(counts), -np.log(errors), 1)[0])
