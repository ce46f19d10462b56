"""Samplers of distilled networks: diffusers' schedulers on the same input, exact flow maps, special cases, refusals."""

from __future__ import annotations

import math
import warnings
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

import hasten
from hasten import sample
from hasten.bridge import SolverScheduler
from hasten.core.errors import HastenError
from hasten.denoisers import GaussianMixture
from hasten.grids import GRIDS, ConsistencyLevels, LatentConsistency, SanaSprint, schedule
from hasten.predictions import Prediction, Reading, reading_of
from hasten.processes import OneSided, RectifiedFlow, TrigFlow, VarianceExploding, VariancePreserving
from hasten.sampling import sample_many, seeded_noise
from hasten.solvers import DDIM, LCM, SCM, SOLVERS, TCD, Consistency, HeavyBall, UniPC

VP, FLOW, VE, TRIG = VariancePreserving(), RectifiedFlow(), VarianceExploding(), TrigFlow()
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ALL = [LCM(), Consistency(), TCD(), SCM()]
COUNTS = pytest.mark.parametrize("steps", [1, 2, 4, 8])


def net(x, number):
    """A nonlinear answer that looks at the number it is shown."""
    return torch.tanh(0.7 * x) + 0.3 * torch.sin(2 * x.roll(1, -1)) + 0.2 * math.sin(float(number) / 150)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def images(seed=1):
    return normal(2, 4, 8, 8, seed=seed, dtype=torch.float32)


def close(a, b, tolerance=2e-5):
    assert (a - b).abs().max().item() <= tolerance * b.abs().max().item()


def scheduled(scheduler: Any, steps, x, step=None, **arguments):
    """The loop of a pipeline; its last state and the numbers that the network was shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler.set_timesteps(steps, **arguments)
    generator = torch.Generator().manual_seed(5)
    numbers = list(scheduler.timesteps)[: -1 if isinstance(scheduler, diffusers.SCMScheduler) else None]
    for t in numbers:
        shown = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(net(shown, t), t, x, generator=generator, return_dict=False, **(step or {}))[0]  # type: ignore[arg-type]
    return x, torch.stack(numbers).double()


def drawn(like):
    """Noise as a scheduler's generator gives it: one draw after the other, in the order of the steps."""
    generator, kept = torch.Generator().manual_seed(5), []

    def noise(step):
        while len(kept) <= step:
            kept.append(torch.randn(like.shape, dtype=like.dtype, generator=generator))
        return kept[step]

    return noise


def walked(solver, reading, x, times, change=None):
    """The walk with the same network, noise as `drawn`, and the output read as said; and the numbers shown."""
    process, numbers = reading.process, []
    walk = solver.walk(process, times, x, drawn(x))
    try:
        query = next(walk)
        while True:
            numbers.append(float(process.network_time(query.t)))
            sigma = float(process.sigma(query.t))
            output = net(reading.input(query.x, sigma), numbers[-1])
            p = reading.at(query.x, output, float(process.alpha(query.t)), sigma)
            query = walk.send(p if change is None else change(p))
    except StopIteration as done:
        return done.value, np.array(numbers)


# --- diffusers


@COUNTS
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    ("theirs", "solver", "step"),
    [
        (diffusers.LCMScheduler, "lcm", {}),
        (diffusers.TCDScheduler, "tcd", {}),
        *((diffusers.TCDScheduler, {"name": "tcd", "gamma": g}, {"eta": g}) for g in (0.0, 0.5, 1.0)),
    ],
)
def test_latent_and_trajectory_consistency_are_diffusers(theirs, solver, step, kind, steps):
    scheduler = theirs(**SD, prediction_type=kind)
    ours = SolverScheduler.from_config(scheduler.config, solver=solver, grid="lcm")
    (got, shown), (expected, numbers) = scheduled(ours, steps, images()), scheduled(scheduler, steps, images(), step)
    assert torch.equal(shown, numbers)
    close(got, expected)


@pytest.mark.parametrize("scaling", [0.01, 1.0])
def test_the_boundary_condition_is_diffusers_where_it_matters(scaling):
    scheduler = diffusers.LCMScheduler(**SD, timestep_scaling=scaling)
    solver = LCM(timestep_scaling=scaling)
    ours = SolverScheduler.from_config(scheduler.config, solver=solver, grid="lcm")
    expected = scheduled(scheduler, 8, images())[0]
    close(scheduled(ours, 8, images())[0], expected)
    assert (scheduled(ours.from_config(ours.config, solver="lcm"), 8, images())[0] - expected).abs().max() > 1e-4
    assert LCM().landing(VP, 1.0, 0.0) == (1.0, 0.0)  # f(x, 0) = x


