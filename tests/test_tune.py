"""Tuning end to end on a tiny pipeline with random weights, and its parts one by one."""

from __future__ import annotations

import html.parser
import inspect
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from small import LETTERS, STEPS, hurry, tuned

import hasten
from hasten.compilers import TorchCompile
from hasten.core.errors import HastenError
from hasten.core.registry import Span
from hasten.evaluate import references as reference
from hasten.evaluate.budget import Budget, Score
from hasten.evaluate.problem import Cost, Problem
from hasten.evaluate.references import References
from hasten.evaluate.results import Candidate, Confirmed, Trial, front, plain_front
from hasten.evaluate.samples import Samples, choose, known_prompts, read_prompts
from hasten.evaluate.scores import MARGIN, compared
from hasten.evaluate.scores import margin as margin_of
from hasten.measure import Estimate, count_calls
from hasten.quantize import BFloat16
from hasten.recipe import Recipe
from hasten.search.finalists import finalists
from hasten.search.judge import Judge, Verdict
from hasten.search.near import near
from hasten.search.space import Space
from hasten.search.study import Search, objectives
from hasten.solvers import BNS, SOLVERS

torch.set_num_threads(1)  # the networks are tiny


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


@pytest.fixture
def folder(done: Any, tmp_path: Path) -> Path:
    """A copy of what that tuning wrote, to go on with."""
    return Path(shutil.copytree(done.out, tmp_path / "copy"))


# Budgets


@pytest.mark.parametrize(
    ("text", "metric", "limit"),
    [
        ("1.0x", "drift", 1.0), (" 0.5 X ", "drift", 0.5), ("2", "drift", 2.0), (1.5, "drift", 1.5),
        ("drift<=0.9x", "drift", 0.9), ("ssim>=0.95", "ssim", 0.95), ("psnr >= 30", "psnr", 30.0),
        ("latent_rmse<=0.1", "latent_rmse", 0.1), ("speed>=3x", "speed", 3.0), ("speed>=3", "speed", 3.0),
    ],
)  # fmt: skip
def test_budgets_are_read_and_written(text: Any, metric: str, limit: float) -> None:
    budget = Budget.of(text)
    assert (budget.metric, budget.limit) == (metric, limit)
    assert Budget.of(str(budget)) == budget


@pytest.mark.parametrize(
    "text", ["-1x", "0x", "", "x", "fast", "nanx", "infx", "ssim>=2", "ssim<=0.9", "rmse>=1", "speed>=-3", "speed<=3"]
)
def test_impossible_budgets_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(HastenError, match=r"^budget: ") as caught:
        Budget.of(text)
    assert "\n" not in str(caught.value) and repr(text) in str(caught.value)


def score(drift: float = 1.0, flips: float = 0.0, speed: float = 2.0, **medians: float) -> Score:
    return Score(drift, flips, speed, {"ssim": 0.9, "psnr": 30.0, "rmse": 0.1, **medians})


@pytest.mark.parametrize(
    ("budget", "kept", "passed"),
    [
        ("1x", score(drift=1.0, flips=0.1), score(drift=1.01)),
        ("1x", score(drift=0.5), score(drift=0.5, flips=0.2)),
        ("2x", score(drift=1.9, flips=0.2), score(drift=2.1)),
        ("ssim>=0.9", score(ssim=0.9), score(ssim=0.89)),
        ("psnr>=30", score(psnr=30.0), score(psnr=29.0)),
        ("rmse<=0.1", score(rmse=0.1), score(rmse=0.11)),
        ("speed>=2", score(speed=2.0), score(speed=1.9)),
    ],
)
def test_a_budget_tells_scores_apart(budget: str, kept: Score, passed: Score) -> None:
    default = score(flips=0.1, speed=1.0)
    limit = Budget.of(budget)
    assert limit.within(kept, default) and not limit.within(passed, default)
    assert not limit.within(kept, default, margin=0.5) or limit.metric == "drift"
    assert max(limit.excess(kept, default, 0.1).values()) >= max(limit.excess(kept, default).values())


