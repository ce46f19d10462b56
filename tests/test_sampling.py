"""Hosts of walks: many at once equal one by one, seeds replay, half precision, denoisers."""

import numpy as np
import pytest
import torch

from hasten import sample
from hasten.core.errors import HastenError
from hasten.denoisers import Denoiser, GaussianMixture
from hasten.processes import Cosine, RectifiedFlow, VarianceExploding, VariancePreserving
from hasten.sampling import sample_many, seeded_noise
from hasten.solvers import DDIM, DPMSolverPP, Euler, Heun, UniPC

VP = VariancePreserving()


class Counted:
    """A denoiser that remembers how many rows each call had."""

    def __init__(self, inner):
        self.inner, self.process, self.rows = inner, inner.process, []

    def __call__(self, x, t):
        self.rows.append(len(x))
        return self.inner(x, t)


def small_network(process):
    torch.manual_seed(0)
    inside = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)).double()

    def network(x, number):
        return inside(torch.cat([x, number[:, None].to(x.dtype) / 1000], 1)).detach()

    return Denoiser(network, process)


def runs():
    solvers = [DDIM(), DPMSolverPP(order=3), UniPC(order=3), Heun(), DPMSolverPP(method="singlestep"), Euler()]
    solvers += [DDIM(eta=0.7), DPMSolverPP(order=2, eta=1.0)]
    grids, ends = ["logsnr", "karras", "trailing", "quadratic"], ["data", "min"]
    return [
        {
            "noise": torch.randn(1 + i % 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(i)),
            "solver": solvers[i % 8], "steps": 4 + (5 * i) % 9, "grid": grids[i % 4], "end": ends[i // 2 % 2],
            "seed": i,
        }
        for i in range(16)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["mixture", "network"])
def test_many_walks_equal_single_ones_in_the_calls_of_the_longest(kind):
    means = np.random.default_rng(0).normal(size=(3, 4))
    inner = GaussianMixture(means, 0.4, None, VP) if kind == "mixture" else small_network(VP)
    alone, lengths = [], []
    for run in runs():
        counted = Counted(inner)
        alone.append(sample(counted, **run))
        lengths.append(len(counted.rows))
    together = Counted(inner)
    results = sample_many(together, runs())
    assert len(together.rows) <= 1.1 * max(lengths)
    assert sum(together.rows) == sum(n * len(run["noise"]) for n, run in zip(lengths, runs()))
    for one, other in zip(alone, results):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-6)


def test_walks_of_different_shapes_do_not_share_batches_but_all_finish():
    flat = GaussianMixture(np.zeros((1, 4)), 1.0, None, VP)

    class AnyShape:
        process = VP

        def __call__(self, x, t):
            from hasten.denoisers import coefficients
            from hasten.predictions import Prediction

            return Prediction(x, *coefficients(VP, t, x), 0.5 * x, "sample")

    assert flat.process is VP
    noises = [torch.randn(2, 4), torch.randn(1, 3, 3), torch.randn(3, 4)]
    results = sample_many(AnyShape(), [{"noise": n, "steps": 3} for n in noises])
    for noise, result in zip(noises, results):
        torch.testing.assert_close(result, sample(AnyShape(), noise, steps=3))


def test_unknown_run_fields_are_refused_before_anything_runs():
    counted = Counted(small_network(VP))
    with pytest.raises(HastenError, match="did you mean 'solver'"):
        sample_many(counted, [{"noise": torch.zeros(1, 4)}, {"noise": torch.zeros(1, 4), "solvr": "ddim"}])
    assert counted.rows == []


def test_stochastic_runs_replay_by_seed_and_by_step():
    denoiser, noise = small_network(VP), torch.randn(2, 4, dtype=torch.float64)
    one, same, other = (sample(denoiser, noise, DDIM(eta=1.0), 6, seed=s) for s in (3, 3, 4))
    assert torch.equal(one, same) and not torch.allclose(one, other)
    assert DDIM(eta=1.0).stochastic and not DDIM().stochastic
    assert torch.equal(seeded_noise(noise, 3)(5), seeded_noise(noise, 3)(5))
    assert not torch.equal(seeded_noise(noise, 3)(5), seeded_noise(noise, 3)(6))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_states_are_stepped_in_float32_and_come_back(dtype):
    denoiser = GaussianMixture(np.random.default_rng(0).normal(size=(3, 4)), 0.5, None, VP)
    noise = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    got = sample(denoiser, noise, UniPC(order=3), 10)
    exact = sample(denoiser, noise.double(), UniPC(order=3), 10)
    assert got.dtype == dtype
    assert (got.double() - exact).abs().max() <= 2 * torch.finfo(dtype).eps * exact.abs().max() + 1e-5


@pytest.mark.parametrize(
    "process", [VP, RectifiedFlow(), VarianceExploding(), Cosine()], ids=lambda p: type(p).__name__
)
def test_one_gaussian_is_solved_as_its_closed_form_says(process):
    gaussian = GaussianMixture([[1.0, -2.0]], 0.3, None, process)
    last = float(process.time(4.0))
    times = process.time(np.linspace(max(-2.5, float(process.lam(process.t_max))), 4.0, 200))
    x = float(process.sigma(times[0])) * torch.randn(50, 2, dtype=torch.float64)
    got = sample(gaussian, x, UniPC(order=3), grid=times)
    torch.testing.assert_close(got, gaussian.transport(x, times[0], last), rtol=0, atol=2e-5)


def test_the_mixtures_score_is_the_gradient_of_its_log_density():
    gm = GaussianMixture([[0.0, 1.0], [2.0, -1.0]], [0.5, 0.2], [0.7, 0.3], VP)
    x = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    t = np.array([10.0, 200.0, 400.0, 700.0, 999.0])
    alpha, sigma = (torch.as_tensor(f(t))[:, None] for f in (VP.alpha, VP.sigma))
    spread = (alpha * gm.stds) ** 2 + sigma**2
    offset = x[:, None] - alpha[:, None] * gm.means
    log_density = (gm.weights.log() - offset.square().sum(-1) / (2 * spread) - spread.log()).logsumexp(1)
    (gradient,) = torch.autograd.grad(log_density.sum(), x)
    torch.testing.assert_close(gm(x.detach(), t).score, gradient, rtol=1e-8, atol=1e-8)


def test_a_network_is_shown_its_own_time_and_dtype():
    seen = {}

    def network(x, number):
        seen.update(dtype=x.dtype, number=number)
        return torch.zeros_like(x)

    denoiser = Denoiser(network, RectifiedFlow(), "flow_prediction", dtype=torch.bfloat16)
    assert denoiser(torch.randn(3, 2), 0.25).data.dtype == torch.float32
    assert seen["dtype"] == torch.bfloat16 and seen["number"].tolist() == [250.0] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianMixture([1.0, 2.0], 1.0, None, VP), "means"),
        (lambda: GaussianMixture([[1.0], [2.0]], 1.0, [1.0], VP), "weights"),
        (lambda: Denoiser(lambda x, t: x, VP, "eps"), "kind: 'eps'"),
        (
            lambda: GaussianMixture([[1.0], [2.0]], 1.0, None, VP).transport(torch.zeros(1, 1), 1.0, 0.0),
            "one component",
        ),
    ],
)
def test_impossible_denoisers_are_refused_by_field(make, message):
    with pytest.raises(HastenError, match=message):
        make()