@COUNTS
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_lcm_on_a_flow_is_diffusers_flow_match_lcm(shift, steps):
    scheduler = diffusers.FlowMatchLCMScheduler(shift=shift)
    ours = SolverScheduler.from_config(scheduler.config, solver="flow-lcm")
    (got, shown), (expected, numbers) = scheduled(ours, steps, images()), scheduled(scheduler, steps, images())
    torch.testing.assert_close(shown, numbers, rtol=1e-6, atol=0)
    close(got, expected)


@COUNTS
@pytest.mark.parametrize("clip", [False, True])
def test_consistency_sampling_is_diffusers(clip, steps):
    scheduler = diffusers.CMStochasticIterativeScheduler(clip_denoised=clip, s_noise=1.01)
    x = images() * 80
    expected, _ = scheduled(scheduler, steps, x)
    reading = Reading(Shown(), "epsilon", sigma_data=0.5, boundary=0.002)
    times = schedule("consistency", VE, steps)
    clamp = (lambda p: p.with_data(p.data.clamp(-1, 1))) if clip else None
    got, numbers = walked(Consistency(s_noise=1.01), reading, x, times, clamp)
    np.testing.assert_allclose(numbers, scheduler.timesteps.double(), rtol=1e-5)
    np.testing.assert_allclose(times[:-1], scheduler.sigmas[:-1], rtol=1e-5)
    close(got, expected, 1e-4)


class Shown(VarianceExploding):
    """Consistency models are shown a thousand times what EDM shows."""

    def network_time(self, t):
        return 1000 * super().network_time(t)


@COUNTS
def test_scm_is_diffusers(steps):
    scheduler = diffusers.SCMScheduler()
    more = {} if steps == 2 else {"intermediate_timesteps": None}
    x = images() * 0.5
    expected, numbers = scheduled(scheduler, steps, x, **more)
    got, shown = walked(SCM(), reading_of(TRIG, scheduler.config), x, schedule("scm", TRIG, steps))
    np.testing.assert_allclose(shown, numbers, rtol=1e-6)
    close(got, expected)


def test_readings_invert():
    x, data = normal(3, 4), normal(3, 4, seed=1)
    for reading in (reading_of(TRIG, {}), Reading(VE, "epsilon", 0.5, boundary=0.002)):
        t = 0.6 * reading.process.t_max
        shown = reading.input(x, float(reading.process.sigma(t)))
        close(reading.shown(shown, reading.output(data, shown, t), t).data, data, 1e-12)
    at_floor = Reading(VE, "epsilon", 0.5, boundary=0.002).at(x, data, 1.0, 0.002)
    assert torch.equal(at_floor.data, x)
    with pytest.raises(HastenError, match="prediction_type: 'epsilon'"):
        reading_of(TRIG, {"prediction_type": "epsilon"})


def test_the_output_on_trigflow_is_the_slope_of_the_state():
    x0, eps, t, h = normal(3, 4), normal(3, 4, seed=1), 0.9, 1e-6
    state = lambda t: float(TRIG.alpha(t)) * x0 + float(TRIG.sigma(t)) * eps  # noqa: E731
    slope = (state(t + h) - state(t - h)) / (2 * h)
    p = reading_of(TRIG, {}).at(state(t), slope, float(TRIG.alpha(t)), float(TRIG.sigma(t)))
    close(p.data, x0, 1e-8)
    close(p.noise, eps, 1e-8)


# --- grids


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8, 25, 50])
@pytest.mark.parametrize(("of", "strength"), [(50, 1.0), (50, 0.5), (50, 0.63), (30, 1.0), (999, 0.9)])
def test_levels_of_latent_consistency_are_diffusers(of, strength, steps):
    theirs, grid = diffusers.LCMScheduler(original_inference_steps=of), LatentConsistency(of, strength)
    if steps > int(of * strength):
        with pytest.raises(HastenError, match=f"{steps} times are more than the {int(of * strength)} levels"):
            grid.times(VP, steps)
        return
    theirs.set_timesteps(steps, strength=strength)
    np.testing.assert_array_equal(VP.network_time(grid.times(VP, steps)), theirs.timesteps)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 25, 40])
