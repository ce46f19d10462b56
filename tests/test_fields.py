"""Field diagnostics against closed forms: likelihoods, residuals, gauges, and dimensions of known manifolds."""

import math

import numpy as np
import pytest
import torch

from hasten import sample, zoo
from hasten.core.errors import HastenError
from hasten.denoisers import Denoiser, GaussianMixture, coefficients
from hasten.measure.fields import (
    asymmetry,
    conservative_part,
    density_residual,
    divergence,
    fokker_planck_residual,
    gauge_residual,
)
from hasten.measure.paths import bits_per_dimension, intrinsic_dimension, log_likelihood, tangent_spectrum
from hasten.predictions import Prediction
from hasten.processes import Process, RectifiedFlow, VarianceExploding, VariancePreserving
from hasten.solvers import DDIM, Heun

PROCESSES = {"vp": VariancePreserving(), "flow": RectifiedFlow(), "edm": VarianceExploding()}
each = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


class Ornstein(Process):
    """dx = -x dt + g dW, as both cards use it."""

    t_min, t_max = 1e-2, 6.0

    def __init__(self, g):
        self.level = g / math.sqrt(2)

    def alpha(self, t):
        return np.exp(-np.asarray(t, float))

    def sigma(self, t):
        return self.level * np.sqrt(-np.expm1(-2 * np.asarray(t, float)))

    def time(self, lam):
        return 0.5 * np.log1p(self.level**-2 * np.exp(-2 * np.asarray(lam, float)))


class Changed:
    """An exact denoiser whose score has been tampered with: change(x, score, t) -> score."""

    def __init__(self, exact, change):
        self.exact, self.change, self.process = exact, change, exact.process

    def __call__(self, x, t):
        p = self.exact(x, t)
        return Prediction(x, p.alpha, p.sigma, self.change(x, p.score, t), "score")


class Gaussian:
    """The exact denoiser of a centred Gaussian with these variances, 0 among them."""

    def __init__(self, variances, process):
        self.variances, self.process = torch.tensor(variances, dtype=torch.float64), process

    def __call__(self, x, t):
        a, s = coefficients(self.process, t, x)
        return Prediction(x, a, s, x * a * self.variances / (a**2 * self.variances + s**2), "sample")


def mixture(process):
    means = np.random.default_rng(0).normal(size=(3, 2))
    return GaussianMixture(means, [0.4, 0.5, 0.6], [0.2, 0.5, 0.3], process)


