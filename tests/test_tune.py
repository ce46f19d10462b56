"""Tuning end to end on a tiny pipeline with random weights, and its report."""

from __future__ import annotations

import html.parser
import inspect
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from imagined import score
from small import LETTERS, STEPS, hurry, problem, tuned

import hasten
from hasten.core.errors import HastenError
from hasten.evaluate.budget import Budget
from hasten.evaluate.problem import Cost, Problem
from hasten.evaluate.results import Candidate, Confirmed
from hasten.evaluate.samples import Samples, choose
from hasten.measure import Estimate
from hasten.recipe import Recipe
from hasten.search.judge import Judge
from hasten.search.space import Space
from hasten.solvers import BNS

torch.set_num_threads(1)  # the networks are tiny


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def folder(done: Any, tmp_path: Path) -> Path:
    """A copy of what that tuning wrote, to go on with."""
    return Path(shutil.copytree(done.out, tmp_path / "copy"))


# The whole


def test_tune_finds_confirms_and_writes(done: Any) -> None:
    result = done.result
    written = {"recipe.json", "front.json", "report.html", "study.db", "trajectory.safetensors"}
    assert {f.name for f in done.out.iterdir()} >= written
    assert Recipe.load(done.out).to_dict() == result.recipe.to_dict()
    assert len(result.trials) == 3 and len(result.front) == 2
    written = json.loads((done.out / "front.json").read_text())
    assert [f["name"] for f in written["front"]] == [f.name for f in result.front]
    for finalist, kept in zip(result.front, written["front"]):
        found = finalist.confirmed
        assert Recipe(**kept["recipe"]).to_dict() == finalist.way.to_dict()
        assert found.drift.n == 4 and found.drift.low <= found.drift.value <= found.drift.high
        assert kept["confirmed"]["speed"]["value"] == found.speed.value
        assert found.within == Budget.of("2x").within(found.score, result.baseline.numbers.score)
    kept = [f for f in result.front if f.confirmed.within]
    assert result.best is (max(kept, key=lambda f: f.confirmed.speed.value) if kept else None)
    assert written["facts"]["samples"]["search"] == {"count": 3, "prompts": 3, "seeds": [0, 2]}


def test_the_confirmed_drift_can_be_measured_again_by_hand(done: Any) -> None:
    result, task = done.result, problem(pipelines.make("sd"))
    samples = result.samples
    assert samples == task.samples["confirm"]
    base, finalist = result.baseline, result.front[0]
    with hasten.accelerate(done.pipe, finalist.way) as fast:
        images = fast(list(samples.prompts), seed=list(samples.seeds), output_type="pt").images
        latents = fast(list(samples.prompts), seed=list(samples.seeds), output_type="latent").images
    assert torch.allclose(images, finalist.pictures.images, atol=1e-4)

    def rmse(x: torch.Tensor) -> float:
        return float(np.median((x - base.reference.latents).flatten(1).square().mean(1).sqrt().numpy()))

    assert finalist.confirmed.drift.value == pytest.approx(rmse(latents) / rmse(base.pictures.latents), rel=1e-3)


def test_tuning_leaves_the_pipeline_alone(done: Any) -> None:
    fresh = pipelines.make("sd")
    assert done.pipe.scheduler.config == fresh.scheduler.config and type(done.pipe.scheduler) is type(fresh.scheduler)
    assert done.pipe.scheduler.timesteps is None, "it has not even been run"
    assert not done.left_behind
    one, two = (
        pipe("a", generator=torch.Generator().manual_seed(0), num_inference_steps=4, output_type="pt").images
        for pipe in (done.pipe, fresh)
    )
    assert torch.equal(one, two)


@pytest.mark.slow
def test_a_finished_tuning_is_resumed_without_new_work(
    done: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "draw", lambda *_: pytest.fail("searched again"))
    again = tuned(folder, resume=True)
    assert [t.way.to_dict() for t in again.trials] == [t.way.to_dict() for t in done.result.trials]