def test_levels_of_consistency_models_are_diffusers(steps):
    theirs = diffusers.CMStochasticIterativeScheduler()
    theirs.set_timesteps(steps)
    np.testing.assert_allclose(ConsistencyLevels().times(VE, steps), theirs.sigmas[:-1], rtol=1e-5)


def test_two_times_of_sana_sprint_are_its_own():
    np.testing.assert_allclose(schedule("scm", TRIG, 2), [1.5708, 1.3, 0], rtol=1e-12)
    np.testing.assert_allclose(schedule(SanaSprint(None), TRIG, 2), [1.5708, 0.7854, 0], rtol=1e-12)
    np.testing.assert_allclose(schedule("scm", TRIG, 4), np.linspace(1.5708, 0, 5), rtol=1e-12)


# --- what they are


def mixture(process):
    """Two Gaussians of total standard deviation around .5."""
    return GaussianMixture([[0.5, -0.2], [-0.4, 0.3]], [0.2, 0.3], [0.6, 0.4], process)


class Exact:
    """The flow map of a mixture: answers with the end of the ODE's path, by a fine solve, down to `floor`."""

    def __init__(self, process, floor=0.0, steps=40):
        self.process, self.inside, self.floor, self.steps = process, mixture(process), floor, steps

    def __call__(self, x, t):
        lam = float(self.process.lam(t)) if t < self.process.t_max else float(self.process.lam(t * 0.999))
        end = -math.log(self.floor) if self.floor else 7.0
        times = self.process.time(np.linspace(min(lam, end - 1e-6), end, self.steps + 1))
        times[0] = t
        times = times if self.floor else np.append(times, 0.0)
        a, s = float(self.process.alpha(t)), float(self.process.sigma(t))
        return Prediction(x, a, s, sample(self.inside, x, UniPC(order=3), grid=times), "sample")


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize(
    ("solver", "process", "grid"),
    [
        (LCM(), VP, "lcm"), (LCM(), FLOW, "trailing"), (SCM(), TRIG, "scm"), (SCM(), OneSided("vp"), "trailing"),
        (Consistency(floor=0.1), VE, "consistency"), (TCD(gamma=1.0), FLOW, "lcm"),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "name", type(value).__name__),
)  # fmt: skip
def test_with_the_exact_flow_map_samples_are_of_the_data(solver, process, grid, steps):
    """Means and covariances within 4.5 standard errors, at any number of jumps."""
    floor = getattr(solver, "floor", 0.0)
    model, rows = Exact(process, floor), 20_000
    times = schedule(grid, process, steps)
    data = model.inside.sample(rows, torch.Generator().manual_seed(2))
    first = float(process.alpha(times[0])) * data + float(process.sigma(times[0])) * normal(rows, 2, seed=3)
    got = sample(model, first, solver, grid=times, seed=4)
    means, stds, weights = model.inside.means, model.inside.stds, model.inside.weights
    mean = weights @ means
    second = torch.einsum("k,ki,kj->ij", weights, means, means) + (weights * stds**2).sum() * torch.eye(2)
    covariance = second - torch.outer(mean, mean) + floor**2 * torch.eye(2)
    off = got - mean
    products = torch.einsum("ni,nj->nij", off, off)
    assert ((off.mean(0) / (off.std(0) / rows**0.5)).abs() < 4.5).all()
    errors = (products.mean(0) - covariance) / (products.std(0) / rows**0.5)
    assert (errors.abs() < 4.5).all()


def test_a_network_that_was_not_distilled_gives_another_distribution_at_any_number_of_steps():
    """The mean of many images in place of one: what the warning is about, and why their order is 0."""
    truth = mixture(FLOW).sample(20_000, torch.Generator().manual_seed(1)).var(0)
    for steps in (1, 4, 16, 64):
        got = sample(mixture(FLOW), normal(4000, 2), SCM(), steps, "trailing").var(0)
        assert (got < 0.9 * truth).all()
    for solver in ALL:
        assert solver.convergence == 0 and "distilled" in solver.warning and not solver.search_space
    assert TCD(gamma=0.0).convergence == 1


