"""What noise does to data: identities that every process must keep."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hasten.core.errors import HastenError
from hasten.processes import (
    Cosine,
    MeanReverting,
    OneSided,
    PFGMPlusPlus,
    RectifiedFlow,
    TrigFlow,
    VarianceExploding,
    VariancePreserving,
    from_config,
    table_betas,
    zero_terminal,
)

PROCESSES = {
    "sd": VariancePreserving(),
    "linear": VariancePreserving.from_betas("linear", 1e-4, 0.02),
    "squaredcos": VariancePreserving.from_betas("squaredcos_cap_v2"),
    "zero-snr": VariancePreserving.from_betas(zero_terminal_snr=True),
    "edm": VarianceExploding(),
    "flow": RectifiedFlow(),
    "flow-shift-3": RectifiedFlow(shift=3.0),
    "cosine": Cosine(),
    "pfgm++": PFGMPlusPlus(),
    "mean-reverting": MeanReverting(),
    "trigflow": TrigFlow(),
    "trigflow-unit": TrigFlow(1.0, 1.5),
    **{f"one-sided-{path}": OneSided(path) for path in ("linear", "trig", "vp")},
}
each = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


@each
@settings(max_examples=50, deadline=None)
@given(part=st.floats(1e-4, 1.0))
def test_time_inverts_lam_and_network_time_inverts(process, part):
    t = process.t_min + part * (process.t_max - process.t_min)
    assert process.time(process.lam(t)) == pytest.approx(t, rel=1e-9)
    assert process.from_network_time(process.network_time(t)) == pytest.approx(t, rel=1e-9)


@each
def test_ends_and_directions(process):
    t = np.linspace(0, process.t_max, 2001)
    assert process.alpha(0.0) == 1 and process.sigma(0.0) == 0 and process.lam(0.0) == np.inf
    assert process.time(np.inf) == pytest.approx(0, abs=1e-12)
    assert (np.diff(process.lam(t[1:])) < 0).all()
    assert (np.diff(process.alpha(t)) <= 0).all() and (np.diff(process.sigma(t)) >= 0).all()


@pytest.mark.parametrize(
    "name", ["sd", "linear", "squaredcos", "zero-snr", "cosine", "one-sided-trig", "one-sided-vp", "trigflow-unit"]
)
def test_variance_is_preserved(name):
    process = PROCESSES[name]
    t = np.linspace(0, process.t_max, 3001)
    np.testing.assert_allclose(process.alpha(t) ** 2 + process.sigma(t) ** 2, 1, rtol=1e-12)


def test_the_table_is_stable_diffusions_with_index_n_at_time_n_plus_1():
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    table = np.cumprod(1 - betas)
    process = VariancePreserving()
    n = np.arange(1000)
    np.testing.assert_allclose(process.alpha(n + 1) ** 2, table, rtol=1e-12)
    np.testing.assert_array_equal(process.network_time(n + 1), n)
    half_way = process.alpha(500.5)  # log alpha is linear in between
    assert np.log(half_way) == pytest.approx((np.log(table[499]) + np.log(table[500])) / 4)


def test_small_sigma_does_not_cancel():
    process = VariancePreserving()
    slope = -np.log1p(-0.00085)  # alpha^2 = exp(-slope t) on the first interval
    assert process.sigma(1e-9) == pytest.approx(np.sqrt(slope * 1e-9), rel=1e-7)
    # cosine: sigma ~ sqrt(2 tan(a0) a' t), a0 and a' the angle and its slope at 0
    angle, slope = 0.008 / 1.008 * np.pi / 2, np.pi / 2 / 1.008
    assert Cosine().sigma(1e-9) == pytest.approx(np.sqrt(2 * np.tan(angle) * slope * 1e-9), rel=1e-6)


def test_zero_terminal_snr_ends_in_pure_noise_and_starts_as_before():
    table = np.cumprod(1 - table_betas("scaled_linear"))
    changed = zero_terminal(table)
    assert changed[-1] == 0 and changed[0] == pytest.approx(table[0], rel=1e-12)
    process = VariancePreserving(changed)
    assert process.alpha(1000) == 0 and process.lam(1000) == -np.inf
    assert process.alpha(999.5) == pytest.approx(process.alpha(999) / 2)


def test_shift_moves_a_uniform_grid_to_high_noise_as_sd3_does():
    t = np.linspace(0.1, 1, 10)
    np.testing.assert_allclose(RectifiedFlow(shift=3.0).sigma(t), 3 * t / (1 + 2 * t))
    np.testing.assert_allclose(RectifiedFlow(3.0).alpha(t) + RectifiedFlow(3.0).sigma(t), 1)


@pytest.mark.parametrize(
    "scheduler",
    [
        "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
        "EulerDiscreteScheduler", "HeunDiscreteScheduler", "DDPMScheduler",
    ],
)  # fmt: skip
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_from_config_reads_any_diffusers_scheduler(scheduler, schedule):
    import diffusers

    theirs = getattr(diffusers, scheduler)(beta_schedule=schedule, beta_start=0.0003, beta_end=0.015)
    ours = from_config(theirs.config)
    # diffusers multiplies the table up in float32; the relative error grows towards the last entries
    np.testing.assert_allclose(
        ours.alpha(np.arange(1000) + 1) ** 2, theirs.alphas_cumprod.double(), rtol=2e-3, atol=2e-7
    )


def test_from_config_trained_tables_zero_snr_and_flow():
    import diffusers

    betas = np.linspace(0.001, 0.03, 50).tolist()
    trained = from_config(diffusers.DDIMScheduler(num_train_timesteps=50, trained_betas=betas).config)
    np.testing.assert_allclose(trained.alpha(np.arange(50) + 1) ** 2, np.cumprod(1 - np.array(betas)))
    zero = from_config(diffusers.DDIMScheduler(rescale_betas_zero_snr=True).config)
    assert zero.alpha(1000) == 0
    flow = from_config(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).config)
    assert flow == RectifiedFlow(shift=3.0)
    edm = from_config(diffusers.EDMEulerScheduler().config)
    assert edm == VarianceExploding(0.002, 80.0)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: VariancePreserving(np.array([0.5, 0.9])), "alphas_cumprod"),
        (lambda: VariancePreserving.from_betas("scaled_liner"), "did you mean 'scaled_linear'"),
        (lambda: RectifiedFlow(shift=0), "shift"),
        (lambda: VarianceExploding(2.0, 1.0), "sigma_min"),
    ],
)
def test_impossible_processes_are_refused_by_field(make, field):
    with pytest.raises(HastenError, match=field):
        make()