@pytest.mark.slow
def test_what_is_finished_survives_an_interrupt_of_the_confirmation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hasten.search.confirming.redraw", interrupted)
    for name in ("front.json", "recipe.json", "report.html"):
        (folder / name).unlink()
    with pytest.raises(KeyboardInterrupt):
        tuned(folder, resume=True, trials=4)
    written = json.loads((folder / "front.json").read_text())
    assert written["front"] and all(f["searched"] and f["confirmed"] is None for f in written["front"])
    assert written["best"] is None and not (folder / "recipe.json").exists(), "nothing unconfirmed is claimed"


def test_where_nothing_keeps_the_budget_nothing_is_claimed(done: Any, tmp_path: Path) -> None:
    budget = Budget.of("0.001x")
    measured = [replace(f, confirmed=replace(f.confirmed, within=False)) for f in done.result.front]
    result = replace(done.result, budget=budget, front=measured)
    result.save(tmp_path)
    assert result.best is None and result.recipe.to_dict() == result.chosen.way.to_dict()
    nearest = min(result.front, key=lambda f: f.confirmed.drift.value)
    assert result.chosen is nearest
    assert "No recipe is sure to keep the budget" in result.report
    assert json.loads((tmp_path / "front.json").read_text())["best"] is None


@pytest.mark.slow
def test_compare_measures_given_recipes(done: Any, tmp_path: Path) -> None:
    recipes = {"few": Recipe(solver="ddim", steps=2), "many": {"solver": "unipc", "steps": 6}}
    call = {"num_inference_steps": STEPS}
    result = hasten.compare(done.pipe, recipes, LETTERS, out=tmp_path, samples=3, batch=3, call=call)
    assert {f.name for f in result.front} == {"few", "many"} and not result.trials
    by_name = {f.name: f.confirmed for f in result.front}
    assert (by_name["few"].cost.calls, by_name["many"].cost.calls) == (2, 6)
    assert by_name["few"].cost.macs * 2.5 < by_name["many"].cost.macs
    assert "few" in result.report and (tmp_path / "report.html").exists()
    with pytest.raises(HastenError, match="there are none"):
        hasten.compare(done.pipe, [])


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"minutes": 0}, "minutes: 0"), ({"minutes": -1}, "minutes"), ({"minutes": float("nan")}, "minutes"),
        ({"trials": 0}, "trials"), ({"samples": (1, 2)}, "samples: 1"), ({"seed": -1}, "seed"),
        ({"budget": "-1x"}, "budget"), ({"batch": 0}, "batch"), ({"finalists": 0}, "finalists"),
    ],
)  # fmt: skip
def test_impossible_choices_are_refused_before_anything_runs(
    choices: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Problem, "draw", lambda *_: pytest.fail("something ran"))
    with pytest.raises(HastenError, match=f"^{message}"):
        tuned(tmp_path / "out", **choices)
    assert not (tmp_path / "out").exists()


# The report


