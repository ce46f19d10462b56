"""Start providers: closed forms against the exact ODE, and the cards' figures on mixtures."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import linear_sum_assignment

from hasten import sample
from hasten.core.errors import HastenError
from hasten.denoisers import GaussianMixture
from hasten.fit.boundary import scores
from hasten.fit.teleport import fit_model
from hasten.grids import schedule
from hasten.predictions import Prediction
from hasten.processes import Cosine, RectifiedFlow, VarianceExploding, VariancePreserving
from hasten.solvers import DDIM, DPMSolverPP, Heun, UniPC
from hasten.starts import DPMOT, STARTS, GaussianTeleport, OneMoreStep, OptimalBoundary, Start, StudentT, one_more_step

VP, EDM, FLOW = VariancePreserving(), VarianceExploding(), RectifiedFlow()
PROCESSES = [VP, EDM, FLOW, Cosine()]


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rms(x):
    return x.square().mean().sqrt().item()


# Gaussian teleport


@pytest.fixture(scope="module")
def correlated():
    """A Gaussian in 6 dimensions whose covariance has rank 4, and its exact denoiser in any process."""
    basis = torch.linalg.qr(randn(6, 6))[0][:4]
    return GaussianTeleport(randn(6, seed=1), basis, torch.tensor([3.0, 1.0, 0.3, 0.05], dtype=torch.float64))


class Exact:
    def __init__(self, gaussian, process):
        self.gaussian, self.process = gaussian, process

    def __call__(self, x, t):
        return self.gaussian.denoise(self.process, x, t)


@pytest.mark.parametrize("process", [VP, EDM], ids=lambda p: type(p).__name__)
def test_the_teleport_is_where_solvers_converge_to(process, correlated):
    noise, counts = randn(50, 6), (40, 80, 160)
    errors = []
    for steps in counts:
        times = process.time(np.linspace(float(process.lam(process.t_max)), 1.0, steps + 1))
        times[0] = process.t_max
        jumped, t = correlated(process, noise, times[-1])
        solved = sample(Exact(correlated, process), noise * process.start_scale, Heun(), grid=times)
        errors.append(rms(jumped - solved))
    assert t == times[-1]
    assert np.polyfit(np.log(counts), -np.log(errors), 1)[0] == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_teleports_compose_and_one_component_is_the_mixtures_own_transport(process, correlated):
    times = process.time(np.array([-1.0, 0.5, 2.0]))
    far, middle, near = ((float(process.alpha(t)), float(process.sigma(t))) for t in times)
    x = randn(20, 6)
    by_the_way = correlated.carry(correlated.carry(x, far, middle), middle, near)
    assert (by_the_way - correlated.carry(x, far, near)).abs().max() <= 1e-12
    round_one = GaussianMixture([[1.0, -2.0]], 0.3, None, process)
    same = GaussianTeleport(round_one.means[0], torch.eye(2).double(), torch.full((2,), 0.09).double())
    torch.testing.assert_close(same.carry(randn(9, 2), far, near), round_one.transport(randn(9, 2), times[0], times[2]))
    p, q = same.denoise(process, randn(9, 2), times[1]), round_one(randn(9, 2), times[1])
    torch.testing.assert_close(p.data, q.data)


def test_directions_without_variance_need_not_be_kept(correlated):
    full = torch.linalg.qr(torch.cat([correlated.basis, randn(2, 6, seed=3)]).T)[0].T
    variances = torch.cat([correlated.variances, torch.zeros(2).double()])
    for level in ((0.1, 2.0), (1.0, 0.2)):
        whole = GaussianTeleport(correlated.mean, full, variances).carry(randn(20, 6), (0.01, 1.0), level)
        assert (whole - correlated.carry(randn(20, 6), (0.01, 1.0), level)).abs().max() <= 1e-13


def test_fit_finds_the_moments(correlated):
    truth = correlated.mean + randn(20000, 4, seed=4) * correlated.variances.sqrt() @ correlated.basis
    fitted = GaussianTeleport().fit(truth)
    assert fitted.variances.shape == (4,) and rms(fitted.mean - correlated.mean) < 0.03
    torch.testing.assert_close(fitted.variances, correlated.variances, rtol=0.05, atol=0)
    assert (fitted.basis @ fitted.basis.T - torch.eye(4)).abs().max() < 1e-12
    assert GaussianTeleport(rank=2).fit(truth).basis.shape == (2, 6)
    pictures = truth.reshape(-1, 1, 2, 3)
    assert GaussianTeleport().fit(pictures)(VP, randn(5, 1, 2, 3), 500.0)[0].shape == (5, 1, 2, 3)


@pytest.fixture(scope="module")
def modes():
    """The card's kind of problem: 16 dimensions, 6 modes of std 0.22, data of std about 1."""
    return GaussianMixture(np.random.default_rng(2).normal(size=(6, 16)), 0.22, None, EDM)


