"""The cache mechanism: gates, forecasters and sites one by one, and any of them together, row by row."""

import json
import math

import numpy as np
import pytest
import torch
from pipelines import arguments, call, make
from tiny import randn, unet
from torch import nn

from hasten import sample
from hasten.bridge import SolverScheduler
from hasten.caches import CACHES, FORECASTERS, GATES, INDICATORS, SITES, DeepCache
from hasten.caching.forecasters import Difference, Hold, Taylor
from hasten.caching.gates import Countdown, Every, Listed, Never, Within
from hasten.caching.history import History, Node
from hasten.caching.online import Accumulated, Moved
from hasten.core.errors import HastenError, UnsupportedModel
from hasten.denoisers import Denoiser
from hasten.guidance import GuidanceInterval
from hasten.predictions import Prediction, Reading
from hasten.processes import RectifiedFlow, VarianceExploding, VariancePreserving
from hasten.runtime.anatomy import network_of
from hasten.runtime.following import AcceleratedDenoiser
from hasten.runtime.run import Row, Run
from hasten.sampling import sample_many

PROCESS = VariancePreserving()


def cache(**parts):
    return CACHES.build({"name": "cache"} | parts)


UNET_SPECS = {
    "whole": {"site": "whole"},
    "data": {"site": {"name": "whole", "space": "data"}, "forecaster": {"name": "taylor", "order": 2}},
    "logsnr": {"site": "whole", "gate": {"name": "every", "interval": 3},
               "forecaster": {"name": "taylor", "variable": "logsnr"}},
    "deep": {"site": "unet-deep", "forecaster": "taylor"},
    "encoder": {"site": "unet-encoder"},
    "attention": {"site": {"name": "units", "kind": "self-attention"}, "forecaster": "difference"},
    "mlp": {"site": {"name": "units", "kind": "mlp"}, "gate": {"name": "within", "gate": "never", "stop": 0.6}},
    "online": {"site": "whole", "gate": {"name": "moved", "indicator": "shown", "threshold": 0.6}},
}  # fmt: skip
DIT_SPECS = {
    "stack": {"site": "blocks"},
    "absolute": {"site": {"name": "blocks", "residual": False}, "forecaster": "taylor"},
    "first block": {"site": {"name": "blocks", "first": 1}, "gate": {"name": "moved", "threshold": 0.5}},
    "modulated": {"site": "blocks", "gate": {"name": "accumulated", "threshold": 0.8}},
    "attention": {"site": "units"},
    "data": {"site": {"name": "whole", "space": "data"}},
}
PAIRS = [("sd", k) for k in UNET_SPECS] + [("sdxl", "deep"), ("img2img", "data"), ("controlnet", "encoder")]
PAIRS += [(kind, k) for kind in ("sd3", "flux", "pixart") for k in DIT_SPECS]
every_pair = pytest.mark.parametrize(("kind", "spec"), PAIRS)


def built(kind: str, spec: str):
    pipe = make(kind)
    return pipe, cache(**(DIT_SPECS if hasattr(pipe, "transformer") else UNET_SPECS)[spec])


# every site, gate and forecaster, through pipelines


@every_pair
def test_a_batch_equals_its_singles_and_the_second_call_the_first(kind, spec):
    pipe, method = built(kind, spec)
    plain = call(pipe, steps=6)
    three = arguments(pipe, 3)
    with method.applied(pipe):
        first = call(pipe, steps=6)
        generators = [torch.Generator().manual_seed(i) for i in range(3)]
        batch = call(pipe, steps=6, prompts=3, generator=generators)
        singles = [
            call(pipe, steps=6, generator=torch.Generator().manual_seed(i), **{
                k: v[i : i + 1] if isinstance(v, torch.Tensor) and len(v) == 3 else v for k, v in three.items()
            })
            for i in range(3)
        ]  # fmt: skip
        assert torch.equal(call(pipe, steps=6), first)
    assert (batch - torch.cat(singles)).abs().max() <= 1e-5 * batch.abs().max()
    assert not torch.equal(first, plain) or kind == "pixart"
    assert torch.equal(call(pipe, steps=6), plain)


