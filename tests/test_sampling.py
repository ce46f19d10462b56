"""Hosts of walks: many at once equal one by one, seeds replay, half precision, denoisers."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from hasten import sample
from hasten.core.errors import HastenError
from hasten.denoisers import Denoiser, GaussianMixture
from hasten.processes import Cosine, RectifiedFlow, VarianceExploding, VariancePreserving
from hasten.sampling import Walks, sample_many, seeded_noise
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


# --- walks that come and go


def answered(walks, denoiser, rounds=None):
    """Answer what waits until nothing does, or so many rounds; how many rows each call had."""
    rows = []
    while walks.waiting and (rounds is None or rounds > 0):
        for batch in walks.batches():
            rows.append(len(batch.x))
            walks.answer(batch, denoiser(batch.x, batch.t))
        rounds = None if rounds is None else rounds - 1
    return rows


def test_walks_that_join_late_or_leave_early_do_not_change_the_others():
    denoiser = small_network(VP)
    every = runs()[:6]
    walks = Walks(VP)
    first = [walks.add(run) for run in every[:4]]
    answered(walks, denoiser, rounds=2)
    late = [walks.add(run) for run in every[4:]]
    walks.drop(first[1])
    answered(walks, denoiser, rounds=1)
    walks.drop(late[0])
    walks.drop(late[0])
    answered(walks, denoiser)
    assert not walks.errors and set(walks.results) == {first[0], first[2], first[3], late[1]}
    for index, run in zip((*first, *late), every):
        if index in walks.results:
            torch.testing.assert_close(walks.results[index], sample(denoiser, **run), rtol=1e-6, atol=1e-6)
    walks.drop(first[0])
    assert first[0] not in walks.results and walks.add(every[0]) == 6, "an index is never used twice"


def test_a_walk_dropped_during_its_call_is_passed_over():
    denoiser = small_network(VP)
    walks = Walks(VP)
    one, other = (walks.add(run) for run in runs()[:2])
    (batch,) = walks.batches()
    walks.drop(one)
    walks.answer(batch, denoiser(batch.x, batch.t))
    answered(walks, denoiser)
    assert set(walks.results) == {other}
    torch.testing.assert_close(walks.results[other], sample(denoiser, **runs()[1]), rtol=1e-6, atol=1e-6)


@dataclass(frozen=True)
class Failing(DDIM):
    """DDIM that raises before its query number `at`, and becomes infinite there if told so."""

    at: int = 0
    diverges: bool = False
    name = "failing"

    def walk(self, process, times, x, noise):
        inner = super().walk(process, times, x, noise)
        query, count = next(inner), 0
        while True:
            if count == self.at:
                if not self.diverges:
                    raise RuntimeError(f"query {count}")
                query = query._replace(x=query.x / 0)
            prediction, count = (yield query), count + 1
            try:
                query = inner.send(prediction)
            except StopIteration as done:
                return done.value


@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_walk_that_fails_ends_alone_with_its_reason(at):
    denoiser, every = small_network(VP), runs()[:3]
    walks = Walks(VP)
    indices = [walks.add(run) for run in (every[0], every[1] | {"solver": Failing(at=at), "steps": 6}, every[2])]
    answered(walks, denoiser)
    assert set(walks.errors) == {indices[1]} and str(walks.errors[indices[1]]) == f"query {at}"
    for index, run in ((indices[0], every[0]), (indices[2], every[2])):
        torch.testing.assert_close(walks.results[index], sample(denoiser, **run), rtol=1e-6, atol=1e-6)
    with pytest.raises(RuntimeError, match=f"query {at}"):
        sample_many(denoiser, [every[0], every[1] | {"solver": Failing(at=at), "steps": 6}])


@pytest.mark.parametrize("check", [True, False])
def test_a_walk_that_diverges_is_noticed_where_that_is_asked_for(check):
    denoiser, every = small_network(VP), runs()[:2]
    walks = Walks(VP, check_finite=check)
    sound, broken = walks.add(every[0]), walks.add(every[1] | {"solver": Failing(at=2, diverges=True), "steps": 6})
    answered(walks, denoiser)
    torch.testing.assert_close(walks.results[sound], sample(denoiser, **every[0]), rtol=1e-6, atol=1e-6)
    if check:
        assert isinstance(walks.errors[broken], HastenError) and broken not in walks.results
        assert str(walks.errors[broken]).startswith("the state at step 3 of 6 has values that are not finite")
    else:
        assert not walks.errors and not walks.results[broken].isfinite().all()


def test_a_result_that_is_not_finite_is_noticed_too():
    class Broken:
        process = VP

        def __call__(self, x, t):
            return small_network(VP)(x * np.nan, t)

    walks = Walks(VP, check_finite=True)
    index = walks.add({"noise": torch.zeros(1, 4, dtype=torch.float64), "solver": "ddim", "steps": 1})
    answered(walks, Broken())
    assert str(walks.errors[index]).startswith("the result has values that are not finite")


def test_bad_runs_are_refused_when_they_are_added():
    walks = Walks(VP)
    for run, message in (
        ({"noise": torch.zeros(1, 4), "step": 3}, "did you mean 'steps'"),
        ({"noise": torch.full((1, 4), torch.inf)}, "noise: the start state"),
        ({"noise": torch.zeros(1, 4), "steps": 0}, "steps: 0"),
    ):
        with pytest.raises(HastenError, match=message):
            walks.add(run)
    assert not walks.waiting and not walks.errors and walks.add({"noise": torch.zeros(1, 4)}) == 0