@pytest.fixture(scope="module")
def teleport(modes):
    return GaussianTeleport().fit(modes.sample(20000, torch.Generator().manual_seed(0)))


def test_skipping_the_first_steps_costs_nothing_until_the_modes_part(modes, teleport):
    """Card: 18-step Heun 0.024 (35 calls); skip 6 .023 (23), 7 .032 (21), 8 .090 (19). 9 steps .136, skip 3 .122.

    Here .017, .016, .016, .016 in the median; what rises after step 7 is the share that ends in another mode.
    """
    z = randn(400, 16)
    truth = sample(modes, 80 * z, UniPC(order=3), 300, "karras")

    def error(steps, skipped):
        times = schedule("karras", EDM, steps)
        state, _ = teleport(EDM, z, times[skipped])
        off = (sample(modes, state, Heun(), grid=times[skipped:]) - truth).square().mean(1).sqrt()
        return off.median().item(), (off > 0.5).double().mean().item()

    found = {skipped: error(18, skipped) for skipped in (0, 6, 7, 9)}
    assert found[0][0] == pytest.approx(0.017, rel=0.1)
    assert all(found[skipped][0] < found[0][0] for skipped in (6, 7))
    assert found[6][1] <= 0.01 and found[9][1] > 0.03
    assert error(9, 3)[0] < error(9, 0)[0]
    assert len(Heun().query_times(EDM, schedule("karras", EDM, 18)[6:])) == 23


def test_the_gaussian_explains_the_score_at_high_noise_only(modes, teleport):
    """Card: 1.000000, 0.99999, 0.9993, 0.952, 0.80 at sigma 20, 10, 5, 2, 1."""
    data = modes.sample(2000, torch.Generator().manual_seed(5))
    shares = [teleport.explained(modes, data, sigma) for sigma in (20.0, 10.0, 5.0, 2.0, 1.0)]
    assert shares == pytest.approx([1.0, 0.99999, 0.9995, 0.97, 0.84], abs=0.01) and sorted(shares)[::-1] == shares
    assert shares[1] > 0.9999 > shares[2]
    point = GaussianTeleport(teleport.mean, teleport.basis, 0 * teleport.variances)
    assert shares[2] > 0.999 > point.explained(modes, data, 5.0)  # "all data at the mean": 0.994 in the card
    chosen = teleport(EDM, randn(2, 16))[1]
    assert chosen == pytest.approx(6 * teleport.variances[0].sqrt().item()) and 10 < chosen < 20


def test_moments_of_a_model_are_those_of_its_samples(modes, teleport):
    fitted = fit_model(GaussianTeleport(), modes, (16,), count=3000)
    assert fitted.variances[:5].sum().item() == pytest.approx(teleport.variances[:5].sum().item(), rel=0.06)


# One More Step