@every_pair
def test_off_is_exact(kind, spec):
    pipe, method = built(kind, spec)
    plain = call(pipe, steps=4, prompts=2)
    parts = {"site": method.site, "forecaster": method.forecaster}
    with cache(**parts, gate={"name": "every", "interval": 1}).applied(pipe):
        assert torch.equal(call(pipe, steps=4, prompts=2), plain)
    if method.gate.indicator is not None:
        with cache(
            **parts, gate={"name": method.gate.name, "indicator": method.gate.indicator, "threshold": 0.0}
        ).applied(pipe):
            assert torch.equal(call(pipe, steps=4, prompts=2), plain)


@pytest.mark.parametrize("solver", ["heun", "dpm++", "unipc"])
@pytest.mark.parametrize("spec", UNET_SPECS)
def test_every_spec_goes_with_solvers_and_image_to_image(spec, solver):
    text, image = make("sd"), make("img2img")
    for pipe in (text, image):
        pipe.scheduler = SolverScheduler.from_config(pipe.scheduler.config, solver=solver)
    method = cache(**UNET_SPECS[spec])
    with method.applied(text), method.applied(image):
        before = call(text, steps=5)
        begun = call(image, steps=6)
        assert torch.isfinite(begun).all() and torch.equal(call(image, steps=6), begun)
        assert torch.equal(call(text, steps=5), before)


def test_duplicated_timesteps_are_steps_of_their_own():
    pipe = make("sd")  # PNDM shows the second number twice
    for variable in ("step", "time", "logsnr"):
        with cache(site="whole", gate={"name": "every", "warmup": 3},
                   forecaster={"name": "taylor", "order": 2, "variable": variable}).applied(pipe):  # fmt: skip
            assert torch.isfinite(call(pipe, steps=7)).all()


def test_rows_of_a_batch_are_decided_for_one_by_one():
    """Two images whose prompts differ take different paths through an online gate, and each the path it takes alone."""
    pipe = make("sd3")
    method = cache(site={"name": "blocks", "first": 1}, gate={"name": "moved", "threshold": 0.35})
    seen: list[int] = []
    with method.applied(pipe):
        last = pipe.transformer.transformer_blocks[-1]
        last.ff.net[0].proj.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        call(pipe, steps=12, prompts=3)
    assert min(seen) < max(seen) == 6, "some calls must hold rows of both splits, or this shows nothing"


@pytest.mark.parametrize(("kind", "spec"), [("sd", "blocks"), ("flux", "unet-encoder"), ("flux", "unet-deep")])
def test_a_model_without_the_site_is_refused_in_one_line(kind, spec):
    pipe = make(kind)
    with pytest.raises(UnsupportedModel, match="; give a") as caught, cache(site=spec).applied(pipe):
        pytest.fail("accepted")
    assert "\n" not in str(caught.value)


def test_a_gate_that_looks_too_late_is_refused():
    pipe = make("sd3")
    refused = pytest.raises(HastenError, match="runs after the site begins")
    with cache(site="blocks", gate="moved").applied(pipe), refused:
        call(pipe)
    assert torch.isfinite(call(pipe)).all()


@pytest.mark.parametrize("family", [SITES, GATES, FORECASTERS, INDICATORS], ids=lambda f: f.field)
def test_all_parts_can_be_made_without_arguments_and_are_json(family):
    for cls in family:
        assert family.build(json.loads(json.dumps(family.describe(cls())))) == cls()


def test_the_composed_row_is_json():
    for spec in (UNET_SPECS | DIT_SPECS).values():
        method = cache(**spec)
        assert CACHES.build(json.loads(json.dumps(CACHES.describe(method)))) == method


# gates


def opened(gate, steps: int) -> list[int]:
    run = Run(PROCESS, number=1, steps=steps)
    return [run.step for run.step in range(steps) if gate.opens(run)]