@pytest.mark.parametrize("process", [VP, FLOW, VE, TRIG], ids=lambda p: type(p).__name__)
def test_one_jump_is_the_data_prediction(process):
    x, model = normal(5, 2) * process.start_scale, mixture(process)
    data = model(x, process.t_max).data
    for solver in (Consistency(), SCM(), TCD(clean=True)):
        assert torch.equal(sample(model, x, solver, 1, "trailing"), data)
    if process is VP:
        skip, out = LCM().landing(VP, 1000.0, 0.0)
        assert 0 < skip < 1e-8 and 1 - out < 1e-8
        close(sample(model, x, LCM(), 1, "lcm"), skip * x + out * data, 1e-12)
    else:
        assert torch.equal(sample(model, x, LCM(), 1, "lcm"), data)


def test_no_share_of_fresh_noise_is_ddim_and_all_of_it_is_lcm():
    x = normal(50, 2)
    for process in (VP, FLOW):
        run = {"steps": 6, "grid": "lcm"}
        ddim, lcm = (sample(mixture(process), x, solver, **run) for solver in (DDIM(), LCM(timestep_scaling=1e9)))
        close(sample(mixture(process), x, TCD(gamma=0.0, clean=True), **run), ddim, 1e-11)
        near = sample(mixture(process), x, TCD(gamma=1.0, clean=True), **run)
        lowest = float(process.sigma(process.t_min))
        assert 0 < (near - lcm).abs().max() < 6 * lowest  # it jumps to the lowest level, not to data
        assert (near - ddim).abs().max() > 30 * lowest * (process is FLOW)
    assert torch.equal(sample(mixture(FLOW), x, SCM(), 5), sample(mixture(FLOW), x, LCM(), 5))


def test_a_run_of_tcd_ends_at_the_lowest_training_step():
    x, times = normal(5, 2), [1000.0, 520.0, 0.0]
    seen = []
    got = sample(mixture(VP), x, TCD(gamma=0.4), grid=times, callback=lambda q, p: seen.append(p))
    close(got, float(VP.alpha(1.0)) * seen[-1].data + float(VP.sigma(1.0)) * seen[-1].noise, 1e-12)
    assert torch.equal(sample(mixture(VP), x, TCD(gamma=0.4, clean=True), grid=times), seen[-1].data)
    assert TCD(gamma=0.4).target(VP, 520.0) == math.floor(0.6 * 519) + 1
    assert TCD(gamma=0.9).target(VP, 11.0) == 2.0  # .1 times 10