@pytest.mark.parametrize(
    ("mean", "variance", "plain"), [(-20.0, 300.0, (-4.7, 125)), (-20.0, 1.0, (-18.63, 1.0)), (0.5, 0.04, (0.49, 0.04))]
)
def test_one_more_step_gives_the_mean_back_and_with_spread_the_variance(mean, variance, plain):
    """The card's figures: SD's schedule keeps the brightness of unit noise in what it draws."""
    gm, noise = GaussianMixture([[mean]], math.sqrt(variance), None, VP), randn(100000, 1)
    fitted = OneMoreStep(gm.means[0], torch.ones(1, 1).double(), torch.tensor([variance]).double())

    def drawn(state):
        x = gm.transport(state, VP.t_max, 0.0)
        return x.mean().item(), x.var().item()

    got = drawn(noise), drawn(fitted(VP, noise)[0])
    spread = OneMoreStep(fitted.mean, fitted.basis, fitted.variances, spread=True)
    deviation = math.sqrt(variance)
    assert got[0] == pytest.approx(plain, rel=0.02)
    assert got[1] == pytest.approx((mean, plain[1]), rel=0.02, abs=0.01 * deviation)
    assert drawn(spread(VP, noise)[0]) == pytest.approx((mean, variance), rel=0.02, abs=0.01 * deviation)


def test_one_more_step_brings_the_start_nearer_to_the_true_marginal():
    """Terminal KL by direction: the mean's part goes to 0, with spread all of it."""
    mean, variances = torch.tensor([-20.0, 3.0, 0.1]).double(), torch.tensor([300.0, 4.0, 1.0]).double()
    alpha, sigma = float(VP.alpha(1000)), float(VP.sigma(1000))
    true_mean, true = alpha * mean, alpha**2 * variances + sigma**2

    def divergence(state):
        m, v = state.mean(0), state.var(0)
        return 0.5 * (v / true + (true_mean - m) ** 2 / true - 1 - (v / true).log())

    noise, parts = randn(200000, 3), (mean, torch.eye(3).double(), variances)
    plain = divergence(noise)
    shifted = divergence(OneMoreStep(*parts)(VP, noise)[0])
    exact = divergence(OneMoreStep(*parts, spread=True)(VP, noise)[0])
    ratio = sigma**2 / true
    torch.testing.assert_close(shifted, 0.5 * (ratio - 1 - ratio.log()), rtol=0.05, atol=1e-4)
    assert (plain[:2] - shifted[:2] > 1e-2).all() and exact.max() < 1e-4


@pytest.mark.parametrize("spread", [False, True])
def test_where_nothing_of_the_data_is_left_it_changes_nothing(spread):
    start = OneMoreStep(torch.ones(4).double(), torch.eye(4).double(), torch.ones(4).double(), spread=spread)
    for process in (FLOW, Cosine(), VariancePreserving.from_betas(zero_terminal_snr=True)):
        state, t = start(process, randn(5, 4))
        assert t == process.t_max and torch.equal(state, randn(5, 4))


def test_a_trained_module_and_fresh_noise():
    """v = -x0 at alpha 0; the ancestral form has the marginal variance where the official code's is too small."""
    state = one_more_step(VP, torch.tensor([[2.0]]).double(), randn(1, 1), 951.0)
    assert state.item() == pytest.approx(float(VP.alpha(951) * 2 + VP.sigma(951) * randn(1, 1).item()))
    at, noise = 500.0, randn(100000, 1)
    for eta in (0.0, 0.3, float(VP.sigma(at))):
        x = one_more_step(VP, torch.zeros(1).double(), noise, at, eta, randn(100000, 1, seed=1))
        assert x.var().item() == pytest.approx(float(VP.sigma(at)) ** 2, rel=0.02)


# PFGM++


class PFGM:
    """The exact denoiser of points y: weights (|x - y|^2 + D sigma^2)^-(N + D)/2."""

    process = EDM

    def __init__(self, dimensions, points):
        self.dimensions, self.points = dimensions, points

    def __call__(self, x, t):
        squared = torch.cdist(x, self.points).square()
        logits = -squared / (2 * t * t)
        if not math.isinf(self.dimensions):
            logits = -(x.shape[1] + self.dimensions) / 2 * torch.log(squared + self.dimensions * t * t)
        return Prediction(x, 1.0, float(t), torch.softmax(logits, 1) @ self.points, "sample")


