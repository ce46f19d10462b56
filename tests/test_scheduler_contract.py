"""What pipelines do with their scheduler besides stepping: copies, extras, lists of their own, look-ups."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

import hasten
from hasten.bridge import SolverScheduler
from hasten.core.errors import HastenError

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (1, 4, 8, 8)
FLOW = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
DYNAMIC = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)


def noise(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(x: Tensor, t: Any) -> Tensor:
    return 0.6 * torch.tanh(x + 0.2 * x.roll(1, -1)) + 0.2 * np.sin(float(t) / 150)


def hosted(solver: Any, config: Any = None, **settings: Any) -> SolverScheduler:
    theirs = diffusers.DDIMScheduler(**SD, clip_sample=False) if config is None else config
    return SolverScheduler.of(theirs, solver=solver, **settings)


def walked(scheduler: Any, steps: int = 6, fork: Any = None, **extra: Any) -> Tensor:
    scheduler.set_timesteps(steps)
    x, generator = noise(), torch.Generator().manual_seed(1)
    for t in scheduler.timesteps:
        scheduler = scheduler if fork is None else fork(scheduler)
        x = scheduler.step(network(x, t), t, x, generator=generator, **extra).prev_sample
    return x


def loaded(scheduler: Any) -> Any:
    return pickle.loads(pickle.dumps(scheduler))


def panorama(scheduler: Any) -> Any:
    """The state of a view is put back, after another view was stepped."""
    status = copy.deepcopy(scheduler.__dict__)
    t = scheduler.timesteps[scheduler.step_index or 0]
    scheduler.step(network(noise(9), t), t, noise(9))
    scheduler.__dict__.update(status)
    return scheduler


HOSTED = [s for s in hasten.solvers.all() if not s().adaptive]


@pytest.mark.parametrize("fork", [copy.deepcopy, loaded, panorama], ids=lambda f: f.__name__)
@pytest.mark.parametrize("solver", HOSTED, ids=lambda s: s.name)
def test_a_copy_goes_on_with_its_history(solver: Any, fork: Any) -> None:
    if fork is panorama and solver().stochastic:
        pytest.skip("the other view draws from the same generator")
    torch.testing.assert_close(walked(hosted(solver()), fork=fork), walked(hosted(solver())), rtol=1e-5, atol=1e-5)


def test_a_copy_remembers_no_more_than_it_needs() -> None:
    ours = hosted({"name": "dpm++", "order": 3})
    ours.set_timesteps(30)
    x = noise()
    for t in ours.timesteps[:20]:
        x = ours.step(network(x, t), t, x).prev_sample
    assert len(ours._walking._told) <= 4  # type: ignore[union-attr]


def test_panorama_keeps_the_run_that_caches_follow() -> None:
    ours = hosted("dpm++")
    ours.set_timesteps(4)
    run = ours.run
    panorama(ours)
    assert ours.run is run and "run" not in ours.__dict__
    assert copy.deepcopy(ours).run is not run


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("solver", ["euler", "dpm++", "unipc"])
def test_a_step_that_is_made_again(solver: str, rows: int) -> None:
    """As Cosmos does: first for the data prediction of all branches, then with the guided one."""
    config = diffusers.EDMEulerScheduler(sigma_data=1.0, final_sigmas_type="sigma_min")
    once, twice = hosted(solver, config), hosted(solver, config)
    results = []
    for scheduler in (once, twice):
        scheduler.set_timesteps(6)
        x = noise() * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            output = network(scheduler.scale_model_input(x, t), t)
            if scheduler is twice:
                many = (torch.cat([v] * rows) for v in (output, x))
                data = scheduler.step(next(many), t, next(many), return_dict=False)[1][:1]
                scheduler._step_index -= 1
                x = scheduler.step(data, t, x, return_dict=False, pred_original_sample=data)[0]
            else:
                x = scheduler.step(output, t, x, return_dict=False)[0]
        results.append(x)
        assert len(scheduler.run.past) <= 5 and scheduler.step_index == 6
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)


# --- extras


def test_eta_that_is_passed_wins() -> None:
    theirs = diffusers.DDIMScheduler(**SD, clip_sample=False)
    expected = walked(theirs, eta=0.7)
    torch.testing.assert_close(walked(hosted("ddim"), eta=0.7), expected, rtol=1e-4, atol=1e-4)
    kept = walked(hosted({"name": "ddim", "eta": 0.7}), eta=0.0)  # what pipelines pass by themselves
    torch.testing.assert_close(kept, expected, rtol=1e-4, atol=1e-4)
    said = hosted({"name": "ddim", "eta": 0.7})
    said.given = frozenset({"eta"})
    torch.testing.assert_close(walked(said, eta=0.0), walked(hosted("ddim")))


def test_clipped_model_output() -> None:
    theirs = diffusers.DDIMScheduler(**SD, clip_sample=True)
    for used in (False, True):
        expected = walked(theirs, use_clipped_model_output=used)
        got = walked(hosted("ddim", theirs), use_clipped_model_output=used)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_noise_that_is_handed_over() -> None:
    theirs = diffusers.DDIMScheduler(**SD, clip_sample=False)
    given = {"eta": 1.0, "variance_noise": noise(4)}
    results = []
    for scheduler in (theirs, hosted("ddim")):
        scheduler.set_timesteps(5)
        x = noise()
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t), t, x, **given).prev_sample
        results.append(x)
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "eta": ("euler", {"eta": 0.5}, "eta: 0.5.*'euler'"),
    "an eta that is too large": ("ddim", {"eta": 3.0}, "eta: 3.0"),
    "s_noise": ("ddim", {"s_noise": 1.1}, "s_noise: 1.1"),
    "s_churn": ("euler", {"s_churn": 5.0}, "s_churn.*'edm'"),
    "tokens": ("dpm++", {"per_token_timesteps": noise()}, "per_token_timesteps.*'euler'"),
    "tokens of a table": ("euler", {"per_token_timesteps": noise()}, "per_token_timesteps.*flow"),
    "a known picture": ("ddim", {"original_image": noise()}, "original_image: a tensor"),
    "something new": ("ddim", {"temperature": 3}, "temperature: 3"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_extras_that_are_refused_by_name(name: str) -> None:
    solver, extras, message = REFUSED[name]
    ours = hosted(solver)
    ours.set_timesteps(4)
    with pytest.raises(HastenError, match=message) as caught:
        ours.step(noise(), ours.timesteps[0], noise(), **extras)
    assert "\n" not in str(caught.value)


def test_calls_are_looked_at_before_they_are_run() -> None:
    hosted("ddim").check_call({"eta": 1.0, "denoising_end": 0.8, "prompt": "a"})
    with pytest.raises(HastenError, match=r"eta: 1\.0"):
        hosted("dpm++" if not hasattr(hasten.solvers.SOLVERS.build("dpm++"), "eta") else "euler").check_call(
            {"eta": 1.0}
        )
    with pytest.raises(HastenError, match=r"denoising_end.*'heun'"):
        hosted("heun").check_call({"denoising_end": 0.8})


def test_what_changes_nothing_is_taken() -> None:
    plain = {"eta": 0.0, "s_churn": 0.0, "s_tmin": 0.0, "s_tmax": float("inf"), "s_noise": 1.0, "variance_noise": None}
    assert torch.equal(walked(hosted("euler"), **plain), walked(hosted("euler")))


@pytest.mark.parametrize("solver", ["euler", "ddim"])
def test_tokens_with_times_of_their_own(solver: str) -> None:
    theirs, ours = copy.deepcopy(FLOW), hosted(solver, FLOW)
    x0, results = noise(0, (2, 6, 4)), []
    for scheduler in (theirs, ours):
        scheduler.set_timesteps(5)
        x, mask = x0, torch.tensor([0.0, 0.3, 1.0, 1.0, 0.6, 1.0])
        for t in scheduler.timesteps:
            numbers = torch.minimum(t, mask * 1000).expand(2, 6)
            x = scheduler.step(network(x, t), t, x, per_token_timesteps=numbers, return_dict=False)[0]
        results.append(x)
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(results[1][:, 0], x0[:, 0])  # at time 0 nothing is left to do


@pytest.mark.parametrize("kind", ["learned", "learned_range"])
def test_a_learned_variance_is_left_out(kind: str) -> None:
    ours = hosted("dpm++", diffusers.DDPMScheduler(variance_type=kind))
    plain = hosted("dpm++", diffusers.DDPMScheduler())
    x, output = noise(), noise(1, (1, 8, 8, 8))
    for scheduler in (ours, plain):
        scheduler.set_timesteps(4)
    got = ours.step(output, ours.timesteps[0], x).prev_sample
    assert torch.equal(got, plain.step(output[:, :4], plain.timesteps[0], x).prev_sample)
    with pytest.raises(HastenError, match=r"model_output.*variance_type"):
        plain.set_timesteps(4)
        plain.step(output, plain.timesteps[0], x)


# --- numbers and lists


@pytest.mark.parametrize("whole", [np.int64(4), np.int32(4), torch.tensor(4)], ids=lambda v: type(v).__name__)
def test_whole_numbers_of_any_kind(whole: Any) -> None:
    ours = hosted("dpm++")
    ours.set_timesteps(whole)
    assert len(ours.timesteps) == 4
    ours.set_begin_index(np.int64(1))
    x = noise()
    for t in ours.timesteps[1:]:
        x = ours.step(network(x, t), t, x).prev_sample
    with pytest.raises(HastenError):
        ours.set_timesteps(np.float64(4.0))


def mochi(count: int, threshold: float = 0.025) -> list[float]:
    half = count // 2
    left = count - half
    slope = threshold / half
    bend = (1 - threshold - slope * left) / left**2
    return [1 - slope * i for i in range(half)] + [1 - threshold - slope * i - bend * i * i for i in range(left)]


WHOLE = np.linspace(1000, 1, 6).astype(int)
GLM = np.linspace(1000, 1, 7)[:-1].astype(int)
FILLED: dict[str, dict[str, Any]] = {
    "flux": {"sigmas": np.linspace(1, 1 / 6, 6).tolist()},
    "hunyuan": {"sigmas": np.linspace(1, 0, 7)[:-1]},
    "cogview4": {"timesteps": WHOLE.tolist(), "sigmas": (WHOLE / 1000).tolist()},
    "glm": {"timesteps": GLM.tolist(), "sigmas": (GLM / 1000).tolist()},
    "mochi": {"sigmas": mochi(6)},
    "ltx": {"sigmas": mochi(7, 0.1)},
}
CALLERS = {"sigmas": [1.0, 0.7, 0.65, 0.2, 0.1, 0.02]}


@pytest.mark.parametrize("name", FILLED)
def test_a_grid_wins_over_what_pipelines_fill_in(name: str) -> None:
    count = len(FILLED[name]["sigmas"])
    for given in (None, frozenset(), frozenset({"eta"})):
        ours, alone = hosted("euler", DYNAMIC, grid="karras"), hosted("euler", DYNAMIC, grid="karras")
        ours.given = given
        ours.set_timesteps(mu=0.5, **FILLED[name])
        alone.set_timesteps(count, mu=0.5)
        assert torch.equal(ours.sigmas, alone.sigmas) and torch.equal(ours.timesteps, alone.timesteps)
    ours.given = frozenset({"sigmas"})  # the caller's, though it looks like a pipeline's
    ours.set_timesteps(mu=0.5, **FILLED[name])
    assert not torch.allclose(ours.sigmas, alone.sigmas, atol=1e-2)


def test_what_the_caller_passes_wins_over_a_grid() -> None:
    plain, chosen = hosted("euler", DYNAMIC), hosted("euler", DYNAMIC, grid="karras")
    plain.set_timesteps(mu=0.5, **CALLERS)
    for given in (None, frozenset({"sigmas"})):
        chosen.given = given
        chosen.set_timesteps(mu=0.5, **CALLERS)
        assert torch.equal(chosen.sigmas, plain.sigmas)
    chosen.given = frozenset()
    chosen.set_timesteps(mu=0.5, **CALLERS)
    assert not torch.allclose(chosen.sigmas, plain.sigmas, atol=1e-2)


@pytest.mark.parametrize("solver", ["heun", "edict", {"name": "heun", "a": 0.5}, "dpm++"])
def test_numbers_and_levels_together_with_further_queries(solver: Any) -> None:
    ours = hosted(solver, DYNAMIC)
    ours.set_timesteps(mu=0.5, **FILLED["cogview4"])
    starts = [q.stage == 0 for q in ours._layout.queries]  # type: ignore[union-attr]
    assert ours.timesteps[torch.tensor(starts)].tolist() == pytest.approx(WHOLE.tolist())
    assert (ours.timesteps.diff() <= 0).all() and ours.timesteps[-1] > 0
    assert torch.isfinite(ours.step(noise(), ours.timesteps[0], noise()).prev_sample).all()


@pytest.mark.parametrize("start", [1, 3, 5])
def test_a_pipeline_that_begins_inside_a_step(start: int) -> None:
    """Some cut their timesteps without regard to `order`: told by which element of them comes first."""
    ours = hosted("heun")
    ours.set_timesteps(6)
    with pytest.raises(HastenError, match="inside step"):
        ours.scale_model_input(noise(), next(iter(ours.timesteps[start:])))
    ours.set_timesteps(6)
    with pytest.raises(HastenError, match="inside step"):
        ours.step(noise(), next(iter(ours.timesteps[start:])), noise())


# --- look-ups


def test_tables_are_those_of_diffusers() -> None:
    theirs = diffusers.DDIMScheduler(**SD, set_alpha_to_one=False)
    ours = hosted("ddim", theirs)
    for name in ("alphas_cumprod", "alphas", "betas", "final_alpha_cumprod"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours._get_variance(500, 480), theirs._get_variance(500, 480), rtol=1e-3, atol=1e-6)
    euler = diffusers.EulerDiscreteScheduler(**SD)
    mine = hosted("euler", euler)
    for scheduler in (euler, mine):
        scheduler.set_timesteps(7)
    assert mine.index_for_timestep(mine.timesteps[3]) == euler.index_for_timestep(euler.timesteps[3]) == 3
    assert int(mine.previous_timestep(mine.timesteps[-1])) == -1


def test_what_is_not_there_is_said() -> None:
    ours = hosted("dpm++")
    assert not hasattr(ours, "model_outputs") and getattr(ours, "lower_order_nums", 7) == 7
    with pytest.raises(HastenError, match=r"model_outputs.*leave solver and grid out"):
        _ = ours.model_outputs
    with pytest.raises(AttributeError):
        _ = ours.model_outputs
    assert ours.num_train_timesteps == 1000
