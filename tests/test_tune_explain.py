"""What a report tells of the chosen recipe: its ingredients, where its time goes, and all of it as Markdown."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pipelines
import pytest
import torch
from small import LETTERS, STEPS, hurry

from hasten.core.errors import HastenError
from hasten.evaluate import ablation as room
from hasten.evaluate.ablation import ablate, ingredients
from hasten.evaluate.breakdown import REST, Stopwatch, break_down, watched
from hasten.evaluate.budget import Score
from hasten.evaluate.confirmation import SPLIT, baseline
from hasten.evaluate.contributions import Ablation, Contribution, Ingredient
from hasten.evaluate.problem import Pictures, Problem
from hasten.evaluate.references import References
from hasten.evaluate.results import Finalist
from hasten.evaluate.samples import choose
from hasten.measure import Estimate
from hasten.recipe import Recipe
from hasten.report.report import closure, flattery
from hasten.report.words import shortened, words

INTERVAL, CACHE = {"name": "interval", "low": 0.1, "high": 10.0}, {"name": "deepcache", "interval": 2, "branch": 0}
FULL = Recipe(solver="unipc", steps=4, grid="karras", guidance=INTERVAL | {"scale": 3.0}, caches=[CACHE])


def problem() -> Problem:
    samples = choose(LETTERS, {SPLIT: 2})
    return Problem(pipelines.make("sd"), samples, batch=2, call={"num_inference_steps": STEPS})


def test_every_ingredient_is_taken_out_alone() -> None:
    without = {one.name: one.without for one in ingredients(FULL)}
    assert list(without) == ["fewer steps", "solver", "guidance scale", "interval", "deepcache"]
    kept = {"guidance": INTERVAL | {"scale": 3.0}, "caches": [CACHE]}
    plain = {"solver": "unipc", "steps": 4, "grid": "karras"}
    assert without["fewer steps"].to_dict() == Recipe(**kept).to_dict()
    assert without["solver"].to_dict() == Recipe(steps=4, **kept).to_dict()
    assert without["guidance scale"].to_dict() == Recipe(**plain, guidance=INTERVAL, caches=[CACHE]).to_dict()
    assert without["interval"].to_dict() == Recipe(**plain, guidance=3.0, caches=[CACHE]).to_dict()
    assert without["deepcache"].to_dict() == Recipe(**plain, guidance=kept["guidance"]).to_dict()
    assert [one.name for one in ingredients(FULL) if not one.factor] == ["solver"]


def test_ingredients_of_recipes_that_hold_little() -> None:
    assert ingredients(Recipe()) == []
    (only,) = ingredients(Recipe(guidance=2.0))
    assert only.without == Recipe()
    assert [(one.name, one.factor) for one in ingredients(Recipe(solver="ddim"))] == [("solver", True)]
    run = Recipe(quantize="bfloat16", compile="channels-last")
    assert {one.name: list(one.without.to_dict()) for one in ingredients(run)} == {
        "bfloat16": ["version", "compile"], "channels-last": ["version", "quantize"],
    }  # fmt: skip
    assert words(run) == "bfloat16, channels-last"
    heun = {one.name: one.without for one in ingredients(Recipe(solver="heun", steps=5))}
    assert heun["solver"].steps == 10, "as many network calls"


@pytest.fixture(scope="module")
def ground() -> Any:
    """A problem with its default and reference drawn."""
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        made = problem()
        return made, *baseline(made, References(made))


def measured(ground: Any, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Ablation:
    """An ablation whose clock counts multiply-adds."""

    def timed(problem: Problem, recipe: Recipe | None, others: Any, repeats: int) -> dict[str, Estimate]:
        own = problem.cost(recipe).macs
        found = {name: own / problem.cost(other).macs for name, other in others.items()}
        return {name: Estimate(value, value, value, repeats) for name, value in found.items()}

    made, base, default = ground
    monkeypatch.setattr(room, "_timed", timed)
    numbers = replace(base.numbers, cost=made.cost(recipe))
    return ablate(made, base, default, Finalist("A", recipe, confirmed=numbers, pictures=base.pictures))


@pytest.mark.slow
def test_contributions_make_up_the_whole(ground: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(solver="unipc", steps=4, grid="karras", guidance=INTERVAL, caches=[CACHE])
    found = measured(ground, recipe, monkeypatch)
    rows = {row.ingredient.name: row for row in found.rows}
    assert list(rows) == ["fewer steps", "solver", "interval", "deepcache"] and not found.refused
    assert all(row.last.value == pytest.approx(row.macs) for row in found.rows)
    assert rows["solver"].first is None and rows["solver"].speed == rows["solver"].last
    assert rows["deepcache"].first is not None and rows["deepcache"].first.value > rows["deepcache"].last.value
    assert rows["fewer steps"].macs > 1.8 and rows["deepcache"].macs > 1.05 and rows["interval"].macs >= 1
    lasts = math.log(math.prod(row.last.value for row in found.rows if row.ingredient.factor))
    assert abs(found.closure - 1) < min(0.1, abs(lasts / math.log(found.whole.value) - 1)), "nearer than the last alone"
    assert found.closure == pytest.approx(math.log(found.product) / math.log(found.whole.value))
    assert all(row.drift and row.drift.n == 2 and row.flips for row in found.rows)
    written = json.loads(json.dumps(found.to_json()))
    assert [row["name"] for row in written["rows"]] == list(rows) and written["closure"] == found.closure


@pytest.mark.slow
def test_the_recipe_without_its_only_ingredient_is_the_default(ground: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(caches=[CACHE])
    found = measured(ground, recipe, monkeypatch)
    (row,) = found.rows
    assert row.drift and row.drift.value == 1 and found.closure == pytest.approx(1)


@pytest.mark.slow
def test_what_diverges_or_is_refused_without_an_ingredient_is_told(
    ground: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = Problem.draw

    def drawn(self: Problem, recipe: Recipe | None, *rest: Any) -> Pictures:
        if recipe is not None and recipe.steps == 4 and not recipe.caches:
            raise HastenError("deepcache: is needed here")
        found = draw(self, recipe, *rest)
        broken = recipe is not None and recipe.steps == 4 and recipe.guidance is None
        return Pictures(found.images, found.latents * float("nan")) if broken else found

    recipe = Recipe(solver="unipc", steps=4, guidance=INTERVAL, caches=[CACHE])
    monkeypatch.setattr(Problem, "draw", drawn)
    found = measured(ground, recipe, monkeypatch)
    rows = {row.ingredient.name: row for row in found.rows}
    assert rows["interval"].drift is None and rows["interval"].flips is None
    assert found.refused == {"deepcache": "deepcache: is needed here"} and "deepcache" not in rows


def test_pairs_of_ingredients_that_hinder_each_other_make_up_the_whole() -> None:
    """ln T = -(a + b + c) + ab + ac + bc parts: each comes first with its own, last with its own less the pairs'."""
    own, pairs = {"a": 1.0, "b": 0.7, "c": 0.4}, {"ab": -0.3, "ac": -0.1, "bc": 0.2}
    rows = []
    for name, log in own.items():
        last = log + sum(value for pair, value in pairs.items() if name in pair)
        first, last = (Estimate(math.exp(x), math.exp(x - 0.1), math.exp(x + 0.1), 5) for x in (log, last))
        rows.append(Contribution(Ingredient(name, Recipe()), last, 1.0, None, None, first))
    whole = math.exp(sum(own.values()) + sum(pairs.values()))
    found = Ablation(Estimate(whole, whole, whole, 5), rows)
    assert found.closure == pytest.approx(1) and found.rows[0].speed.high == pytest.approx(math.exp(0.8 + 0.1))