def test_schedules_of_the_papers():
    assert opened(Every(3), 10) == [0, 3, 6, 9]
    assert opened(Every(4, warmup=2, offset=1), 14) == [0, 1, 5, 9, 13]  # TaylorSeer, DiT
    assert opened(Every(5, warmup=3, offset=4), 20) == [0, 1, 2, 4, 9, 14, 19]  # TaylorSeer in diffusers
    assert opened(Every(4, tail=2), 11) == [0, 4, 8, 9, 10]
    assert opened(Countdown(3), 50)[:5] == [0, 1, 4, 7, 10] and opened(Countdown(3), 50)[-1] == 49  # FORA
    assert opened(Listed((3, 9), of=10), 20) == [0, 6, 18] and opened(Listed((3,)), 9) == [0, 3]
    assert opened(Within(Never(), 0.25, 0.75), 8) == [0, 1, 6, 7]


def decisions(gate, scores: list[float | None]) -> list[bool]:
    run, course, out = Run(PROCESS, number=1, steps=len(scores)), History(), []
    course.nodes["x"] = []
    for run.step, score in enumerate(scores):
        out.append(course.settle(run.step, gate.decide(run, [course], [score])[0]))
    return out


def test_an_online_gate_opens_when_it_has_moved():
    gate = Moved(threshold=0.1, most=2)
    expected = [True, False, False, True, True, False, True, True]
    assert decisions(gate, [None, 0.05, 0.09, 0.0, 0.2, 0.05, math.inf, 0.1]) == expected
    assert decisions(Moved(threshold=0.0), [None, 0.0, 0.0]) == [True] * 3
    assert decisions(Moved(threshold=9, warmup=2, tail=1), [None, 0.0, 0.0, 0.0]) == [True, True, False, True]


def test_an_accumulating_gate_adds_up_and_starts_again():
    gate = Accumulated(threshold=0.3, tail=0)
    assert decisions(gate, [None, 0.1, 0.1, 0.1, 0.2, 0.2]) == [True, False, False, True, False, True]
    negative = Accumulated(threshold=0.3, coefficients=(1.0, -0.5), tail=0)
    assert decisions(negative, [None, 0.1, 0.1, 0.79, 0.9]) == [True, False, False, False, True], "never shrinks"


def test_what_an_eye_sees_is_measured_row_by_row_and_never_nan():
    gate = Moved()
    now, before = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [math.nan, 1.0]]), torch.zeros(4, 2)
    before[0] = 2.0
    assert gate.measure(now, before).tolist() == [0.5, 0.0, math.inf, math.inf]


# forecasters


def nodes(function, steps, shape=(2, 3)):
    return [Node(k, 900.0 - 10 * k, torch.full(shape, float(function(k)))) for k in steps]


def forecast(forecaster, function, steps, at: int) -> float:
    run = Run(PROCESS, number=1, step=at, steps=50, time=900.0 - 10 * at)
    return float(forecaster.forecast(run, nodes(function, steps[-forecaster.reach :]), [0])[0, 0])


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("variable", ["step", "time"])
def test_polynomials_of_its_order_are_forecast_exactly(order, variable):
    coefficients = np.arange(1, order + 2) / 3

    def value(k):
        return np.polyval(coefficients, k / 10)

    steps = [0, 2, 3, 7, 9, 10]
    assert forecast(Taylor(order, variable), value, steps, 13) == pytest.approx(value(13), rel=1e-4)
    assert forecast(Taylor(order + 1), value, steps, 13) == pytest.approx(value(13), rel=1e-3)


def test_the_published_form_is_exact_on_lines_only():
    assert forecast(Taylor(2, compat=True), lambda k: k * k, [3, 4, 5], 6) == pytest.approx(35.0)  # exact: 36
    assert forecast(Taylor(2), lambda k: k * k, [3, 4, 5], 6) == pytest.approx(36.0)
    for order in (1, 2, 3):
        line = forecast(Taylor(order, compat=True), lambda k: 3 * k + 1, [0, 1, 5, 9], 12)
        assert line == pytest.approx(37.0)


def test_other_forecasters():
    assert forecast(Hold(), lambda k: k, [0, 4], 6) == 4
    assert forecast(Difference(0.5), lambda k: k, [0, 4], 6) == 6
    assert forecast(Difference(0.5), lambda k: k, [4], 6) == 4
    assert forecast(Taylor(3), lambda k: k, [4], 6) == 4