@pytest.mark.parametrize("process", [VP, FLOW, VE, TRIG], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("solver", [*ALL, TCD(gamma=0.8, clean=True), Consistency(floor=0.3)], ids=str)
def test_the_true_data_keeps_every_marginal(solver, process):
    """With D = x0 for good: mean alpha_t x0, variance sigma_t^2; less what is said to be left in D."""
    x0, eps = torch.full((1, 1), 0.7, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    times = schedule("lcm", process, 5)
    a0, s0 = float(process.alpha(times[0])), float(process.sigma(times[0]))

    def states(x, fresh):
        seen = []

        def known(x, t):
            seen.append(x.item())
            return Prediction(x, float(process.alpha(t)), float(process.sigma(t)), x0, "sample")

        walk = solver.walk(process, times, x, lambda i: eps * (i == fresh))
        try:
            query = next(walk)
            while True:
                query = walk.send(known(query.x, query.t))
        except StopIteration as done:
            return np.array([*seen, done.value.item()])

    mean = states(a0 * x0, None)
    shares = [states(a0 * x0 + s0 * eps, None), *(states(a0 * x0, i) for i in range(5))]
    end = process.t_min if isinstance(solver, TCD) and not solver.clean else 0.0
    at = np.append(times[:-1], end)
    floor = np.where(np.arange(6) > 0, getattr(solver, "floor", 0.0), 0.0)
    tolerance = 1e-4 if isinstance(solver, LCM) and process.discrete else 1e-9  # the state's share at the boundary
    np.testing.assert_allclose(mean, process.alpha(at) * 0.7, rtol=0, atol=tolerance)
    expected = np.maximum(process.sigma(at) ** 2 - (process.alpha(at) * floor) ** 2, 0)
    np.testing.assert_allclose(sum((s - mean) ** 2 for s in shares), expected, rtol=1e-7, atol=tolerance)


# --- noise, batches, hosts


@pytest.mark.parametrize("solver", ALL, ids=str)
def test_noise_is_asked_once_a_jump_and_replays(solver):
    x, asked = normal(4, 2), []
    draw = seeded_noise(x, 7)

    def noise(step):
        asked.append(step)
        return draw(step)

    def run(times):
        walk, states = solver.walk(FLOW, np.array(times), x, noise), []
        try:
            query = next(walk)
            while True:
                states.append(query.x)
                query = walk.send(mixture(FLOW)(query.x, query.t))
        except StopIteration as done:
            return [*states, done.value]

    few, many = run([1.0, 0.7, 0.3, 0.0]), run([1.0, 0.7, 0.5, 0.3, 0.2, 0.0])
    assert asked == [0, 1, 0, 1, 2, 3]  # the last jump draws none
    assert torch.equal(few[1], many[1]) and not torch.equal(few[2], many[2])
    assert all(torch.equal(a, b) for a, b in zip(many, run([1.0, 0.7, 0.5, 0.3, 0.2, 0.0])))


def test_many_walks_at_once_are_each_alone():
    runs = [
        {"noise": normal(2, 2, seed=i), "solver": solver, "steps": 2 + i, "grid": "lcm", "seed": i}
        for i, solver in enumerate([*ALL, "flow-lcm"])
    ]
    for process in (VP, FLOW):
        for run, got in zip(runs, sample_many(mixture(process), runs)):
            torch.testing.assert_close(got, sample(mixture(process), **run), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", ALL, ids=str)
def test_a_batch_of_a_scheduler_is_its_single_images(solver):
    def run(x, seeds):
        scheduler = SolverScheduler.from_config(diffusers.LCMScheduler(**SD).config, solver=solver, grid="lcm")
        scheduler.set_timesteps(4)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t), t, x, generator=generators).prev_sample
        return x

    x = images()
    assert torch.equal(run(x, (3, 9)), torch.cat([run(x[:1], (3,)), run(x[1:], (9,))]))


def test_half_precision_is_stepped_in_float32():
    x, model = images().bfloat16(), mixture(FLOW)
    model.means = normal(2, 4, 8, 8)
    for solver in ALL:
        got = sample(model, x, solver, 4, "lcm")
        assert got.dtype == torch.bfloat16
        assert torch.equal(got, sample(model, x.float(), solver, 4, "lcm").bfloat16())


# --- refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TCD(gamma=1.2), "gamma: 1.2"),
        (lambda: TCD(gamma=float("nan")), "gamma: nan"),
        (lambda: LCM(timestep_scaling=0.0), "timestep_scaling: 0.0"),
        (lambda: LCM(sigma_data=float("inf")), "sigma_data: inf"),
        (lambda: Consistency(floor=-0.1), "floor: -0.1"),
        (lambda: Consistency(s_noise=float("nan")), "s_noise: nan"),
        (lambda: SOLVERS.build({"name": "tcd", "eta": 0.3}), "tcd: 'eta'"),
        (lambda: HeavyBall("lcm"), "'lcm' has no slope"),
        (lambda: sample(mixture(VP), normal(2, 2), HeavyBall(TCD(gamma=0.0)), 4), "no one kind of slope"),
        (lambda: hasten.invert(mixture(VP), normal(2, 2), LCM(), 4), "draws noise"),
        (lambda: schedule("lcm", VP, 51), "51 times are more than the 50 levels"),
        (lambda: schedule("consistency", VE, 41), "41 times are more than the 40 levels"),
        (lambda: schedule(LatentConsistency(of=2000), VP, 4), "of: 2000 is more than the 1000 training steps"),
        (lambda: LatentConsistency(of=0), "of: 0"),
        (lambda: LatentConsistency(strength=0.0), "strength: 0.0"),
        (lambda: ConsistencyLevels(of=2.5), "of: 2.5"),  # type: ignore[arg-type]
        (lambda: SanaSprint(1.6), "middle: 1.6"),
        (lambda: TrigFlow(sigma_data=0.0), "sigma_data: 0.0"),
        (lambda: TrigFlow(t_max=2.0), "t_max: 2.0"),
    ],
)
def test_impossible_settings_are_refused_by_field(make, message):
    with pytest.raises(HastenError, match=message):
        make()


def test_recipes_name_them():
    for spec in ("lcm", "flow-lcm", "scm", "consistency", {"name": "tcd", "gamma": 0.5}):
        recipe = hasten.Recipe(solver=spec, steps=4, grid="lcm")
        assert hasten.Recipe.from_json(recipe.to_json()) == recipe
    assert GRIDS.build({"name": "lcm", "of": 25}) == LatentConsistency(25)
