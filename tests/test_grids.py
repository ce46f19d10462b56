"""Where a run asks the network."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_processes import PROCESSES

from hasten.core.errors import HastenError
from hasten.grids import GRIDS, Bent, FlowShifted, Karras, Uniform, resolve, schedule
from hasten.processes import RectifiedFlow, VarianceExploding, VariancePreserving

NAMES = [name for name in GRIDS.names() if name != "explicit"]


@settings(max_examples=300, deadline=None)
@given(
    process=st.sampled_from(list(PROCESSES.values())), name=st.sampled_from(NAMES), steps=st.integers(1, 60),
    end=st.sampled_from(["data", "min"]),
)  # fmt: skip
def test_every_grid_falls_within_every_process(process, name, steps, end):
    steps = min(steps, getattr(resolve(name), "of", 61) - 1)  # some have so many levels and no more
    times = schedule(name, process, steps, end)
    assert len(times) == steps + 1 and (np.diff(times) < 0).all()
    assert 0 < times[0] <= process.t_max and (times[-1] == 0 if end == "data" else times[-1] > 0)


@pytest.mark.parametrize("steps", [1, 3, 7, 10, 20, 50, 999])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_uniform_spacings_are_diffusers_own(spacing, steps):
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(timestep_spacing=spacing, steps_offset=1 if spacing == "leading" else 0)
    theirs.set_timesteps(steps)
    process = VariancePreserving()
    ours = Uniform(spacing, offset=1 if spacing == "leading" else 0).times(process, steps)
    if (spacing, steps) == ("linspace", 1):  # diffusers starts a single step at the clean end; we at the noisy one
        assert ours == [1000]
    else:
        np.testing.assert_array_equal(process.network_time(ours), theirs.timesteps)


def test_karras_times_are_diffusers_own():
    from diffusers import EulerDiscreteScheduler

    theirs = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, use_karras_sigmas=True
    )
    theirs.set_timesteps(12)
    process = VariancePreserving()
    ours = schedule("karras", process, 12)
    np.testing.assert_allclose((process.sigma(ours) / process.alpha(ours)), theirs.sigmas.double(), rtol=2e-4)


def test_karras_on_edm_is_the_papers_formula():
    i = np.arange(18)
    paper = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(Karras().times(VarianceExploding(), 18), paper, rtol=1e-9)


def test_bent_gaps_follow_the_exponential_of_their_cubic():
    process, grid = VariancePreserving(), Bent(slope=0.3, curve=-0.4, twist=0.2, rest=0.5)
    gaps = np.diff(np.append(process.lam(grid.times(process, 9)), process.lam(process.t_min)))
    u = np.linspace(-1, 1, 9)[1:]
    cubic = 0.3 * u - 0.4 * (2 * u**2 - 1) + 0.2 * (4 * u**3 - 3 * u)
    np.testing.assert_allclose(np.log(gaps[1:-1] / gaps[0]), cubic[1:] - cubic[0], rtol=1e-6)
    np.testing.assert_allclose(gaps[-1], 0.5 * gaps[:-1].mean(), rtol=1e-6)
    np.testing.assert_allclose(Bent(rest=0).times(process, 9), schedule("logsnr", process, 8, end="min"), rtol=1e-6)


def test_flow_grids_are_diffusers_own():
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / 8, 8).tolist())
    shifted_process = RectifiedFlow(shift=3.0)
    by_process = shifted_process.sigma(schedule("trailing", shifted_process, 8))
    by_grid = schedule(FlowShifted(3.0), RectifiedFlow(), 8)
    np.testing.assert_allclose(by_process, theirs.sigmas, rtol=1e-6)
    np.testing.assert_allclose(by_grid, theirs.sigmas, rtol=1e-6, atol=1e-9)


def test_cosine_schedule_with_karras_times_works():
    """diffusers raises an IndexError for this pair."""
    process = VariancePreserving.from_betas("squaredcos_cap_v2")
    assert np.isfinite(schedule("karras", process, 20)).all()


@pytest.mark.parametrize(
    ("grid", "steps", "message"),
    [
        ("karas", 5, "did you mean 'karras'"),
        ({"name": "karras", "rhoo": 3}, 5, "did you mean 'rho'"),
        ({"name": "karras", "rho": -1}, 5, "rho"),
        ({"name": "bent", "rest": -1}, 5, "rest: -1"),
        ({"name": "karras", "rho": "x"}, 5, "rho: 'x'"),
        ("logsnr", 0, "steps: 0"),
        ("logsnr", 2.5, "steps: 2.5"),
        ([1.0, 5.0], 5, "fall steadily"),
        ([2000.0, 5.0], 5, "1000"),
        ([5.0], 5, "at least two"),
        ("trailing", 1001, "1000 training steps"),
    ],
)
def test_impossible_grids_are_refused_by_field(grid, steps, message):
    with pytest.raises(HastenError, match=message):
        schedule(grid, VariancePreserving(), steps)


@pytest.mark.parametrize("name", NAMES)
def test_description_builds_the_same_grid(name):
    grid = resolve(name)
    assert GRIDS.build(GRIDS.describe(grid)) == grid