# the run: parts, rows, past


def test_rows_are_told_apart_by_request_branch_and_image():
    a, b = Run(PROCESS, images=2), Run(PROCESS, images=1)
    hub = Run(PROCESS)
    with hub.holding([a, b]):
        rows = hub.rows(6)
        assert rows is not None
        seen = [(r.part is a, r.branch, r.image) for r in rows]
        assert seen == [(True, 1, 0), (True, 1, 1), (False, 1, 0), (True, 0, 0), (True, 0, 1), (False, 0, 0)]
        assert hub.branches(6) == 2 and hub.rows(4) is None
        with hub.narrowed(rows[3:]):
            assert hub.rows(3) == rows[3:]
    assert hub.parts == (hub,)
    assert a.rows(2) == [Row(a, 1), Row(a, 0)]


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", None])
def test_the_past_is_what_was_answered(scheduler):
    import diffusers

    pipe = make("sd")
    if scheduler is None:
        pipe.scheduler = SolverScheduler.from_config(pipe.scheduler.config, solver="heun")
    else:
        more = {"clip_sample": False} if scheduler == "DDIMScheduler" else {}
        pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config, **more)
    inputs, levels = [], []
    with DeepCache(interval=1).applied(pipe):
        run = pipe.scheduler.run

        def note(_, args, kwargs):
            inputs.append(args[0][:1].clone())
            levels.append(float(run.process.sigma(run.time)))

        pipe.unet.register_forward_pre_hook(note, with_kwargs=True)
        call(pipe, steps=7)
    kept = run.past
    assert {a.step for a in kept} == set(range(run.steps - 4, run.steps)) and len(kept) in (4, 7, 8)
    for answer, shown, sigma in zip(kept, inputs[-len(kept) :], levels[-len(kept) :], strict=True):
        assert torch.allclose(answer.prediction.x, shown, atol=1e-5) and answer.prediction.sigma == sigma
        assert len(answer.prediction.data) == 1


@pytest.mark.parametrize(("process", "kind", "sigma_data"), [
    (PROCESS, "epsilon", None), (PROCESS, "v_prediction", None), (PROCESS, "sample", None), (PROCESS, "score", None),
    (RectifiedFlow(), "flow_prediction", None), (VarianceExploding(), "epsilon", 0.5),
    (VarianceExploding(), "v_prediction", 0.5),
])  # fmt: skip
def test_data_goes_back_to_the_output_it_came_from(process, kind, sigma_data):
    reading, time = Reading(process, kind, sigma_data), 0.4 * process.t_max
    shown, output = randn(2, 4, 8, 8).double(), randn(2, 4, 8, 8, seed=1).double()
    data = reading.shown(shown, output, time).data
    assert torch.allclose(reading.output(data, shown, time), output, atol=1e-6)
    more = torch.cat([shown, shown], 1)  # a conditioning image is shown as well
    assert torch.equal(reading.shown(more, output, time).data, data)
    assert torch.allclose(reading.output(data, more, time), output, atol=1e-6)


# without a pipeline


class Guided:
    """A denoiser with two branches of guidance, in one call or two."""

    kind = "epsilon"

    def __init__(self, network: nn.Module, calls: int) -> None:
        self.network, self.calls, self.process = network, calls, PROCESS

    def __call__(self, x, t):
        numbers = torch.as_tensor(np.broadcast_to(self.process.network_time(t), len(x)).copy()).float()
        text = randn(1, 5, 8, seed=50).expand(len(x), -1, -1)
        if self.calls == 1:
            out = self.network(torch.cat([x, x]), torch.cat([numbers] * 2), torch.cat([0 * text, text])).sample
            low, high = out.chunk(2)
        else:
            low, high = (self.network(x, numbers, k * text).sample for k in (0, 1))
        alpha, sigma = (
            torch.as_tensor(np.broadcast_to(f(t), len(x)).copy()).float().reshape(-1, 1, 1, 1)
            for f in (PROCESS.alpha, PROCESS.sigma)
        )
        return Prediction(x, alpha, sigma, low + 3 * (high - low), "epsilon")