def test_memory_is_a_limit_besides() -> None:
    limit = Budget.of("1.0x, memory<=1.5GB")
    small, large = (replace(score(drift=0.5), memory=m) for m in (10**9, 2 * 10**9))
    assert str(limit) == "1x, memory<=1500MB" and "1500 MB" in limit.sentence and Budget.of(str(limit)) == limit
    assert limit.within(small, score()) and not limit.within(large, score())
    for wrong in ("1x, ssim>=0.9", "1x,", "1x, memory<=0MB", "memory<=3MB, 1x"):
        with pytest.raises(HastenError, match="budget"):
            Budget.of(wrong)


# Samples


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_search_and_confirm_share_no_prompt_and_no_seed(seed: int) -> None:
    sets = choose(LETTERS, {"search": 16, "confirm": 32}, seed)
    search, confirm = sets["search"], sets["confirm"]
    assert (len(search), len(confirm)) == (16, 32)
    assert not set(search.prompts) & set(confirm.prompts)
    assert len({*search.seeds, *confirm.seeds}) == 48
    assert set(search.prompts) | set(confirm.prompts) == set(LETTERS)
    assert choose(LETTERS, {"search": 16, "confirm": 32}, seed) == sets
    assert choose(LETTERS, {"search": 16, "confirm": 32}, seed + 1) != sets


def test_seeds_of_other_tunings_are_other_seeds() -> None:
    first, second = (choose(LETTERS, {"search": 99_999, "confirm": 99_999}, seed) for seed in (0, 1))
    seen = [s for sets in (first, second) for samples in sets.values() for s in (samples.seeds[0], samples.seeds[-1])]
    assert seen == sorted(set(seen))


def test_prompts_that_cannot_be_divided_are_refused(tmp_path: Path) -> None:
    sizes = {"search": 2, "confirm": 2}
    for prompts in (["a"], ["a", " a "], {"search": ["a"]}, {"search": ["a"], "confirm": ["b", "a"]}, {"serch": ["a"]}):
        with pytest.raises(HastenError, match=r"^prompts: "):
            choose(prompts, sizes)
    file = tmp_path / "prompts.txt"
    file.write_text("\n# nothing\n")
    with pytest.raises(HastenError, match="holds none"):
        read_prompts(file)
    file.write_text("# two\n a \n\nb\n")
    assert read_prompts(file) == ["a", "b"]


def test_models_of_the_zoo_bring_their_captions() -> None:
    assert isinstance(known_prompts(pipelines.make("sd")), list)
    from hasten import zoo

    if "digits" in zoo.names():
        found = known_prompts(SimpleNamespace(name_or_path=str(zoo.folder("digits"))))
        assert found == {"search": zoo.captions("digits", "search"), "confirm": zoo.captions("digits", "confirm")}


# The problem and its references


def problem(pipe: Any = None, **sizes: int) -> Problem:
    samples = choose(LETTERS, sizes or {"search": 3, "confirm": 4})
    return Problem(pipe or pipelines.make("sd"), samples, batch=2, call={"num_inference_steps": STEPS})


def test_the_default_is_what_the_pipeline_itself_draws() -> None:
    pipe, task = pipelines.make("sd"), problem()
    samples = task.samples["search"]
    made = task.draw(None, samples)
    for i, (prompt, seed) in enumerate(zip(samples.prompts, samples.seeds)):
        generator = torch.Generator().manual_seed(seed)
        alone = pipe(prompt, generator=generator, num_inference_steps=STEPS, output_type="pt").images
        generator = torch.Generator().manual_seed(seed)
        latents = pipe(prompt, generator=generator, num_inference_steps=STEPS, output_type="latent").images
        assert torch.allclose(made.images[i], alone[0], atol=1e-5)
        assert torch.allclose(made.latents[i], latents[0], atol=1e-4)


def test_the_recipe_wins_over_the_settings_of_the_default() -> None:
    task = problem()
    recipe = Recipe(solver="ddim", steps=3, guidance=2.0)
    assert task.cost(recipe).calls == 3 and task.cost(None).calls == STEPS + 1  # PNDM asks once more
    one = task.samples["search"][:1]
    ours = task.draw(recipe, one)
    with hasten.accelerate(pipelines.make("sd"), Recipe(solver="ddim")) as fast:
        theirs = fast(
            one.prompts[0], seed=one.seeds[0], num_inference_steps=3, guidance_scale=2.0, output_type="pt"
        ).images
    assert torch.equal(ours.images, theirs)


