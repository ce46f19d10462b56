"""The parts of a tuning one by one: budgets, samples, references, the space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pipelines
import pytest
import torch
from imagined import score
from small import LETTERS, STEPS, hurry, problem

import hasten
from hasten.compilers import TorchCompile
from hasten.core.errors import HastenError
from hasten.core.registry import Span
from hasten.evaluate import references as reference
from hasten.evaluate.budget import Budget, Score
from hasten.evaluate.problem import Problem
from hasten.evaluate.references import References
from hasten.evaluate.samples import choose, known_prompts, read_prompts
from hasten.measure import count_calls
from hasten.quantize import QUANTIZERS, BFloat16
from hasten.recipe import Recipe
from hasten.search.executions import executions
from hasten.search.space import Space
from hasten.solvers import SOLVERS

torch.set_num_threads(1)  # the networks are tiny


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


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


@pytest.mark.slow
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
    with pytest.raises(HastenError, match="has no unet, transformer"):
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


def test_every_registered_method_is_a_way_to_execute_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    network = pipelines.make("sd").unet
    monkeypatch.setattr(TorchCompile, "check", lambda *_: None)  # as if there were a C++ compiler
    labels = ["channels-last", "compiled", "compiled, channels-last", "bfloat16", "bfloat16, compiled"]
    assert list(executions(network)) == labels

    @dataclass(frozen=True)
    class Eight(BFloat16):
        name = "eight"
        search_space: ClassVar[Mapping[str, Any]] = {"group": Span(32, 64), "exact": (False, True)}
        group: int = 32
        exact: bool = False

    monkeypatch.setattr(QUANTIZERS, "_classes", {**QUANTIZERS._classes, "eight": Eight})
    more = executions(network)
    alone = ["eight", "eight, exact", "eight, group 64", "eight, group 64, exact"]
    assert list(more) == [*labels[:4], *alone, "bfloat16, compiled", *(f"{label}, compiled" for label in alone)]
    assert more["eight, exact"] == {"quantize": Eight(exact=True)}
    assert Recipe(**more["eight, compiled"]).quantize == Eight()
    monkeypatch.setattr(Eight, "check", lambda *_: (_ for _ in ()).throw(HastenError("no")))
    assert list(executions(network)) == labels
