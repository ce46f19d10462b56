"""The search: what is proposed, kept, resumed, and chosen; most of it without a model."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from imagined import FOREVER, Imagined, score, search
from small import hurry, problem

from hasten.compilers import TorchCompile
from hasten.core.errors import HastenError
from hasten.evaluate.budget import Budget, Score
from hasten.evaluate.problem import Problem
from hasten.evaluate.references import References
from hasten.evaluate.results import Trial, front, plain_front
from hasten.evaluate.scores import MARGIN, compared
from hasten.evaluate.scores import margin as margin_of
from hasten.quantize import BFloat16, Float16
from hasten.recipe import Recipe
from hasten.search.executions import prepares, worth_timing
from hasten.search.finalists import finalists
from hasten.search.judge import Judge, Verdict
from hasten.search.near import near
from hasten.search.space import Space
from hasten.search.storage import SQLITE
from hasten.search.study import Search, objectives

torch.set_num_threads(1)  # the networks are tiny


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


# The search


def trial(number: int, drift: float, speed: float, flips: float = 0.0, **recipe: Any) -> Trial:
    return Trial(number, Recipe(solver="ddim", steps=number + 1, **recipe), score(drift, flips, speed), 5)


def test_fronts_hold_what_nothing_else_beats() -> None:
    cached = {"caches": ["deepcache"]}
    trials = [trial(0, 1.0, 2.0), trial(1, 0.5, 1.5), trial(2, 0.8, 1.4), trial(3, 0.9, 3.0, **cached)]
    assert [t.number for t in front(trials)] == [3, 1]
    assert [t.number for t in plain_front(trials)] == [0, 1]


def test_finalists_go_from_the_hopeful_to_the_safe() -> None:
    default = score(flips=0.1, speed=1.0)
    found = [(1.2, 9.0), (0.95, 8.0), (0.85, 7.0), (0.84, 6.0), (0.7, 5.0), (0.6, 4.0), (0.1, 1.5), (0.3, 2.0)]
    trials = [trial(i, drift, speed) for i, (drift, speed) in enumerate(found)]

    def chosen(budget: str, margin: float, count: int) -> list[int]:
        return [t.number for t in finalists(trials, Budget.of(budget), default, margin, count)]

    assert chosen("1x", 0.1, 5) == [2, 3, 4, 7, 6]
    assert chosen("1x", 0.35, 5) == [2, 4, 5, 7, 6], "2 is hopeful, 5 and 7 are careful, 6 twice so, 4 comes next"
    assert chosen("speed>=4.5", 0.1, 3) == [0, 3, 4], "4 has the least drift at that speed, 3 is faster, 0 is safe"
    assert set(chosen("0.01x", 0.1, 2)) == {6, 7}
    careless = trial(8, 0.1, 10.0, flips=0.5)
    assert careless not in finalists([*trials, careless], Budget.of("1x"), default, 0.1, 5), "it flips"


def test_a_search_does_not_care_for_more_than_twice_the_budget() -> None:
    assert objectives(score(drift=0.8, speed=4.0), Budget.of("1x"), 0.2) == [0.8, 0.25]
    assert objectives(score(drift=0.1, speed=4.0), Budget.of("1x"), 0.2) == [0.4, 0.25]
    assert objectives(score(drift=0.1, speed=9.0), Budget.of("speed>=2"), 0.2) == [0.1, 0.25]
    assert objectives(score(drift=0.1, speed=4.0), Budget.of("ssim>=0.9"), 0.2) == [0.1, 0.25]


def test_a_default_that_drifts_unevenly_makes_a_search_careful() -> None:
    alike = np.linspace(0.9, 1.1, 16)
    uneven = np.array([0.01] * 7 + [0.5, 0.6] + [1.0] * 7)
    margin = {
        name: margin_of(SimpleNamespace(samples={"latent_rmse": x}))  # type: ignore[arg-type]
        for name, x in (("alike", alike), ("uneven", uneven), ("exact", np.zeros(16)))
    }
    assert MARGIN <= margin["alike"] < 0.2 and margin["exact"] == pytest.approx(MARGIN)
    assert margin["uneven"] > 0.9


def test_the_same_seed_proposes_the_same_first_recipes(tmp_path: Path) -> None:
    space_starts = len(search().space.starts())
    runs = []
    for seed in (0, 0, 1):
        one, asked = search(seed=seed), Imagined()
        one.run(asked, FOREVER, most=space_starts + 2)  # type: ignore[arg-type]
        runs.append(asked.asked)
    assert runs[0] == runs[1] != runs[2]


def test_near_a_recipe_one_thing_is_another() -> None:
    """What is left of the old recipe is as it was, numbers stay in range, and the sampler fills in new settings."""
    import optuna

    space = Space.of(problem())
    start = {"solver": "bns order=4", "calls": 5, "grid": "bent", "guidance": "none", "cache": "cache"}
    start |= {"cache.site": "unet-deep", "cache.gate": "every", "cache.forecaster": "taylor"}
    study, changes = optuna.create_study(directions=["minimize"] * 2), set[str]()
    for i in range(120):
        study.enqueue_trial(start)
        old = study.ask()
        space.suggest(old)
        params = near(old.params, old.distributions, Random(i))
        study.enqueue_trial(params)
        new = study.ask()
        space.suggest(new)
        assert params.items() <= new.params.items(), "nothing that hangs on another choice is left over"
        (changed,) = (name for name, value in params.items() if old.params[name] != value)
        changes.add(changed)
        gone = (f"{old.params[changed]}.", f"{changed}.{old.params[changed]}.")
        assert all(name.startswith(gone) for name in old.params.keys() - params.keys())
        if changed == "calls":
            assert abs(params["calls"] - 5) == 1
        if changed == "bent.rest":
            assert 0 < abs(params[changed] - old.params[changed]) < 0.5
    assert {"solver", "calls", "grid", "guidance", "cache", "cache.site", "bent.slope"} <= changes


def test_a_search_looks_near_the_best_it_has() -> None:
    """Every other proposal, once there is nothing left to begin with: so it finds the peak of a narrow hill."""

    class Hill(Imagined):
        def score(self, recipe: Recipe) -> Score:
            told = recipe.to_dict()
            off = abs(told["grid"].get("rho", 1.0) - 7.3) if told.get("grid") else 10.0
            steps = recipe.steps or 1
            return score(drift=off / 2 + 3 / steps, speed=50 / steps)

        def complete(self, recipe: Recipe) -> bool:
            return True

    one = search()
    one.run(Hill(), FOREVER, most=60)  # type: ignore[arg-type]
    found = [t.params for t in one.study.trials]
    begun = len(one.space.starts())

    def differences(i: int, j: int) -> int:
        return sum(found[i][name] != value for name, value in found[j].items() if name in found[i])

    near_one = [min(differences(i, j) for j in range(i)) <= 1 for i in range(begun, len(found))]
    assert all(near for i, near in enumerate(near_one, begun) if i % 2)
    assert max(t.score.speed for t in one.trials if t.score.drift <= 1) >= 10


def test_an_acceleration_has_to_earn_its_place() -> None:
    """The best are tried without each of what they have; of those about as fast the simpler goes on."""

    class Idle(Imagined):  # no acceleration changes a thing
        def score(self, recipe: Recipe) -> Score:
            return score(drift=0.1, speed=50 / (recipe.steps or 1) + 0.01 * len(recipe.accelerations))

        def complete(self, recipe: Recipe) -> bool:
            return True

    one, judge = search(), Idle()
    both = {"guidance": "interval", "interval.low": 0.1, "interval.high": 5.0, "cache": "deepcache"}
    plain = {"solver": "unipc order=2", "calls": 7, "grid": "logsnr"}
    one.study.enqueue_trial(plain | both | {"deepcache.interval": 2})
    while not one.trials or not one.trials[-1].way.accelerations:  # the recipes to begin with come first
        one.run(judge, FOREVER, most=one.proposals + 1)  # type: ignore[arg-type]
    busy = one.trials[-1]
    assert one.simplify([busy], judge, FOREVER)  # type: ignore[arg-type]
    fewer = one.trials[-2:]
    without = [{kind: t.params[kind] for kind in ("guidance", "cache")} for t in fewer]
    assert without == [{"guidance": "none", "cache": "deepcache"}, {"guidance": "interval", "cache": "none"}]
    assert all(t.params["calls"] == 7 and "none" in t.params.values() for t in fewer)
    assert "interval.low" not in fewer[0].params and "deepcache.interval" not in fewer[1].params
    fast = replace(busy, score=score(drift=0.1, speed=1.2 * busy.score.speed))
    for trials, best in (([busy, *fewer], fewer[0]), ([fast, *fewer], fast)):
        assert finalists(trials, Budget.of("1x"), judge.default, judge.margin, 1) == [best]


def test_a_search_ends_with_the_best_simplified(monkeypatch: pytest.MonkeyPatch) -> None:
    from hasten.core.console import Display
    from hasten.search.planning import Plan
    from hasten.search.tuning import Tuning

    asked: Any = Imagined()
    asked.clock, asked.speed = SimpleNamespace(seconds=0.0), lambda way: 1.0
    monkeypatch.setattr(Plan, "_confirming", lambda *_: 0.0)
    plan = Plan(None, None, 60.0, 1, executes=True)  # type: ignore[arg-type]
    job = Tuning(None, None, plan, search(budget="9x"), None, None, None, Display(False))  # type: ignore[arg-type]
    start = {"solver": "unipc order=2", "calls": 4, "grid": "logsnr", "guidance": "none"}
    for _ in job.search.study.trials:  # nothing else to begin with
        job.search.study.tell(job.search.study.ask(), [9.0, 9.0])
    job.search.study.enqueue_trial(start | {"cache": "deepcache", "deepcache.interval": 3})
    job.search.run(asked, FOREVER, most=1)  # type: ignore[arg-type]
    assert job._refine(asked)  # type: ignore[arg-type]
    assert [trial.params["cache"] for trial in job.search.trials] == ["deepcache", "none"]


def test_resuming_neither_repeats_nor_loses_a_trial(tmp_path: Path) -> None:
    first, asked = search(tmp_path), Imagined()
    first.run(asked, FOREVER, most=5)  # type: ignore[arg-type]
    before = first.trials
    hanging = first.study.ask()  # as if the process had been killed here
    first.space.suggest(hanging)
    second, more = search(tmp_path, resume=True), Imagined()
    assert second.trials == before and second.proposals == 5
    second.run(more, FOREVER, most=9)  # type: ignore[arg-type]
    assert second.trials[: len(before)] == before and second.proposals == 9
    assert not set(asked.asked) & set(more.asked)
    params = [t.params for t in second.study.trials if "recipe" in t.user_attrs]
    assert hanging.params in params, "what was running is tried after all"
    one_run = search(seed=0)
    one_run.run(Imagined(), FOREVER, most=8)  # type: ignore[arg-type]
    starts = len(one_run.space.starts())
    tried = [t.way.to_dict() for t in second.trials]
    assert all(t.way.to_dict() in tried for t in one_run.trials[:starts])


def test_a_folder_is_not_searched_twice_by_accident(tmp_path: Path) -> None:
    search(tmp_path).run(Imagined(), FOREVER, most=1)  # type: ignore[arg-type]
    with pytest.raises(HastenError, match=r"already holds a search.*--resume"):
        search(tmp_path)
    with pytest.raises(HastenError, match=r"budget: .* was made for 1x, not 2x"):
        search(tmp_path, resume=True, budget="2x")
    with pytest.raises(HastenError, match=r"seed: .* was made for 0, not 3"):
        search(tmp_path, resume=True, seed=3)


def test_an_interrupt_keeps_what_is_finished_and_puts_the_rest_back(tmp_path: Path) -> None:
    one = search(tmp_path)
    assert not one.run(Imagined(stop=4), FOREVER, most=9)  # type: ignore[arg-type]
    assert len(one.trials) == one.proposals == 3
    interrupted = one.study.trials[3].params
    again, asked = search(tmp_path, resume=True), Imagined()
    assert again.run(asked, FOREVER, most=8)  # type: ignore[arg-type]
    assert interrupted in [t.params for t in again.study.trials if "recipe" in t.user_attrs]


def test_one_recipe_that_fails_does_not_end_the_search() -> None:
    one = search()
    assert one.run(Imagined(fail=2), FOREVER, most=4)  # type: ignore[arg-type]
    assert one.proposals == 4 and len(one.trials) == 3
    assert any("out of luck" in t.user_attrs.get("error", "") for t in one.study.trials)

    class Never(Imagined):
        def fitted(self, recipe: Recipe) -> Recipe:
            raise RuntimeError("no luck at all")

    with pytest.raises(HastenError, match=r"no recipe could be run; .* no luck at all"):
        search().run(Never(), 0.0)  # type: ignore[arg-type]


def test_a_recipe_that_comes_again_is_not_measured_again() -> None:
    one, asked = search(), Imagined()
    for _ in range(2):
        one.study.enqueue_trial(
            {"solver": "unipc order=2", "calls": 7, "grid": "logsnr", "guidance": "none", "cache": "none"}
        )
    one.run(asked, FOREVER, most=len(one.space.starts()) + 2)  # type: ignore[arg-type]
    assert len(asked.asked) == len(set(asked.asked)) == one.proposals - 1


def test_a_recipe_that_is_hopeless_on_the_first_batch_is_in_no_front() -> None:
    one = search()
    for calls in (3, 9):
        one.study.enqueue_trial({"solver": "unipc order=2", "calls": calls, "grid": "logsnr"})
    one.run(Imagined(), FOREVER, most=len(one.space.starts()) + 2)  # type: ignore[arg-type]
    assert 3 not in {trial.way.steps for trial in one.trials} and 9 in {trial.way.steps for trial in one.trials}


def test_what_is_compiled_is_timed_again_and_not_drawn() -> None:
    one, asked = search(), Imagined()
    one.run(asked, FOREVER, most=4)  # type: ignore[arg-type]
    before, drawn = one.trials, len(asked.asked)
    assert one.refine(before[:2], ["compiled", "bfloat16"], asked, FOREVER)  # type: ignore[arg-type]
    more = one.trials[len(before) :]
    changed = [(t.way.compile is not None, t.way.quantize is not None) for t in more]
    assert changed == [(True, False), (False, True)] * 2
    for plain, compiled in zip(before, more[::2]):
        assert compiled.score == replace(plain.score, speed=2 * plain.score.speed)
        assert compiled.way.model_copy(update={"compile": None}) == plain.way
    assert len(asked.asked) == drawn + 2, "casts change pictures"
    tried = one.proposals
    assert one.refine(before[2:], ["compiled"], asked, time.monotonic()) and one.proposals == tried, (
        "there is no time left"
    )  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_judge_looks_at_all_samples_only_where_there_is_hope(monkeypatch: pytest.MonkeyPatch) -> None:
    task = problem(search=6)
    task.batch = 2
    drawn: list[int] = []
    original = Problem.draw

    def draw(self: Problem, recipe: Any, samples: Any, *rest: Any) -> Any:
        drawn.append(len(samples))
        return original(self, recipe, samples, *rest)

    found = Judge(task, References(task), Budget.of("0.5x"))
    monkeypatch.setattr(Problem, "draw", draw)

    def verdict(recipe: Recipe) -> Verdict:
        pictures = found.draw(recipe)
        return found.time(recipe, found.score(pictures), found.complete(pictures))

    good = verdict(Recipe(solver="unipc", steps=12, grid="logsnr"))
    assert good.complete and drawn == [2, 4]
    made = original(task, Recipe(solver="unipc", steps=12, grid="logsnr"), task.samples["search"])
    whole = compared(made, found.reference)
    default = compared(original(task, None, task.samples["search"]), found.reference)
    ours, theirs = (float(np.median(x.samples["latent_rmse"])) for x in (whole, default))
    assert good.score.drift == pytest.approx(ours / theirs, rel=1e-5)
    assert good.score.medians["latent_rmse"] == pytest.approx(float(np.median(whole.samples["latent_rmse"])), rel=1e-5)
    drawn.clear()
    bad = verdict(Recipe(steps=1))
    assert not bad.complete and drawn == [2] and bad.score.speed > 0


def test_of_pairs_only_those_with_the_fastest_quantizer_are_timed() -> None:
    bfloat, half, compiled = BFloat16(), Float16(), TorchCompile()
    ways = {
        "compiled": {"compile": compiled}, "bfloat16": {"quantize": bfloat}, "float16": {"quantize": half},
        "bfloat16, compiled": {"quantize": bfloat, "compile": compiled},
        "float16, compiled": {"quantize": half, "compile": compiled},
    }  # fmt: skip
    speeds = {"compiled": 3.0, "bfloat16": 1.1, "float16": 1.2}
    timed = [label for label, way in ways.items() if worth_timing(way, ways, speeds)]
    assert timed == ["compiled", "bfloat16", "float16", "float16, compiled"]
    assert [label for label, way in ways.items() if prepares(way)] == [n for n in ways if "compiled" in n]


def test_machines_that_share_a_folder_share_a_journal(tmp_path: Path) -> None:
    first = search(tmp_path, shared=True)
    first.run(Imagined(), FOREVER, most=3)  # type: ignore[arg-type]
    assert (tmp_path / "study.journal").exists() and not (tmp_path / "study.db").exists()
    helper, asked = Search.join(first.space, first.budget, 0, tmp_path, number=1), Imagined()
    helper.run(asked, FOREVER, most=5)  # type: ignore[arg-type]
    assert len(asked.asked) == 2 and first.proposals == 5 and first.trials == helper.trials
    with pytest.raises(HastenError, match="already holds a search"):
        search(tmp_path)
    again = search(tmp_path, resume=True)
    assert again.trials == first.trials, "the journal is gone on with, by one machine as well"
    alone = tmp_path / "alone"
    alone.mkdir()
    search(alone).run(Imagined(), FOREVER, most=1)  # type: ignore[arg-type]
    with pytest.raises(HastenError, match=r"cluster: .* kept in SQLite"):
        search(alone, resume=True, shared=True)


@pytest.mark.parametrize("harm", ["cut", "garbled", "emptied"])
def test_a_damaged_study_is_refused_in_one_line(tmp_path, harm):
    search(tmp_path).run(Imagined(), FOREVER, most=4)
    file = tmp_path / SQLITE
    whole = file.read_bytes()
    file.write_bytes({"cut": whole[:20_000], "garbled": b"x" * len(whole), "emptied": b""}[harm])
    if harm == "emptied":  # SQLite takes an empty file for a new one, and so does the search
        assert not search(tmp_path, resume=True).trials
        return
    with pytest.raises(HastenError, match="cannot be read or written") as caught:
        search(tmp_path, resume=True)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_a_full_disk_ends_a_search_in_one_line(tmp_path, monkeypatch):
    from sqlalchemy.exc import OperationalError

    searching = search(tmp_path)
    searching.run(Imagined(), FOREVER, most=3)

    def full(*_, **__):
        raise OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))

    monkeypatch.setattr(searching.study, "tell", full)
    with pytest.raises(HastenError, match="disk is full"):
        searching.run(Imagined(), FOREVER, most=5)