def test_the_reference_has_converged_or_says_that_it_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    task = problem()
    samples = task.samples["search"]
    coarse, fine, finest = (task.draw(reference.reference_recipe(task, steps), samples) for steps in (8, 16, 32))
    changes = (fine.images - coarse.images).flatten(1).square().mean(1).sqrt()
    monkeypatch.setattr(reference, "LAST", 32)
    monkeypatch.setattr(reference, "TOLERANCE", float(changes.sort().values[1]) * (1 + 1e-3))
    made, found = reference.converge(task, samples)
    settled = changes < reference.TOLERANCE
    assert found.steps == tuple(16 if done else 32 for done in settled) and int(settled.sum()) == 2
    expected = torch.where(settled[:, None, None, None], fine.images, finest.images)
    assert torch.allclose(made.images, expected, atol=1e-6)

    monkeypatch.setattr(reference, "TOLERANCE", 0.0)
    references = References(task)
    references.reference("search")
    assert references.convergence.unsettled == 3 and references.convergence.steps == (32, 32, 32)
    from hasten.evaluate.facts import notes

    assert any("3 of 3 references have not converged" in note for note in notes(task, references))


def test_references_are_kept_and_not_used_for_something_else(tmp_path: Path) -> None:
    task, file = problem(), tmp_path / "references.safetensors"
    first = References(task, file)
    made = first.default("search"), first.reference("search")
    again = References(task, file)
    task.draw = lambda *_: pytest.fail("drawn again")  # type: ignore[method-assign]
    for old, new in zip(made, (again.default("search"), again.reference("search"))):
        assert torch.equal(old.images, new.images) and torch.equal(old.latents, new.latents)
    with torch.no_grad():
        next(task.pipe.unet.parameters()).mul_(1.5)
    with pytest.raises(HastenError, match="another model"):
        References(task, file)


def test_only_text_to_image_pipelines_are_taken() -> None:
    with pytest.raises(HastenError, match="takes no heigth"):
        Problem(pipelines.make("sd"), {}, call={"heigth": 8})
    with pytest.raises(HastenError, match="has no unet or transformer"):
        Problem(object(), {})


# The space


class Fixed:
    """Stands in for an Optuna trial that takes the first choice, or the one it is told."""

    def __init__(self, **choices: Any) -> None:
        self.choices, self.asked, self.user_attrs = choices, set(), {}

    def _take(self, name: str, first: Any) -> Any:
        self.asked.add(name)
        return self.choices.get(name, first)

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        assert self._take(name, choices[0]) in choices
        return self._take(name, choices[0])

    def suggest_int(self, name: str, low: int, high: int, log: bool = False) -> Any:
        assert low <= self._take(name, low) <= high
        return self._take(name, low)

    def suggest_float(self, name: str, low: float, high: float, **_: Any) -> Any:
        assert low <= self._take(name, low) <= high
        return self._take(name, low)


def test_a_unet_with_guidance_may_have_everything_and_a_dit_other_caches() -> None:
    unet = Space.of(problem())
    assert {"interval", "reuse"} <= set(unet.methods["guidance"])
    assert {"deepcache", "faster-diffusion", "tome", "cache"} <= set(unet.methods["cache"])
    trial = Fixed(guidance="interval", cache="deepcache")
    recipe = unet.suggest(trial)
    assert recipe.caches and recipe.guidance
    assert {"interval.low", "interval.high", "deepcache.interval", "deepcache.branch"} <= trial.asked
    dit = Space.of(SimpleNamespace(pipe=pipelines.make("pixart"), guided=False))  # type: ignore[arg-type]
    assert not dit.methods["guidance"] and "deepcache" not in dit.methods["cache"]
    assert "taylorseer" in dit.methods["cache"] and "channels-last" in dit.executions
    trial = Fixed()
    assert not dit.suggest(trial).accelerations and "guidance" not in trial.asked
    assert all(s["guidance"] == "none" for s in dit.starts())
    assert all(s["cache"] in ("none", *dit.methods["cache"]) for s in dit.starts())