@pytest.mark.parametrize("dimensions", [3.0, 5.0, 16.0, 128.0, 2048.0])
def test_every_coordinate_is_student_t_and_the_length_is_that_of_the_mixture_form(dimensions):
    """sigma z sqrt(D / chi2_D), one draw a row; the card has KS p = 0.21 at D = 5."""
    noise = StudentT(dimensions)(EDM, randn(20000, 8))[0] / 80
    for column in noise.T[:3]:
        assert stats.kstest(column.numpy(), "t", (dimensions,)).pvalue > 0.01
    chi2 = torch.as_tensor(np.random.default_rng(0).chisquare(dimensions, 20000))
    drawn = randn(20000, 8, seed=1) * (dimensions / chi2).sqrt()[:, None]
    assert stats.ks_2samp(noise.norm(dim=1).numpy(), drawn.norm(dim=1).numpy()).pvalue > 0.01
    if dimensions >= 16:
        moment = dimensions / (dimensions - 2)  # the card's 1.143, 1.0159 and 1.0003 (1.00098 here: D / (D - 2))
        assert noise.square().mean().item() == pytest.approx(moment, rel=0.01)


def test_many_dimensions_are_diffusion_at_rate_one_over_d():
    noise = randn(500, 192)
    gap = [(StudentT(d)(EDM, noise)[0] / 80 - noise).abs().max().item() for d in (1e4, 1e5, 1e6, 1e9)]
    assert np.diff(np.log10(gap[:3])) == pytest.approx(-1, abs=0.1) and gap[3] < 1e-5
    assert torch.equal(StudentT(math.inf)(EDM, noise)[0], 80 * noise)
    lengths = noise.norm(dim=1)
    assert (lengths.std() / lengths.mean()).item() == pytest.approx(1 / math.sqrt(2 * 192), rel=0.1)


def test_the_direction_is_kept_and_the_order_of_lengths_too():
    noise, x = randn(300, 3, 4), StudentT(4.0)(EDM, randn(300, 3, 4), 10.0)[0]
    cosine = torch.nn.functional.cosine_similarity(noise.flatten(1), x.flatten(1))
    assert (cosine - 1).abs().max() < 1e-12
    order = noise.flatten(1).norm(dim=1).argsort()
    assert (x.flatten(1).norm(dim=1)[order].diff() > 0).all()
    extreme = StudentT(4.0)(EDM, torch.tensor([[12.0, 0.0], [1e-9, 0.0]]).double())[0]
    assert torch.isfinite(extreme).all() and extreme[0, 0] > 1e6 and extreme[1, 0] > 0


@pytest.mark.parametrize("dimensions", [4.0, 64.0, 2048.0, math.inf])
def test_heun_from_the_prior_lands_on_the_data_in_equal_shares(dimensions):
    points = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).double()
    state, _ = StudentT(dimensions)(EDM, randn(4000, 2))
    away = torch.cdist(sample(PFGM(dimensions, points), state, Heun(), 40, "karras"), points)
    assert away.min(1).values.max() < 1e-6
    assert (torch.bincount(away.argmin(1)) / 4000 - 0.25).abs().max() < 0.025


# DPM-OT


RING = GaussianMixture(
    4 * np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], 1), 0.1, None, VP
)


@pytest.fixture(scope="module")
def ring():
    """64 data on 8 modes, and the transport to them at sigma / alpha = 0.7 from two starts."""
    data = RING.means[torch.arange(64) % 8] + 0.1 * randn(64, 2, seed=7)
    at = float(VP.time(-math.log(0.7)))
    return data, *(DPMOT().fit(VP, data, at, iterations=1200, nearest=nearest) for nearest in (True, False))


def test_every_target_gets_its_share_and_the_start_does_not_matter(ring):
    """Card: largest mass 1.2 to 1.3 of its share, |w - nu| about 0.012 after 3000 iterations."""
    noise = randn(100000, 2, seed=8)
    for transport in ring[1:]:
        mass = torch.bincount(transport.cells(noise), minlength=64) / 100000
        assert mass.min() > 0.7 / 64 and mass.max() < 1.3 / 64 and (mass - 1 / 64).norm() < 0.012
    assert (ring[1].cells(noise) == ring[2].cells(noise)).double().mean() > 0.95