def states(exact, t, rows=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    data = exact.sample(rows, generator)
    noise = torch.randn(data.shape, dtype=torch.float64, generator=generator)
    return float(exact.process.alpha(t)) * data + float(exact.process.sigma(t)) * noise


def log_density(exact, x, t):
    a, s = float(exact.process.alpha(t)), float(exact.process.sigma(t))
    variance = (a * exact.stds) ** 2 + s**2
    square = (x[:, None] - a * exact.means).square().sum(-1)
    logs = exact.weights.log() - square / (2 * variance) - x.shape[1] / 2 * torch.log(2 * math.pi * variance)
    return torch.logsumexp(logs, -1)


def turned(x):
    return torch.stack([-x[:, 1], x[:, 0]], 1)


# ---------------------------------------------------------------------------------------------- likelihood


@each
def test_log_likelihood_is_exact_at_fourth_order(process):
    exact = mixture(process)
    x = states(exact, process.t_min, 20)
    true = log_density(exact, x, process.t_min)

    def error(steps):
        got = log_likelihood(exact, x, steps, prior=lambda z: log_density(exact, z, process.t_max))
        return (got - true).abs().max().item()

    coarse, fine = error(40), error(80)
    assert fine < 2e-6
    assert math.log2(coarse / fine) == pytest.approx(4, abs=0.3)


def test_the_usual_prior_is_exact_where_the_process_ends_in_pure_noise_and_nearly_so_elsewhere():
    errors = {}
    for name, process in PROCESSES.items():
        x = states(mixture(process), process.t_min, 20)
        true = log_density(mixture(process), x, process.t_min)
        errors[name] = (log_likelihood(mixture(process), x, 40) - true).abs().max().item()
    assert errors["flow"] < 5e-5 and 1e-4 < errors["edm"] < 0.02 and 1e-4 < errors["vp"] < 0.1


def test_probed_likelihoods_are_unbiased():
    exact, process = mixture(PROCESSES["flow"]), PROCESSES["flow"]
    x = states(exact, process.t_min, 1).expand(800, -1)  # one point, and every row has probes of its own
    probed = log_likelihood(exact, x, 30, probes=1)
    error = probed.mean() - log_density(exact, x[:1], process.t_min)
    assert probed.std() > 0.03 and abs(error) < 4 * probed.std() / math.sqrt(800)


def test_bits_per_dimension_is_the_entropy_of_the_data():
    process = PROCESSES["edm"]
    exact = GaussianMixture(np.zeros((1, 3)), 0.5, None, process)
    got = bits_per_dimension(exact, states(exact, process.t_min, 400), scale=127.5)
    entropy = 0.5 * math.log2(2 * math.pi * math.e * 0.25) + math.log2(127.5)
    assert got.low < entropy < got.high and got.high - got.low < 0.2 and got.n == 400


# ------------------------------------------------------------------------------- Fokker-Planck, and the gap


@each
def test_the_residuals_vanish_for_an_exact_score_and_not_for_a_broken_one(process):
    exact, t = mixture(process), float(process.time(0.3))
    x = states(exact, t)
    assert fokker_planck_residual(exact, x, t).value < 1e-9
    assert density_residual(lambda z, s: log_density(exact, z, s), process, x, t).abs().max() < 1e-9
    broken = Changed(exact, lambda x, score, t: score + 0.2 * torch.sin(x))
    assert fokker_planck_residual(broken, x, t).low > 0.02


@each
@pytest.mark.parametrize("lam", [-1.0, 0.5, 2.0])
def test_the_residual_of_a_score_scaled_by_a_factor(process, lam):
    """N(0, 0.36): eps is (1 + d) r y / V, V = 0.36 + r^2, and what is left is 2 d (1 + d) r^3 y / V^2."""
    d, t = 0.1, float(process.time(lam))
    exact = GaussianMixture(np.zeros((1, 3)), 0.6, None, process)
    x, r = states(exact, t), math.exp(-lam)
    left = 2 * d * (1 + d) * r**3 / (0.36 + r * r) ** 2 * x / float(process.alpha(t))
    scaled = Changed(exact, lambda x, score, t: (1 + d) * score)
    assert fokker_planck_residual(scaled, x, t).value == pytest.approx(left.square().mean().sqrt().item(), rel=1e-7)


def test_probing_adds_no_bias_to_the_residual():
    process = PROCESSES["edm"]
    t = float(process.time(0.3))
    x = states(mixture(process), t, 2000)
    broken = Changed(mixture(process), lambda x, score, t: score + 0.2 * torch.sin(x))
    exact, probed = (fokker_planck_residual(broken, x, t, probes).value for probes in (None, 1))
    assert probed == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("g", [1.0, math.sqrt(2)])
def test_density_residual_in_a_unit_of_time(g):
    """phi = -(1 + d) x^2 / (2 v): the x^2 coefficient of the card's residual is -g^2 d (1 + d) / (2 v^2)."""
    process, d, t = Ornstein(g), 0.1, 0.7
    variance = lambda t: 0.2 * math.exp(-2 * t) + float(process.sigma(t)) ** 2  # noqa: E731
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    found = density_residual(lambda z, s: -(1 + d) * z[:, 0] ** 2 / (2 * variance(s)), process, x, t)
    per_time = found * g**2 / (2 * float(process.sigma(t)) ** 2)  # du/dt of an Ornstein-Uhlenbeck process
    expected = -(g**2) * d * (1 + d) / (2 * variance(t) ** 2) * x[:, 0] ** 2
    torch.testing.assert_close(per_time - per_time[4], expected, rtol=1e-7, atol=1e-9)


def test_density_residual_of_a_mixture_and_of_one_with_a_sine_added():
    """Evidence 1 of the card: terms of size 2 to 12 cancel; 0.1 sin x_1 leaves 0.2 to 0.6 a unit of time."""
    process, t = Ornstein(1.0), 0.1
    exact = mixture(process)
    x = states(exact, t)
    unit = 1 / (2 * float(process.sigma(t)) ** 2)
    plain = density_residual(lambda z, s: log_density(exact, z, s), process, x, t) * unit
    wavy = density_residual(lambda z, s: log_density(exact, z, s) + 0.1 * z[:, 0].sin(), process, x, t) * unit
    assert plain.abs().max() < 1e-8
    assert 0.05 < wavy.square().mean().sqrt() < 0.6


@pytest.mark.parametrize(
    ("d", "sde", "ode", "gap"),
    [
        (0.0, 0.2, 0.2, 0.0),
        (0.05, 0.1818, 0.1048, 0.103),
        (0.1, 0.1667, 0.0550, 0.174),
        (-0.1, 0.25, 0.7277, 0.353),
    ],
)
def test_ode_and_sde_samples_part_by_what_the_card_says(d, sde, ode, gap):
    """Data N(0, 0.2), score -(1 + d) x / v: every solver row is linear, so variances are followed exactly."""
    process = Ornstein(1.0)
    lam = np.linspace(process.lam(6.0), 7.0, 6001)
    times = process.time(lam)

    def end_variance(eta):
        variance = 0.2 * math.exp(-12) + float(process.sigma(6.0)) ** 2
        for row in DDIM(eta=eta).table(process, times)[1]:
            a, s = float(process.alpha(row.time)), float(process.sigma(row.time))
            data = (1 - (1 + d) * s**2 / (0.2 * a * a + s * s)) / a
            variance = (row.a + row.b[0] * data) ** 2 * variance + row.noise**2
        return variance

    found = end_variance(1.0), end_variance(0.0)
    assert found == pytest.approx((sde, ode), rel=4e-3)
    assert abs(math.sqrt(found[0]) - math.sqrt(found[1])) == pytest.approx(gap, abs=1.5e-3)


# ---------------------------------------------------------------------------------- conservativity and gauge


@each
def test_a_true_score_is_conservative_and_a_turned_one_is_as_far_from_it_as_algebra_says(process):
    t = float(process.time(0.3))
    x = states(mixture(process), t)
    assert asymmetry(mixture(process), x, t).value < 1e-20
    single = GaussianMixture(np.zeros((1, 2)), 0.7, None, process)
    for kappa in (0.5, 1.5):  # a multiple of 1 + kappa J, J antisymmetric and orthogonal
        field = Changed(single, lambda x, score, t, k=kappa: score + k * turned(score))
        assert asymmetry(field, x, t).value == pytest.approx(4 * kappa**2 / (1 + kappa**2), rel=1e-10)


def test_probed_asymmetry_agrees_with_the_exact_one():
    process = PROCESSES["vp"]
    t = float(process.time(0.3))
    x = states(mixture(process), t, 1000)
    broken = Changed(mixture(process), lambda x, score, t: score + 0.4 * turned(score) + 0.3 * torch.sin(turned(x)))
    exact, probed = asymmetry(broken, x, t), asymmetry(broken, x, t, probes=8)
    assert exact.value > 0.05 and probed.value == pytest.approx(exact.value, rel=0.05)
    assert probed.low < exact.value < probed.high


@pytest.mark.slow
def test_a_turned_score_is_a_gauge_and_a_turned_state_is_not():
    """Evidence 1 and 2 of the card: densities do not feel the gauge, samples do."""
    process, kappa, t = Ornstein(math.sqrt(2)), 1.5, 0.3
    exact = mixture(process)
    gauge = Changed(exact, lambda x, score, t: score + kappa * turned(score))
    other = Changed(exact, lambda x, score, t: score + kappa * turned(x))
    x = states(exact, t)
    assert gauge_residual(gauge, exact, x, t).value < 1e-12
    assert gauge_residual(other, exact, x, t).low > 0.1
    assert 2 < asymmetry(gauge, x, t).value < 3.2 and asymmetry(other, x, t).value > 1.5

    data = states(exact, process.t_min, 60)
    true = log_density(exact, data, process.t_min)
    density = lambda field: log_likelihood(  # noqa: E731
        field, data, 150, prior=lambda z: log_density(exact, z, process.t_max)
    )
    assert (density(gauge) - true).square().mean().sqrt() < 1.4e-5
    start = states(exact, process.t_max, 1000, seed=3)
    grid = process.time(np.linspace(process.lam(process.t_max), process.lam(process.t_min), 320))
    plain, moved = (sample(field, start, Heun(), grid=grid) for field in (exact, gauge))
    assert (plain - moved).square().mean().sqrt() == pytest.approx(1.29, rel=0.1)  # card: 1.16
    torch.testing.assert_close(plain.T.cov(), moved.T.cov(), rtol=0, atol=0.06)  # 2.5 times the sampling error
    assert (density(other) - true).square().mean().sqrt() > 0.05


def test_the_conservative_part_of_a_gauged_score_is_the_score():
    """Evidence 3 of the card (0.08 with 6e4 samples and 15 x 15 functions): orthogonality holds in the mean only,
    so the error falls with the number of samples, and below that of the gauged score itself at once."""
    exact, t = mixture(Ornstein(math.sqrt(2))), 0.3
    gauged = Changed(exact, lambda x, score, t: score + 1.5 * turned(score))
    fresh = states(exact, t, 1000, seed=2)
    true = exact(fresh, t).score
    line = torch.linspace(-3, 3, 4, dtype=torch.float64)
    centres = torch.cartesian_prod(line, line)

    def basis(z):
        square = (z[:, None] - centres).square().sum(-1)
        return torch.cat([torch.exp(-square / 4.5), z, z**2, z[:, :1] * z[:, 1:]], 1)

    def error(rows):
        found = conservative_part(lambda z: gauged(z, t).score, basis, states(exact, t, rows, seed=1))(fresh)
        return ((found - true).square().sum() / true.square().sum()).sqrt().item()

    few, many = error(1000), error(30_000)
    assert many < 0.08 and many < few / 2


# --------------------------------------------------------------------------------------- intrinsic dimension


def test_the_spectrum_of_a_degenerate_gaussian():
    """Evidence 4 of the card: variances (1, 1/2, 0, 0) from sigma 10 to 0.01."""
    process = VarianceExploding(0.01, 10.0)
    x = 10 * torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = Gaussian([1.0, 0.5, 0.0, 0.0], process)
    times, spectrum = tangent_spectrum(exact, x, 100)
    variances = np.array([1.0, 0.5, 0.0, 0.0])
    closed = np.sqrt((variances + times[:, None] ** 2) / (variances + 100))
    np.testing.assert_allclose(spectrum, np.broadcast_to(closed[:, None], spectrum.shape), rtol=1e-5)
    assert spectrum[-1, 0].numpy() == pytest.approx([0.0995, 0.0705, 0.001, 0.001], abs=5e-5)
    for tangents, dimension in ((None, 2), (3, 2), (1, 1)):
        found = intrinsic_dimension(exact, x, 40, tangents=tangents)
        assert found.value == found.low == found.high == dimension


def points(count, kind):
    """Evenly spread points in three dimensions, on a circle, a sphere or a Swiss roll."""
    at = np.arange(count) + 0.5
    if kind == "circle":
        return np.stack([np.cos(at * 2 * np.pi / count), np.sin(at * 2 * np.pi / count), 0 * at], 1)
    golden = at * (1 + 5**0.5) / 2 % 1
    if kind == "sphere":
        z = 1 - 2 * at / count
        rim = np.sqrt(1 - z * z)
        return np.stack([rim * np.cos(2 * np.pi * golden), rim * np.sin(2 * np.pi * golden), z], 1)
    turn = 1.5 * np.pi * np.sqrt(1 + 8 * at / count)  # equal areas along a spiral of radius `turn`
    return np.stack([turn * np.cos(turn), turn * np.sin(turn), 30 * golden - 15], 1) / 5


@pytest.mark.parametrize(("kind", "dimension", "end"), [("circle", 1, 0.1), ("sphere", 2, 0.15), ("roll", 2, 0.25)])
def test_the_dimension_of_known_manifolds(kind, dimension, end):
    """Points so dense that at the last noise level they are a manifold, not yet points."""
    cloud = GaussianMixture(points(200 if kind == "circle" else 800, kind), 0.0, None, VarianceExploding(end, 10.0))
    x = 10 * torch.randn(10, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = intrinsic_dimension(cloud, x, 24)
    assert found.value == pytest.approx(dimension, abs=0.11)


def test_a_rotating_part_distorts_the_spectrum_though_not_the_density():
    """Claim of the paper: local geometry needs a conservative field. In the plane of a circle, R = kappa J s."""
    process = VarianceExploding(0.1, 10.0)
    circle = GaussianMixture(points(200, "circle")[:, :2], 0.0, None, process)
    x = 10 * torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    turning = Changed(circle, lambda x, score, t: score + 2 * turned(score))
    smallest = lambda field: tangent_spectrum(field, x, 24)[1][-1, :, -1]  # noqa: E731
    clean, distorted = smallest(circle), smallest(turning)
    assert (distorted / clean - 1).abs().median() > 0.1


# ------------------------------------------------------------------------------------------- a real network


@pytest.mark.slow
def test_a_real_network_with_attention():
    """The zoo's digits: probing agrees with the full Jacobian, and the network is nearly but not conservative."""
    pipe = zoo.load("digits")
    labels = torch.arange(2)
    network = lambda x, n: pipe.unet(x, n, class_labels=labels).sample  # noqa: E731
    denoiser = Denoiser(network, VariancePreserving())
    pipe.unet.float().requires_grad_(False)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    exact, probed = (asymmetry(denoiser, x, 400.0, probes).value for probes in (None, 24))
    assert 0 < exact < 0.5 and probed == pytest.approx(exact, rel=0.3)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: fokker_planck_residual(mixture(PROCESSES["flow"]), torch.zeros(2, 2), 1.0), "t: 1.0 has alpha 0"),
        (lambda: divergence(torch.sin, torch.zeros(2, 2), probes=0), "probes: 0"),
        (lambda: tangent_spectrum(mixture(PROCESSES["vp"]), torch.zeros(2, 2), tangents=3), "tangents: 3"),
    ],
)
def test_impossible_requests_are_refused_by_field(run, message):
    with pytest.raises(HastenError, match=message):
        run()