def test_a_part_of_a_cache_is_chosen_with_its_own_settings() -> None:
    space = Space.of(problem())
    trial = Fixed(**{"cache": "cache", "cache.site": "unet-deep", "cache.forecaster": "taylor"})
    (cache,) = space.suggest(trial).caches
    assert (cache.site.name, cache.gate.name, cache.forecaster.name) == ("unet-deep", "every", "taylor")
    assert {"cache.site.unet-deep.branch", "cache.gate.every.interval", "cache.forecaster.taylor.order"} <= trial.asked
    assert "cache.site.whole.space" not in trial.asked


def test_the_space_avoids_what_is_known_to_go_wrong() -> None:
    """Heun, singlestep DPM-Solver and PNDM blow up at few evaluations under guidance, and say so."""
    choices = [SOLVERS.build(solver) for solver in Space.of(problem()).solvers.values()]
    assert choices and not any(solver.warning or solver.stochastic or solver.adaptive for solver in choices)
    assert not {"heun", "dpm", "pndm", "edm"} & {solver.name for solver in choices}


def test_every_choice_of_the_space_is_a_recipe_the_model_runs() -> None:
    task = problem()
    space = Space.of(task)
    branches = space.methods["cache"]["deepcache"]["branch"]
    suggestions = [
        *({"solver": solver, "calls": 5} for solver in space.solvers),
        *({"grid": grid, "calls": 3} for grid in ("own", *space.methods["grid"])),
        *({"cache": name, "calls": 3} for name in space.methods["cache"]),
        *({"guidance": name, "calls": 3} for name in space.methods["guidance"]),
        {"cache": "deepcache", "deepcache.branch": branches.high, "calls": 3},
        {"guidance": "interval", "interval.low": 0.5, "interval.high": 2.0, "calls": 3},
    ]
    for choice in suggestions:
        recipe = space.suggest(Fixed(**choice))
        with task.running(recipe) as run, count_calls(run.network) as seen:
            assert torch.isfinite(run(task.single).images).all(), choice
        assert seen.calls == choice["calls"], choice
    for start in space.starts():
        assert space.suggest(Fixed(**start)).steps == start["calls"]


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


class Imagined:
    """A judge without a model: drift falls with steps, speed as well. Counts what it is asked."""

    default = score(flips=0.0, speed=1.0)
    margin = 0.1

    def __init__(self, stop: int | None = None, fail: int | None = None) -> None:
        self.asked: list[Any] = []
        self.stop, self.fail = stop, fail

    def fitted(self, recipe: Recipe) -> Recipe:
        return recipe

    def draw(self, recipe: Recipe) -> Recipe:
        self.asked.append(json.dumps(recipe.to_dict()))
        if len(self.asked) == self.stop:
            raise KeyboardInterrupt
        if len(self.asked) == self.fail:
            raise RuntimeError("out of luck")
        return recipe

    def score(self, recipe: Recipe) -> Score:
        steps = recipe.steps or 1
        return score(drift=10 / steps, speed=50 / steps)

    def complete(self, recipe: Recipe) -> bool:
        return (recipe.steps or 1) > 3

    def time(self, recipe: Recipe, known: Score, complete: bool) -> Verdict:
        times = 1 if recipe.compile is None else 2
        return Verdict(replace(known, speed=times * known.speed), recipe.steps or 1, complete)


def search(
    folder: Path | None = None, resume: bool = False, seed: int = 0, budget: str = "1x", shared: bool = False
) -> Search:
    solvers = {
        f"{name} order={order}": {"name": name, "order": order} for name in ("dpm++", "unipc") for order in (2, 3)
    }
    methods = {
        "grid": {"karras": {"rho": Span(1.0, 10.0)}, "logsnr": {}},
        "guidance": {"interval": {"low": Span(0.02, 1.0), "high": Span(2.0, 9.0)}},
        "cache": {"deepcache": {"interval": Span(2, 5)}},
    }
    executions = {"compiled": {"compile": TorchCompile()}, "bfloat16": {"quantize": BFloat16()}}
    return Search(Space(solvers, methods, executions), Budget.of(budget), seed, folder, resume, shared)


FOREVER = float("inf")


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


def test_a_finished_tuning_is_resumed_without_new_work(
    done: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Judge, "draw", lambda *_: pytest.fail("searched again"))
    again = tuned(folder, resume=True)
    assert [t.way.to_dict() for t in again.trials] == [t.way.to_dict() for t in done.result.trials]


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
    from hasten.fit.bns import converged
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