def test_no_assignment_is_cheaper(ring):
    transport, noise = ring[1], randn(1024, 2, seed=9)
    costs = torch.cdist(noise, transport.targets.repeat(16, 1)).square()
    rows, columns = linear_sum_assignment(costs.numpy())
    state, _ = transport(VP, noise)
    assert (noise - state).square().sum(1).mean().item() == pytest.approx(costs[rows, columns].mean().item(), rel=0.03)


def last_steps(at, calls):
    return np.append(VP.time(np.linspace(float(VP.lam(at)), float(VP.lam(VP.t_min)), calls)), 0.0)


def test_few_calls_blend_no_modes(ring):
    """The share farther than 3 std from every mode: a sample of the data itself has 1.1 %."""
    noise = randn(2048, 2, seed=10)

    def nearest(x):
        return torch.cdist(x, RING.means).min(1)

    state, at = ring[1](VP, noise)
    for calls in (5, 8):
        plain = nearest(sample(RING, noise, DDIM(), calls))
        jumped = nearest(sample(RING, state, DDIM(eta=1.0), grid=last_steps(at, calls)))
        assert (jumped.values > 0.3).double().mean() < 0.012 and (plain.values > 0.3).double().mean() > 0.1
        assert (torch.bincount(jumped.indices, minlength=8) / 2048 - 1 / 8).abs().max() < 0.04
    assert (nearest(sample(RING, noise, DPMSolverPP(), 5)).values > 0.3).double().mean() > 0.2


def test_outputs_are_as_near_to_the_data_as_the_noise_level_makes_them(ring):
    """The memorisation audit: the deterministic way draws the data again, and low noise does so either way."""
    data, noise = ring[0], randn(512, 2, seed=11)

    def median(x):
        return torch.cdist(x, data).min(1).values.median().item()

    unseen = median(RING.sample(512, torch.Generator().manual_seed(12)))
    low = DPMOT().fit(VP, data, float(VP.time(-math.log(0.03))), iterations=30)
    unlike, alike = (
        sample(RING, transport(VP, noise)[0], DDIM(eta=1.0), grid=last_steps(transport.at, 8))
        for transport in (ring[1], low)
    )
    assert median(unlike) > 0.85 * unseen and median(alike) < 0.65 * unseen
    same = sample(RING, ring[1](VP, noise)[0], DDIM(), grid=last_steps(ring[1].at, 8))
    assert len(same.unique(dim=0)) <= 64 < 500 < len(unlike.unique(dim=0))


# optimal boundary conditions


class LinearGaussian:
    """p(data | input) is Gaussian with the same covariance for every input: what a solver makes of noise is affine."""

    def __init__(self):
        rng = np.random.default_rng(0)
        root = rng.normal(size=(12, 12)) / math.sqrt(12)
        covariance, see = root @ root.T, rng.normal(size=(3, 12))
        self.root, self.see = torch.as_tensor(root), torch.as_tensor(see)
        gain = covariance @ see.T @ np.linalg.inv(see @ covariance @ see.T + 0.05 * np.eye(3))
        values, vectors = np.linalg.eigh(covariance - gain @ see @ covariance)
        self.alpha, sigma = float(VP.alpha(VP.t_max)), float(VP.sigma(VP.t_max))
        scale = np.sqrt(values.clip(0) / (self.alpha**2 * values.clip(0) + sigma**2))
        self.gain, self.map = torch.as_tensor(gain), torch.as_tensor(vectors * scale @ vectors.T)
        self.left = values.sum() / 12

    def pairs(self, count, seed):
        data = randn(count, 12, seed=seed) @ self.root.T
        return data @ self.see.T + math.sqrt(0.05) * randn(count, 3, seed=seed + 100), data

    def solve(self, noise, inputs):
        best_guess = inputs @ self.gain.T
        return best_guess + (noise - self.alpha * best_guess) @ self.map.T


def squared(results, truths):
    return (results - truths).square().mean(1)