def test_the_closing_line_is_honest() -> None:
    def told(whole: float, *parts: float) -> str:
        rows = [
            Contribution(Ingredient(str(part), Recipe()), Estimate(part, part, part, 3), part, None, None)
            for part in parts
        ]
        return closure(Ablation(Estimate(whole, whole, whole, 3), rows))

    assert "make 6.00×" in told(6, 3, 2) and "sum to 100 %" in told(6, 3, 2) and "independent" not in told(6, 3, 2)
    assert "sum to 61 %" in told(6, 1.5, 2) and "not independent" in told(6, 1.5, 2)
    assert "sum to 39 %" in told(6, 2) and "differs is the clock" in told(6, 2)
    assert "too little speed-up" in told(1.02, 1.01)


def test_times_of_the_parts_sum_to_the_total() -> None:
    found = break_down(problem(), FULL, repeats=1)
    for times, calls in ((found.default, STEPS + 1), (found.recipe, 4)):
        assert list(times.parts) == ["unet", "text encoder", "vae decode", REST] == found.parts
        assert times.calls == calls and times.call == times.parts["unet"] / calls
        assert all(seconds > 0 for seconds in times.parts.values())
        assert times.total == pytest.approx(sum(times.parts.values()))
    assert json.loads(json.dumps(found.to_json()))["recipe"]["calls"] == 4


