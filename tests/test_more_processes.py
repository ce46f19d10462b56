"""PFGM++, mean-reverting diffusion and interpolants: special cases, closed forms, and the cards' figures."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from hasten import sample
from hasten.core.errors import HastenError
from hasten.denoisers import AroundMean, ElectricPoints, GaussianMixture
from hasten.processes import MeanReverting, PFGMPlusPlus, VarianceExploding
from hasten.solvers import DDIM, SOLVERS, DPMSolverPP, Heun, UniPC

# ---------------------------------------------------------------------------------------------------- PFGM++


def electric(points, extra, **fields):
    return ElectricPoints(points, PFGMPlusPlus(extra=extra, **fields))


def test_pfgm_tends_to_edm_at_the_rate_of_one_over_d():
    """Evidence 2 of the card has .21 to 4.8e-7 for D = 8 ... 1e7 at points it does not name; here .54 to 1.04e-6."""
    generator = np.random.default_rng(0)
    points = generator.normal(size=(4, 8))
    edm = GaussianMixture(points, 0.0, None, VarianceExploding())
    x = torch.as_tensor(points[generator.integers(0, 4, 400)] + generator.normal(size=(400, 8)))
    extras = [8, 128, 2048, 1e5, 1e7, 1e8]
    apart = [(electric(points, d)(x, 1.0).data - edm(x, 1.0).data).abs().max().item() for d in extras]
    assert apart[-1] < 1e-6 and apart[0] > 0.05 and sorted(apart, reverse=True) == apart
    assert apart[2] / apart[3] == pytest.approx(1e5 / 2048, rel=0.05)
    assert apart[3] / apart[4] == pytest.approx(100, rel=0.02)
    assert apart[4] == pytest.approx(1.04e-6, rel=0.01)
    for t in (0.01, 1.0, 30.0):
        torch.testing.assert_close(electric(points, math.inf)(x, t).data, edm(x, t).data, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("t", [0.3, 5.0])
def test_a_whole_run_of_pfgm_tends_to_edms(t):
    points = np.random.default_rng(0).normal(size=(4, 8))
    start = t * torch.randn(20, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    runs = [
        sample(denoiser, start, DPMSolverPP(), grid=np.append(np.geomspace(t, 0.01, 12), 0))
        for denoiser in (electric(points, 1e9), GaussianMixture(points, 0.0, None, VarianceExploding()))
    ]
    torch.testing.assert_close(*runs, rtol=0, atol=1e-6)


def test_the_noise_is_student_t_with_one_radius_a_row():
    """Evidence 1 of the card: variance D / (D - 2); one coordinate passes Kolmogorov-Smirnov against t_D."""
    generator = np.random.default_rng(0)
    noise = PFGMPlusPlus(extra=5).noise((200_000, 3), generator)
    assert stats.kstest(noise[:, 0], stats.t(5).cdf).pvalue > 0.01
    assert stats.kstest(noise[:, 0], "norm").pvalue < 1e-10
    for extra in (16, 128):
        noise = PFGMPlusPlus(extra=extra).noise((60_000, 4, 4), generator)
        assert np.square(noise).mean() == pytest.approx(extra / (extra - 2), rel=0.01)
    # the paper's draw: a Beta variable's odds give the squared radius over D
    share = stats.beta(2 / 2, 16 / 2).rvs(200_000, random_state=0)
    radius = np.linalg.norm(PFGMPlusPlus(extra=16).noise((200_000, 2), generator), axis=1)
    assert stats.ks_2samp(radius, np.sqrt(16 * share / (1 - share))).pvalue > 0.01
    gaussian = np.linalg.norm(PFGMPlusPlus(extra=math.inf).noise((5000, 500), generator), axis=1)
    assert gaussian.std() / gaussian.mean() == pytest.approx(1 / math.sqrt(1000), rel=0.05)


@pytest.mark.parametrize("extra", [4, 64, math.inf])
def test_from_its_prior_pfgm_visits_every_mode_equally_often(extra):
    """Evidence 3 of the card: four points, Heun with 40 steps, frequencies 1/4."""
    points = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    denoiser = electric(points, extra)
    noise = torch.as_tensor(denoiser.process.noise((4000, 2), np.random.default_rng(0)))
    ends = sample(denoiser, denoiser.process.start_scale * noise, Heun(), 40, "karras")
    nearest = torch.cdist(ends, denoiser.points).min(1)
    assert (nearest.values < 1e-6).float().mean() > 0.995
    assert stats.chisquare(np.bincount(nearest.indices, minlength=4)).pvalue > 0.01


# -------------------------------------------------------------------------------------------- mean-reverting

PROCESS = MeanReverting()


@pytest.mark.parametrize("speed", ["cosine", "linear", "constant"])
def test_the_mean_reverting_process_is_a_process(speed):
    process = MeanReverting(speed=speed)
    t = np.linspace(0, process.t_max, 500)
    assert process.alpha(0) == 1 and process.sigma(0) == 0 and process.alpha(101) == pytest.approx(0.005)
    np.testing.assert_allclose(process.time(process.lam(t[1:])), t[1:], rtol=1e-9)
    np.testing.assert_allclose(process.from_network_time(process.network_time(t[10:])), t[10:])
    np.testing.assert_allclose(process.sigma(t) ** 2, (50 / 255) ** 2 * (1 - process.alpha(t) ** 2), atol=1e-15)
    assert PROCESS.sigma(1e-9) > 0 and PROCESS.network_time(101) == 100


def test_the_tables_are_those_of_the_official_discretisation():
    """theta_i = 1 - abar(i + 1), dt = -ln 0.005 / sum, the cumulative sum with theta_0; index i is time i + 1."""
    bar = lambda k: math.cos((k / 102 + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    theta = np.array([1 - bar(i + 1) / bar(0) for i in range(101)])
    alpha = np.exp(np.cumsum(theta) * math.log(0.005) / theta.sum())
    np.testing.assert_allclose(PROCESS.alpha(np.arange(101) + 1), alpha, rtol=1e-12)


def test_the_marginal_solves_the_stochastic_equation():
    """d alpha = -theta alpha, d sigma^2 = 2 theta (stationary^2 - sigma^2), by differences inside a table cell."""
    t, h = 40.5, 1e-4
    theta = -(np.log(PROCESS.alpha(t + h)) - np.log(PROCESS.alpha(t - h))) / (2 * h)
    rise = (PROCESS.sigma(t + h) ** 2 - PROCESS.sigma(t - h) ** 2) / (2 * h)
    assert rise == pytest.approx(2 * theta * (PROCESS.stationary**2 - PROCESS.sigma(t) ** 2), rel=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_every_kind_of_network_is_read_as_the_card_converts_it(kind):
    generator = torch.Generator().manual_seed(0)
    clean, mean, eps = (torch.randn(3, 2, dtype=torch.float64, generator=generator) for _ in range(3))
    t, s = 30.0, PROCESS.stationary
    a, sigma = float(PROCESS.alpha(t)), float(PROCESS.sigma(t))
    x = mean + a * (clean - mean) + sigma * eps
    outputs = {"epsilon": eps, "sample": clean, "v_prediction": a * s * eps - sigma / s * (clean - mean)}

    def network(seen, condition, number):
        torch.testing.assert_close(seen, x)
        assert condition is mean and number.tolist() == [29.0] * 3
        return outputs[kind]

    p = AroundMean(network, mean, PROCESS, kind)(x - mean, t)
    torch.testing.assert_close(p.data + mean, clean)
    torch.testing.assert_close(p.noise, eps)


def paper_step(expand, order, sde, x, mu, s, t, m, lams, z, full=2.0):
    """One step of the paper's updates, literally. m: newest predictions first; lams: of s and before it.

    full: the weight of the second derivative, which the official code takes to be 1.
    """
    (a_s, s_s), (a_t, s_t) = ((float(PROCESS.alpha(u)), float(PROCESS.sigma(u))) for u in (s, t))
    h = math.log(a_t / s_t) - math.log(a_s / s_s)
    d1 = d2 = 0 * m[0]
    if order >= 2:
        r0 = (lams[0] - lams[1]) / h
        d1 = (m[0] - m[1]) / r0
    if order == 3:
        r1 = (lams[1] - lams[2]) / h
        older = (m[1] - m[2]) / r1
        d2 = full * (d1 - older) / (r0 + r1)
        d1 = d1 + r0 / (r0 + r1) * (d1 - older)
    if expand == "noise":
        twice, second = 2 if sde else 1, math.expm1(h) / h - 1
        out = a_t / a_s * x + (1 - a_t / a_s) * mu - twice * s_t * math.expm1(h) * m[0]
        out = out - twice * s_t * (second * d1 + (second / h - 1 / 2) * d2)
        return out + s_t * math.sqrt(math.expm1(2 * h)) * z if sde else out
    if not sde:
        out = s_t / s_s * x + (1 - s_t / s_s + s_t / s_s * a_s - a_t) * mu - a_t * math.expm1(-h) * m[0]
        second = math.expm1(-h) / h + 1
        return out + a_t * (second * d1 - (second / h - 1 / 2) * d2)
    gone = -math.expm1(-2 * h)
    out = s_t / s_s * math.exp(-h) * x + (1 - a_t / a_s * math.exp(-2 * h) - a_t * gone) * mu + a_t * gone * m[0]
    second = 1 - gone / (2 * h)
    return out + a_t * (second * d1 - (second / (2 * h) - 1 / 2) * d2) + s_t * math.sqrt(gone) * z


MR = {"data": "mr-sampler", "noise": "mr-sampler-noise"}


@pytest.mark.parametrize("compat", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("sde", [False, True], ids=["ode", "sde"])
@pytest.mark.parametrize("expand", ["data", "noise"])
def test_the_papers_updates_are_the_engines_on_the_shifted_state(order, expand, sde, compat):
    """Evidence 1 of the card, to rounding, and order 3 too, exact or with the official code's half a term."""
    fields = {"eta": float(sde), "order": order, "compat": compat, "lower_order_final": False}
    solver = SOLVERS.build({"name": MR[expand], **fields})
    generator = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(4, 3, dtype=torch.float64, generator=generator)  # noqa: E731
    mu, start, draws = draw(), draw(), [draw() for _ in range(6)]
    exact = GaussianMixture(np.random.default_rng(1).normal(size=(3, 3)), 0.3, None, PROCESS)
    times = np.array([101.0, 70, 55, 31, 12, 3, 1])

    run, x, past, at = solver.walk(PROCESS, times, start - mu, lambda i: draws[i]), start, [], []
    query = next(run)
    for i, (s, t) in enumerate(pairwise(times)):
        torch.testing.assert_close(query.x + mu, x, rtol=1e-10, atol=1e-11)
        p = exact(query.x, s)
        past.insert(0, p.data + mu if expand == "data" else p.noise)
        at.insert(0, float(PROCESS.lam(s)))
        x = paper_step(expand, min(order, i + 1), sde, query.x + mu, mu, s, t, past, at, draws[i], 2.0 - compat)
        try:
            query = run.send(p)
        except StopIteration as done:
            torch.testing.assert_close(done.value + mu, x, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", [*MR.values(), "mr-sampler-sde", "mr-sampler-noise-sde"])
def test_the_names_of_the_mean_reverting_samplers_restore(name):
    """By name, through `sample`: mean + result is a draw of the clean images, whatever the mean is."""
    exact = GaussianMixture([[0.4, 0.1], [-0.2, 0.3]], 0.05, None, PROCESS)
    mean = torch.rand(2000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network = lambda x, mu, n: exact(x - mu, PROCESS.from_network_time(n[0].item())).noise  # noqa: E731
    noise = torch.randn(2000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    restored = mean + sample(AroundMean(network, mean, PROCESS), PROCESS.start_scale * noise, name, 60)
    clean = restored - mean
    nearest = torch.cdist(clean, exact.means).min(1)
    assert (nearest.values < 0.25).float().mean() > 0.97
    assert nearest.indices.double().mean().item() == pytest.approx(0.5, abs=0.05)
    assert SOLVERS.build(name).stochastic == name.endswith("sde") and SOLVERS.build(name).convergence == 2


@pytest.mark.parametrize(
    ("solver", "order"),
    [*((SOLVERS.build({"name": name, "order": p}), p) for name in MR.values() for p in (1, 2)),
     *((SOLVERS.build({"name": name, "order": 3, "lower_order_final": False}), 3) for name in MR.values())],
    ids=str,
)  # fmt: skip
def test_order_of_convergence_around_the_mean(solver, order):
    """Evidence 2 of the card, on a mixture of clean minus degraded images."""
    process = MeanReverting(speed="constant")
    exact = GaussianMixture(np.random.default_rng(0).normal(size=(3, 2)) * 0.3, [0.1, 0.15, 0.2], None, process)
    start = process.start_scale * torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def grid(n):
        lam = np.linspace(process.lam(101), 3.0, n + 1)
        early = lam[0] + (lam[1] - lam[0]) * np.array([0.5, 1]) * (lam[1] - lam[0]) ** np.array([2, 0.5])
        return process.time(np.insert(lam, 1, early if order == 3 else []))  # else the first steps set a floor

    counts = (200, 400, 800) if order == 3 else (50, 100, 200)
    truth = sample(exact, start, UniPC(order=3, lower_order_final=False), grid=grid(2 * counts[-1]))
    errors = [(sample(exact, start, solver, grid=grid(n)) - truth).square().mean().sqrt().item() for n in counts]
    assert np.polyfit(np.log(counts), -np.log(errors), 1)[0] == pytest.approx(order, abs=0.15)


def test_the_posterior_step_is_ddim_with_full_noise():
    """With A = alpha_t / alpha_{t-1}, B and C the alphas: the card's mean and variance."""
    s, t = 40.0, 39.0
    b, c = float(PROCESS.alpha(s)), float(PROCESS.alpha(t))
    a = b / c
    row = DDIM(eta=1.0).table(PROCESS, np.array([s, t]))[1][0]
    assert row.a == pytest.approx(a * (1 - c * c) / (1 - b * b), rel=1e-10)
    assert row.b[0] == pytest.approx(c * (1 - a * a) / (1 - b * b), rel=1e-10)
    variance = PROCESS.stationary**2 * (1 - a * a) * (1 - c * c) / (1 - b * b)
    assert row.noise**2 == pytest.approx(variance, rel=1e-10)


def test_restoring_takes_fewer_steps_than_the_posterior_needs():
    """Evidence 4 of the card, with an exact restorer: energy distance of restored from true clean images.

    Measured above the distance of two clean sets: second order 0.0008 at 5 steps and -0.0002 at 20, posterior
    steps 0.0061 and -0.0003 at 100. At 10 both have 0.0012: a mixture this easy does not show the card's gap.
    """
    generator = torch.Generator().manual_seed(0)
    exact = GaussianMixture([[0.4, 0.1], [-0.2, 0.3], [0.0, -0.4]], [0.03, 0.05, 0.04], None, PROCESS)
    noise = PROCESS.start_scale * torch.randn(3000, 2, dtype=torch.float64, generator=generator)
    clean, other = (exact.sample(3000, generator) for _ in range(2))
    mean = torch.rand(3000, 2, dtype=torch.float64, generator=generator)
    network = lambda x, mu, n: exact(x - mu, PROCESS.from_network_time(n[0].item())).noise  # noqa: E731

    def distance(found):
        return (2 * torch.cdist(found, clean).mean() - torch.cdist(found, found).mean()).item()

    def excess(solver, steps):
        restored = mean + sample(AroundMean(network, mean, PROCESS), noise, solver, steps, "trailing")
        return distance(restored - mean) - distance(other)

    second = DPMSolverPP(rule="exact")
    assert excess(second, 5) < 0.25 * excess(DDIM(eta=1.0), 5)
    assert excess(second, 20) == pytest.approx(excess(DDIM(eta=1.0), 100), abs=3e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PFGMPlusPlus(extra=0), "extra: 0"),
        (lambda: PFGMPlusPlus(sigma_min=2, sigma_max=1), "sigma_min"),
        (lambda: MeanReverting(stationary=0), "stationary: 0"),
        (lambda: MeanReverting(final=1.0), "final: 1.0"),
        (lambda: MeanReverting(speed="fast"), "speed: 'fast'"),
        (lambda: AroundMean(lambda *a: a[0], torch.zeros(1, 2), PROCESS, "score"), "kind: 'score'"),
    ],
)
def test_impossible_settings_are_refused_by_field(make, message):
    with pytest.raises(HastenError, match=message):
        make()