def test_one_noise_is_best_for_all_inputs():
    """Card: .315/.323/.333 for 200, 50 and 1 references, .566 on average, .313 at best, .282 the posterior mean."""
    problem, candidates = LinearGaussian(), randn(1000, 12, seed=20)
    inputs, truths = problem.pairs(1000, seed=21)
    held_out = scores(problem.solve, candidates, inputs, truths, squared)
    assert held_out.mean().item() == pytest.approx(2 * problem.left, rel=0.05)  # as a posterior sample
    for references, least, share in [(200, 0.98, 0.02), (50, 0.95, 0.03), (10, 0.8, 0.12)]:
        few = problem.pairs(references, seed=22)
        found = scores(problem.solve, candidates, *few, squared)
        assert stats.spearmanr(found, held_out)[0] > least
        for halving in (False, True):
            start = OptimalBoundary().fit(problem.solve, candidates, *few, squared, halving=halving)
            state, t = start(VP, torch.zeros(1000, 12).double())
            got = squared(problem.solve(state, inputs), truths).mean()
            assert problem.left < got < held_out.min() + share * held_out.mean() and t == VP.t_max
    assert stats.spearmanr(scores(problem.solve, candidates, *problem.pairs(1, 22), squared), held_out)[0] < 0.9


def test_halving_runs_fewer_solves():
    problem, candidates, rows = LinearGaussian(), randn(64, 12, seed=20), []

    def counted(noise, inputs):
        rows.append(len(inputs))
        return problem.solve(noise, inputs)

    OptimalBoundary().fit(counted, candidates, *problem.pairs(32, 23), squared, halving=True)
    assert sum(rows) == 64 * 4 + 16 * 8 + 4 * 16 + 1 * 32 < 64 * 32 / 4


# all of them


FITTED = [
    GaussianTeleport().fit(randn(50, 4)), OneMoreStep(spread=True).fit(randn(50, 4)), StudentT(3.0),
    DPMOT().fit(VP, randn(20, 4), 300.0, iterations=20), OptimalBoundary(randn(4, seed=30)),
]  # fmt: skip


@pytest.mark.parametrize("start", FITTED, ids=lambda s: s.name)
def test_a_start_is_saved_and_each_row_is_its_own(start, tmp_path):
    noise = randn(6, 4)
    state, t = start(VP, noise)
    start.save(tmp_path / "start.safetensors")
    again, same_t = Start.load(tmp_path / "start.safetensors")(VP, noise)
    assert torch.equal(again, state) and t == same_t
    alone = torch.cat([start(VP, row[None])[0] for row in noise])
    torch.testing.assert_close(alone, state, rtol=1e-12, atol=1e-12)
    half, _ = start(VP, noise.half())
    assert half.dtype == torch.float16 and torch.isfinite(half).all()


@pytest.mark.parametrize("cls", list(STARTS), ids=lambda c: c.name)
def test_every_start_is_listed(cls):
    assert STARTS.build(cls.name).name == cls.name and cls.paper.arxiv and cls.__doc__


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianTeleport()(VP, randn(2, 4)), r"'gaussian-teleport' is not fitted; use GaussianTeleport\(\)"),
        (lambda: DPMOT()(VP, randn(2, 4)), "targets: 'dpm-ot' is not fitted"),
        (lambda: FITTED[0](VP, randn(2, 5)), r"noise: rows of shape \(5,\); 'gaussian-teleport' has \(4,\)"),
        (lambda: FITTED[3](VP, randn(2, 4), 500.0), "time: 500 is not possible; this 'dpm-ot' starts at 300"),
        (lambda: FITTED[4](VP, randn(2, 4), 500.0), "starts at 1000"),
        (lambda: GaussianTeleport().fit(randn(1, 4)), "1 rows are too few"),
        (lambda: StudentT(0.0), "dimensions: 0.0"),
        (lambda: DPMOT().fit(VP, randn(3, 2), 0.0), "at: 0 is not possible"),
        (lambda: one_more_step(VP, randn(1, 1), randn(1, 1), 500.0, eta=2.0), "eta: 2"),
        (lambda: OptimalBoundary().fit(None, randn(2, 4), randn(2, 4), randn(3, 4), squared), "as many as truths"),
        (lambda: Start.load("/nowhere"), "start: cannot read /nowhere"),
    ],
)
def test_impossible_starts_are_refused(make, message):
    with pytest.raises(HastenError, match=message):
        make()