class Page(html.parser.HTMLParser):
    """Collects what a browser would load, and checks that tags are closed."""

    VOID = ("meta", "img", "br", "input", "line", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.images = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.images += tag == "img"
        self.loads += [v or "" for k, v in attrs if k in ("src", "href", "srcset", "xlink:href", "data", "action")]
        self.loads += [tag] if tag in ("link", "iframe", "object") else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, f"</{tag}> closes something else"


def test_the_report_is_one_file_that_loads_nothing(done: Any) -> None:
    text = (done.out / "report.html").read_text()
    page = Page(text)
    assert page.images >= 4 * 4 and page.loads and all(v.startswith("data:image/") for v in page.loads)
    assert not page.open and "url(" not in text and "@import" not in text and "://" not in text
    for told in ("RMSE", done.result.samples.prompts[0], "hasten.tune(pipe", "torch", "seeds", "PNDMScheduler"):
        assert told in text, told
    assert f"{done.result.chosen.confirmed.speed.value:.2f}×" in text


@pytest.mark.parametrize(
    ("budget", "kept", "missed"),
    [
        ("1x", {"drift": (0.8, 0.6, 0.95)}, {"drift": (0.8, 0.6, 1.1)}),
        ("speed>=3", {"speed": (3.5, 3.1, 4.0)}, {"speed": (3.5, 2.9, 4.0)}),
        ("psnr>=30", {"psnr": (35.0, 31.0, 40.0)}, {"psnr": (35.0, 29.0, 40.0)}),
        ("rmse<=0.1", {"rmse": (0.05, 0.02, 0.09)}, {"rmse": (0.05, 0.02, 0.11)}),
        ("9x", {"flips": (0.25, 0.1, 0.6)}, {"flips": (0.5, 0.2, 0.8)}),
    ],
)  # fmt: skip
def test_a_budget_is_kept_at_the_worse_end_of_what_was_measured(budget: str, kept: Any, missed: Any) -> None:
    """Other samples may land anywhere in the intervals; flips alone are compared as they were counted."""
    default = score(flips=0.04, speed=1.0)

    def within(changed: dict[str, tuple[float, float, float]]) -> bool:
        found = {name: Estimate(*changed.get(name, (1.0, 1.0, 1.0)), 32) for name in ("drift", "speed", "psnr", "rmse")}
        flips = Estimate(*changed.get("flips", (0.0, 0.0, 0.1)), 32)
        metrics = {name: {"median": found[name]} for name in ("psnr", "rmse")}
        numbers = Confirmed(found["drift"], found["drift"], flips, found["speed"], metrics, Cost(1, 1), within=True)
        return Budget.of(budget).within(numbers.pessimistic, default)

    assert within(kept) and not within(missed)


def test_a_gap_between_fast_and_sure_is_filled_with_more_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 steps drift too far, 10 are within but for their doubt, 20 are sure; 12 are enough."""
    from hasten.evaluate import confirmation as confirm

    def doubtful(steps: int, *_: Any) -> Any:
        return SimpleNamespace(score=score(drift=(8 / steps) ** 2), pessimistic=score(drift=(needed / steps) ** 2))

    def drawn(candidate: Any) -> Any:
        return SimpleNamespace(candidate=candidate, drift=candidate.way.steps)

    monkeypatch.setattr(confirm, "redraw", lambda _, __, some, ___: {one.name: drawn(one) for one in some})
    monkeypatch.setattr(confirm, "prospect", doubtful)
    candidates = [Candidate(str(n), Recipe(solver="ddim", steps=n), score(speed=50 / n)) for n in (5, 10, 20)]
    before = {one.name: drawn(one) for one in candidates}
    base: Any = SimpleNamespace(numbers=SimpleNamespace(score=score()))

    def looked(budget: str = "1x") -> list[int]:
        slower = lambda one, steps: Candidate(f"{one.name} {steps}", Recipe(solver="ddim", steps=steps))  # noqa: E731
        more = confirm.with_more_steps(None, base, None, before, Budget.of(budget), slower)  # type: ignore[arg-type]
        return [one.candidate.way.steps or 0 for one in more.values()]

    needed = 11.5
    assert looked() == [12]
    needed = 9.0  # nothing is in doubt
    assert looked() == []
    needed = 19.5  # the 20 steps that are sure are as good
    assert looked() == []
    needed = 11.5
    assert looked("speed>=2") == []


def test_the_report_says_what_the_sample_cannot_exclude(done: Any) -> None:
    def reported(high: float) -> str:
        drift = Estimate(0.8, 0.6, high, 4)
        numbers = {"drift": drift, "within": high <= 1}
        kept = [replace(f, confirmed=replace(f.confirmed, **numbers)) for f in done.result.front]
        return replace(done.result, front=kept, budget=Budget.of("1x")).report

    assert "do not exclude" in reported(1.1) and "reaches 1.10×" in reported(1.1)
    assert "do not exclude" not in reported(0.9)


def test_prompts_cannot_break_the_report(done: Any) -> None:
    samples = choose(['<script>alert("x")</script>', "b"], {"confirm": 4})["confirm"]
    report = replace(done.result, samples=samples).report
    assert report.count("<script>") == 1 and "&lt;script&gt;alert" in report


# The room


@pytest.mark.slow
def test_tune_is_a_function_however_it_is_imported() -> None:
    assert callable(hasten.tune) and list(inspect.signature(hasten.tune).parameters)[:2] == ["pipe", "prompts"]
    orders = (
        "import hasten; hasten.tune; import hasten.evaluate.budget as room; assert room and callable(hasten.tune)",
        "from hasten.search import tune; from hasten import compare, tune as function; assert function is tune",
    )
    for order in orders:
        subprocess.run([sys.executable, "-c", order], check=True)


def test_fitted_numbers_are_not_spelled_out() -> None:
    from hasten.report.words import words

    fitted = BNS(order=1, weights=(0.5, 0.1) * 4, at=(1.0, 0.8, 0.5, 0.1, 0.0))
    assert words(Recipe(solver=fitted, steps=4, grid="karras")) == "BNS order 1 fitted, 4 steps, karras times"
    cache = {"name": "cache", "site": {"name": "whole", "space": "data"}, "gate": {"name": "every", "interval": 3}}
    assert words(Recipe(caches=[cache])) == "cache site whole (space data) gate every (interval 3) forecaster hold"


def test_a_solver_is_fitted_inside_the_pipeline_on_samples_of_its_own() -> None:
    """What `Fitter` finds in a pipeline is what `BNS.fit` finds with its network as a denoiser, from the same noise."""
    from hasten.edit import denoiser_of
    from hasten.fit import converged
    from hasten.search.fitter import SPLIT, TRAJECTORY, Fitter
    from hasten.zoo import load

    pipe = load("digits")
    prompts, seeds = ("0", "3", "5", "8"), (11, 12, 13, 14)
    problem = Problem(pipe, {SPLIT: Samples(prompts, seeds)}, call={"guidance_scale": 1.0})
    found = Fitter(problem)(Recipe(solver=BNS(order=2), steps=4, grid="karras")).solver
    noises = torch.cat([
        torch.randn(1, *_state(pipe), generator=torch.Generator().manual_seed(seed)) for seed in seeds
    ])  # fmt: skip
    denoiser = denoiser_of(pipe, list(prompts))
    expected = BNS(order=2).fit(denoiser, noises, 4, "karras", converged(denoiser, noises, TRAJECTORY))
    assert found.at == expected.at and found.weights == pytest.approx(expected.weights, abs=2e-3)
    fitted = Recipe(solver=expected, steps=4, grid="karras")
    assert Fitter(problem)(fitted) is fitted


def test_a_course_is_solved_once_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hasten.search.fitter import SPLIT, Fitter
    from hasten.zoo import load

    task = Problem(load("digits"), {SPLIT: Samples(("0", "3"), (11, 12))}, call={"guidance_scale": 1.0})
    recipe = Recipe(solver=BNS(order=2), steps=4, grid="karras")
    expected = Fitter(task, tmp_path)(recipe)
    solved, solve = [], task.solve
    monkeypatch.setattr(task, "solve", lambda recipe, samples: (solved.append(recipe.steps), solve(recipe, samples)))
    assert Fitter(task, tmp_path)(recipe) == expected and solved == [4]
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(kept.read_bytes()[:-9])
    with pytest.raises(HastenError, match=r"trajectory\.safetensors cannot be read .* delete it"):
        Fitter(task, tmp_path)(recipe)


def test_a_cache_is_fitted_once_to_the_default_and_keeps_its_other_settings() -> None:
    from hasten.caches import MagCache, TeaCache
    from hasten.search.fitter import SPLIT, Fitter
    from hasten.zoo import load

    call, prompts = {"num_inference_steps": 6}, ("cat", "sun")
    task = Problem(load("emoji-flux"), {SPLIT: Samples(prompts, (1, 2))}, call=call)
    assert {"teacache", "magcache"} <= set(Space.of(task).methods["cache"])
    fitter, recipe = Fitter(task), Recipe(solver="ddim", steps=3, caches=[{"name": "teacache", "threshold": 0.1}])
    fitted = fitter(recipe)
    (cache,) = fitted.caches
    assert cache == TeaCache(0.1, TeaCache().fit(task.pipe, prompts, **task.call).coefficients)
    assert fitter(fitted) is fitted
    (mag,) = fitter(recipe.model_copy(update={"caches": (MagCache(most=2),)})).caches
    assert (mag.most, len(mag.ratios), mag.needs_fit) == (2, 6, False)


def _state(pipe: Any) -> tuple[int, int, int]:
    config = pipe.unet.config
    return config.in_channels, config.sample_size, config.sample_size