def test_a_watch_changes_nothing_and_is_taken_off() -> None:
    pipe, watch = pipelines.make("sd"), Stopwatch()
    before = dict(vars(pipe))
    inside = {name: dict(vars(part)) for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}

    def images() -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return pipe("a", generator=generator, num_inference_steps=3, output_type="pt").images

    plain = images()
    with pytest.raises(KeyboardInterrupt), watched(pipe, watch):
        assert isinstance(pipe.unet, type(before["unet"])) and pipe.unet.config is before["unet"].config
        assert torch.equal(images(), plain) and watch.calls == {"unet": 4, "text encoder": 2, "vae decode": 1}
        raise KeyboardInterrupt
    assert all(vars(pipe)[name] is part for name, part in before.items() if name in inside)
    assert all(vars(before[name]).keys() == kept.keys() for name, kept in inside.items())
    assert torch.equal(images(), plain) and watch.calls["unet"] == 4


def test_what_is_timed_within_something_timed_counts_once() -> None:
    watch = Stopwatch()
    inner = watch.timed("inner", lambda: 1)
    assert watch.timed("outer", inner)() == 1 and list(watch.seconds) == ["outer"]
    assert inner() == 1 and watch.calls == {"outer": 1, "inner": 1}


def test_the_result_holds_both_and_the_summary_tells_them(done: Any) -> None:
    result, written = done.result, json.loads((done.out / "front.json").read_text())
    assert written["ablation"]["rows"] and written["breakdown"]["default"]["calls"] == STEPS + 1
    text = (done.out / "report.md").read_text()
    assert text == result.summary and text.endswith("\n") and len(text.splitlines()) <= 80
    assert "<" not in text.replace("<=", "") and "&" not in text
    found = result.chosen.confirmed
    for told in (
        f"{found.speed.value:.2f}×", f"{result.chosen.searched.drift:.2f}×", words(result.recipe), "| solver |",
        closure(result.ablation), flattery(result), "| vae decode |", "hasten.tune(pipe", "PNDMScheduler, 8 steps",
    ):  # fmt: skip
        assert told in text, told
    tables = [line for line in text.splitlines() if line.startswith("|")]
    columns = {line.replace("\\|", "").count("|") for line in tables}
    assert len(columns) == 3, "every row of a table is as wide as the others"


def test_an_interrupted_explanation_leaves_the_result(done: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from hasten.core.console import Display
    from hasten.evaluate import explain

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(explain, "ablate", interrupted)
    monkeypatch.setattr(explain, "break_down", lambda *_: None)
    result = replace(done.result, ablation=None, breakdown=None)
    explain.explain(result, SimpleNamespace(), None, 1, Display(False))  # type: ignore[arg-type]
    assert result.ablation is None and 'id="ablation"' not in result.report and "ingredient" not in result.summary


def test_fitted_numbers_are_cut_short_for_the_page(done: Any, tmp_path: Any) -> None:
    statistics = torch.arange(12.0).reshape(3, 4)
    recipe = Recipe(solver={"name": "dpm-v3", "order": 2, "span": (-5.0, 5.0), "statistics": statistics}, steps=5)
    short = shortened(recipe.to_dict())
    assert short["solver"]["statistics"] == "12 fitted numbers" and short["steps"] == 5
    assert shortened({"at": [0.5] * 20}) == {"at": "0.5, 0.5, … 0.5 (20 numbers)"}
    front = [replace(f, way=recipe) for f in done.result.front]
    replace(done.result, front=front).save(tmp_path)
    kept = json.loads((tmp_path / "front.json").read_text())["front"][0]["recipe"]["solver"]
    assert kept["statistics"] == {"tensor": [3, 4]}
    assert Recipe.load(tmp_path / "recipe.json").to_dict()["solver"]["statistics"].equal(statistics)
    assert "12 fitted numbers" in (tmp_path / "report.html").read_text()


def test_search_and_confirmation_agree_where_their_intervals_overlap() -> None:
    def finalist(searched: tuple[float, float, float], confirmed: tuple[float, float, float]) -> Any:
        value, *interval = searched
        seen = Score(value, 0.0, 2.0, {}, interval=interval)
        drift = Estimate(*confirmed, n=32)
        return Finalist("A", Recipe(), seen, confirmed=SimpleNamespace(drift=drift), pictures=None)  # type: ignore[arg-type]

    front = [finalist((0.1, 0.05, 0.4), (0.4, 0.4, 0.9)), finalist((0.1, 0.05, 0.3), (0.4, 0.31, 0.9))]
    told = flattery(SimpleNamespace(front=front))  # type: ignore[arg-type]
    assert "4.00 times" in told and "overlap for 1 of 2" in told
    assert not finalist((0.5, 0.45, 0.6), (0.4, 0.31, 0.44)).agrees, "the search may also have seen too much"