RUNS = [
    {"noise": randn(2, 4, 8, 8, seed=1), "solver": "ddim", "steps": 5},
    {"noise": randn(1, 4, 8, 8, seed=2), "solver": "dpm++", "steps": 8},
    {"noise": randn(1, 4, 8, 8, seed=3), "solver": "heun", "steps": 4},
    {"noise": randn(1, 4, 10, 10, seed=4), "solver": "ddim", "steps": 5},
]


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("spec", UNET_SPECS)
@torch.no_grad()
@pytest.mark.slow
def test_sample_many_equals_sample_with_a_cache_on(spec, calls):
    network = unet(1)
    fast = AcceleratedDenoiser(network, lambda net: Guided(net, calls), [cache(**UNET_SPECS[spec])])
    plain = Guided(network, calls)
    together = sample_many(fast, RUNS)
    for run, got in zip(RUNS, together, strict=True):
        alone = sample(fast, **run)
        assert (got - alone).abs().max() <= 2e-5 * alone.abs().max()
        assert torch.equal(sample(fast, **run), alone)
        if spec != "online":
            assert not torch.allclose(sample(plain, **run), alone, rtol=1e-3), "the cache must do something"


@torch.no_grad()
def test_the_guidance_interval_goes_by_the_step_of_each_request():
    network = unet(1)
    interval = GuidanceInterval(low=0.5, high=3.0)
    both = AcceleratedDenoiser(network, lambda net: Guided(net, 1), [interval, DeepCache(interval=2)])
    rows: list[int] = []
    both.network.conv_in.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    together = sample_many(both, RUNS[:3])
    assert len(set(rows)) > 2, "requests inside and outside of the interval must share a call"
    for run, got in zip(RUNS, together):
        alone = sample(both, **run)
        assert (got - alone).abs().max() <= 2e-5 * alone.abs().max()


@torch.no_grad()
def test_two_caches_inside_one_another_see_the_rows_that_flow():
    network = unet(1)
    outer = cache(site="unet-deep", gate={"name": "every", "interval": 3})
    inner = DeepCache(interval=2, branch=2)
    attention = cache(site={"name": "units", "kind": "mlp"}, gate={"name": "every", "interval": 2})
    for pair in ([outer, inner], [inner, attention]):
        fast = AcceleratedDenoiser(network, lambda net: Guided(net, 1), pair)
        for run, got in zip(RUNS, sample_many(fast, RUNS)):
            assert (got - sample(fast, **run)).abs().max() <= 2e-5 * got.abs().max()


@torch.no_grad()
def test_a_denoiser_that_is_not_told_whose_rows_come_answers_in_full():
    network = unet(1)
    text = randn(1, 5, 8, seed=50)

    def denoiser(net):
        return Denoiser(lambda x, n: net(x, n, text.expand(len(x), -1, -1)).sample, PROCESS)

    fast = AcceleratedDenoiser(network, denoiser, [DeepCache(interval=5)])
    x = randn(2, 4, 8, 8)
    for t in (900.0, 800.0):
        assert torch.equal(fast(x, t).output, denoiser(network)(x, t).output)
    with pytest.raises(HastenError, match="deepcache: is applied"):
        AcceleratedDenoiser(network, denoiser, [DeepCache(), DeepCache(branch=1)])


def test_data_needs_to_know_what_the_network_predicts():
    class Nameless(Guided):
        kind = None

    fast = AcceleratedDenoiser(unet(1), lambda net: Nameless(net, 1), [cache(**UNET_SPECS["data"])])
    with pytest.raises(HastenError, match="give the denoiser a kind"), torch.no_grad():
        sample(fast, **RUNS[0])


def test_the_network_of_a_caller_stays_as_it_was():
    network = unet(1)
    before = {name: dict(vars(m)) for name, m in network.named_modules()}
    AcceleratedDenoiser(network, lambda net: Guided(net, 1), [DeepCache()])
    assert {name: dict(vars(m)) for name, m in network.named_modules()} == before
    assert network_of(make("sd"))
