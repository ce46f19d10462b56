"""Other packages beside hasten: their settings, the race among them, the process of a peer, and the whole."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pipelines
import pytest
import tiny
import torch

import hasten
from hasten.bench import benching, final, ladders, peers
from hasten.bench.contest import Contest
from hasten.bench.ladders import Ladder
from hasten.bench.outcome import side
from hasten.bench.race import Race, Racer
from hasten.bench.remote import PeerError, Remote
from hasten.bench.scout import Hopeless
from hasten.bench.setting import Setting
from hasten.bench.worker import scheduler_of
from hasten.cli import main
from hasten.core.errors import HastenError
from hasten.evaluate import references as reference
from hasten.evaluate.budget import Budget, Score
from hasten.evaluate.samples import Samples
from hasten.recipe import Recipe

torch.set_num_threads(1)  # the networks are tiny

LETTERS = list("abcdefghij")
DPM = ("DPMSolverMultistepScheduler", {"solver_order": 2, "use_karras_sigmas": True})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "FIRST", 8)
    monkeypatch.setattr(reference, "LAST", 16)
    monkeypatch.setattr(benching, "REPEATS", 2)
    monkeypatch.setattr(ladders, "_TIMES", {name: ladders._TIMES[name] for name in ("karras",)})
    monkeypatch.setattr(ladders, "_DIFFUSION", (ladders._MULTISTEP[0], ("HeunDiscreteScheduler", {})))


def contest(kind: str = "sd", **call: Any) -> Contest:
    samples = Samples(("a", "b", "c"), (5, 6, 7))
    return Contest(pipelines.make(kind), {"search": samples}, batch=3, call={"num_inference_steps": 8, **call})


def bench(against: Any = "diffusers", recipes: Any = (), out: Path | None = None, **choices: Any) -> Any:
    settings = {"minutes": 0.02, "samples": (2, 2), "batch": 2, "finalists": 1} | choices
    call = {"num_inference_steps": 6}
    return hasten.bench.bench(pipelines.make("sd"), against, recipes, LETTERS, "1.5x", out=out, call=call, **settings)


# Settings


@pytest.mark.parametrize("kind", ["sd", "sd3", "flux"])
def test_the_scheduler_of_every_ladder_can_be_made(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    problem = contest(kind)
    some = ladders.schedulers(problem, "diffusers")
    assert len(some) > 40
    for ladder in some:
        made = scheduler_of(problem.pipe.scheduler, ladder.scheduler)
        assert type(made).__name__ == ladder.scheduler[0]  # type: ignore[index]
        for key, value in ladder.scheduler[1].items():  # type: ignore[index]
            assert made.config.get(key) == value, (ladder, key)
    settings = [ladder.at(6) for ladder in some]
    assert len({str(s) for s in settings}) == len({s.to_json() for s in settings}) == len(settings), "told apart"


def test_settings_are_told_in_words() -> None:
    deepcache = {"name": "deepcache", "interval": 3, "branch": 0}
    assert str(Setting("deepcache", DPM, 9, deepcache)) == (
        "deepcache interval 3 branch 0, DPMSolverMultistep order 2 karras, 9 steps"
    )
    smashed = {"name": "pruna", "algorithms": {"torch_compile": {}, "fora": {"interval": 2}}}
    assert str(Setting("pruna", None, None, smashed)) == "torch_compile + fora interval 2"


def test_names_are_checked() -> None:
    assert [peer.name for peer in peers.chosen("diffusers, pruna")] == ["diffusers", "pruna"]
    with pytest.raises(HastenError, match=r"against: 'xformers' is not known; choose some of: diffusers, deepcache"):
        peers.chosen("diffusers,xformers")
    with pytest.raises(HastenError, match="against: there is nobody"):
        peers.chosen(" ,")
    for wrong in ("pruna", "prune=/bin/python", "pruna="):
        with pytest.raises(HastenError, match=r"python: .* is not understood; give PEER="):
            peers.pythons([wrong])
    with pytest.raises(HastenError, match="cache-dit runs in hasten's own process only"):
        peers.pythons({"cache-dit": "/bin/python"})


packages = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("DeepCache", "cache_dit"))),
    reason='DeepCache and cache-dit are not installed: pip install "hasten[compare]"',
)


@packages
def test_the_package_deepcache_leaves_the_pipeline_as_it_was() -> None:
    problem = contest()
    before = tiny.fingerprint(problem.pipe)
    setting = Setting("deepcache", DPM, 6, {"name": "deepcache", "interval": 2, "branch": 0})
    plain = Setting("deepcache", DPM, 6)
    with problem.running(setting) as run, problem.running(plain) as other:  # beside one another, as they are timed
        cached, full = (each(problem.samples["search"]).latents for each in (run, other))
    assert not torch.equal(cached, full)
    assert torch.equal(full, problem.draw(plain, problem.samples["search"]).latents)
    assert tiny.fingerprint(problem.pipe) == before


# The race


def racer(drift: Any, ladder: Any = tuple(range(1, 51))) -> tuple[Racer, list[Setting]]:
    """A racer whose settings drift as told, and take as long as they have steps; and what it looks at."""
    seen: list[Setting] = []

    def scout(setting: Setting) -> tuple[Score, int]:
        seen.append(setting)
        found = drift(setting)
        if found > 3:
            raise Hopeless("far")
        steps = setting.steps or 50
        return Score(found, 0.0, 50 / steps, {}), steps

    fake: Any = scout
    fake.default, fake.margin, fake.contest = Score(1.0, 0.0, 1.0, {}), 0.1, SimpleNamespace(remote=lambda _: None)
    fake.glance = lambda setting: drift(setting)
    return Racer(fake, Budget.of("1x"), ladder), seen


def test_a_race_finds_the_fewest_steps_of_all_ladders_with_few_looks() -> None:
    needed = {f"s{i}": 9 + (37 * i) % 30 for i in range(30)}  # steps that each scheduler takes to keep the budget
    run, seen = racer(lambda setting: (needed[setting.scheduler[0]] / setting.steps) ** 2)
    race, some = Race(), [Ladder("diffusers", (name, {})) for name in needed]
    run.run(run.ranked(some, race, float("inf")), race, float("inf"))
    best = run.within(race)[0]
    assert best.way.steps == min(needed.values())
    assert len(seen) < 15, "not 30 times log2(50)"
    assert race.hopeless >= 15 and not race.refused
    assert {t.way.steps for t in race.trials} >= {best.way.steps + 1, best.way.steps + 2}, "its neighbours"


def test_a_race_goes_on_after_settings_that_cannot_run_and_ends_in_time() -> None:
    def drift(setting: Setting) -> float:
        if setting.scheduler == ("broken", {}):
            raise ValueError("does not suit\nthis pipeline")
        return 5 / setting.steps

    run, _ = racer(drift)
    race, some = Race(), [Ladder("diffusers", (name, {})) for name in ("broken", "good", "late")]
    run.run(some, race, until=0.0)
    assert list(race.refused.values()) == ["does not suit this pipeline"] and race.left == 1
    assert run.within(race)[0].way.steps == 5
    front = run.front(race)
    assert [t.way.steps for t in front] == sorted(t.way.steps for t in front) and len(front) > 1


def test_the_final_goes_between_what_the_race_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The race took 9 steps for enough; the unseen samples ask for 11 and it had only tried 9 and 20."""
    looked: list[int] = []

    def redraw(_: Any, __: Any, finalists: list[Any], ___: Any) -> dict[str, Any]:
        looked.append(finalists[0].way.steps)
        return {finalists[0].name: SimpleNamespace(candidate=finalists[0], drift=finalists[0].way.steps)}

    monkeypatch.setattr(final, "redraw", redraw)
    worse = lambda steps, *_: SimpleNamespace(pessimistic=Score((needed / steps) ** 2, 0.0, 1.0, {}))  # noqa: E731
    monkeypatch.setattr(final, "prospect", worse)
    run, _ = racer(lambda setting: 1.0)
    race = Race()
    for steps in (9, 20):
        run.scout = lambda setting: (Score(9 / setting.steps, 0.0, 50 / setting.steps, {}), setting.steps)  # type: ignore[assignment]
        run.scout.contest = None  # type: ignore[attr-defined]
        run._try(Setting("diffusers", DPM, steps), race)
    base: Any = SimpleNamespace(numbers=SimpleNamespace(score=Score(1.0, 0.0, 1.0, {})))
    for needed, best in ((11, 11), (9, 9), (6, 6), (20, 20), (31, 31)):
        looked.clear()
        drawn = final.Final(run, base, None, 8, lambda _: None)("diffusers", race)  # type: ignore[arg-type]
        assert min(one.drift for one in drawn.values() if one.drift >= needed) == best  # type: ignore[operator,type-var]
        assert len(looked) == len(set(looked)) <= 8


# A peer's own process


@packages
@pytest.mark.slow
def test_a_worker_draws_what_hasten_draws() -> None:
    problem = contest()
    samples = problem.samples["search"]
    setting = Setting("deepcache", DPM, 6, {"name": "deepcache", "interval": 2, "branch": 0})
    with Remote("deepcache", "DeepCache", sys.executable) as remote:
        remote.load(problem)
        assert remote.versions["torch"] == torch.__version__
        assert remote.differs(problem, samples, problem.draw(None, samples)) == 0
        for way in (setting, Setting("deepcache", DPM, 5)):
            here, there = problem.draw(way, samples), remote.draw(way, samples, problem.batch)
            assert torch.equal(here.latents, there.latents) and torch.equal(here.images, there.images)
        problem.remotes = {"deepcache": remote}
        assert torch.equal(problem.draw(setting, samples).images, remote.draw(setting, samples, 3).images)
        assert len(remote.ratios(setting, problem.single, 3, steps=8)) == 3
        there = problem.cost(setting)
        problem.remotes = {}
        here = problem.cost(setting)
        assert (there.calls, there.macs) == (here.calls, here.macs)
        with pytest.raises(PeerError, match=r"deepcache: .*NoSuchScheduler"):
            remote.draw(Setting("deepcache", ("NoSuchScheduler", {}), 5), samples, 3)
        assert remote.alive
        other = problem.draw(None, Samples(samples.prompts, (8, 9, 10)))
        with pytest.raises(PeerError, match="draws other images by the default"):
            remote.differs(problem, samples, other)
        remote._process.kill()
        with pytest.raises(PeerError, match="deepcache: its process ended with code -9"):
            remote.draw(setting, samples, 3)
    assert not Path(remote.folder.name).exists()


def script(folder: Path, *lines: str) -> str:
    file = folder / "python"
    file.write_text("\n".join(["#!/bin/sh", *lines]))
    file.chmod(0o755)
    return str(file)


def test_an_environment_that_does_not_work_says_why(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match=r"pruna: cannot run /no/python: No such file"):
        Remote("pruna", "pruna", "/no/python")
    with pytest.raises(PeerError, match=r"pruna: its process ended with code 3: boom"):
        Remote("pruna", "pruna", script(tmp_path, "echo chatter", "echo boom >&2", "exit 3"))
    with pytest.raises(PeerError, match=r"pruna: no answer to 'hello' in 0.2 seconds"):
        Remote("pruna", "pruna", script(tmp_path, "exec sleep 30"), patience=0.2)
    with pytest.raises(PeerError, match=r"zen: PackageNotFoundError"):  # and its poem on stdout disturbs nobody
        Remote("zen", "this", sys.executable)


# The whole


@packages
@pytest.mark.slow
def test_peers_beside_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = peers.Peer("pruna", "no_such_package", methods=ladders.smashes, here=False)
    monkeypatch.setitem(peers.PEERS, "pruna", gone)
    result = bench("diffusers,cache-dit,pruna", {"mine": Recipe(solver="unipc", steps=4)}, tmp_path)
    assert {side(f) for f in result.front} == {"diffusers", "hasten"}
    assert result.missing["pruna"] == "ModuleNotFoundError: No module named 'no_such_package'"
    assert result.missing["cache-dit"] == "has nothing for StableDiffusionPipeline"
    speeds = [f.confirmed.speed.value for f in result.front]
    assert speeds == sorted(speeds, reverse=True)
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert kept["peers"]["diffusers"]["tried"] and kept["missing"] == result.missing
    assert kept["claim"] == result.claim and "Within the budget of 1.5x" in result.claim
    told = (tmp_path / "bench.md").read_text()
    assert all(text in told for text in (result.claim, "no_such_package", "UniPC"))
    assert (tmp_path / "bench.png").stat().st_size > 5000
    peer, ours = result.best("diffusers"), result.best("hasten")
    if peer and ours:
        assert result.ratio.value == pytest.approx(ours.confirmed.speed.value / peer.confirmed.speed.value)


@packages
@pytest.mark.slow
def test_bench_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pipelines.make("sd").save_pretrained("tiny")
    Path("prompts.txt").write_text("\n".join(LETTERS))
    fewer = {"call": {"num_inference_steps": 5}, "finalists": 1}
    monkeypatch.setattr(benching.bench, "__kwdefaults__", benching.bench.__kwdefaults__ | fewer)
    typed = ["bench", "tiny", "--minutes", "0.01", "--samples", "2", "--prompts", "prompts.txt", "--budget", "2x"]
    capsys.readouterr()
    main_ends(0, *typed, "--against", "diffusers,skrample", "--python", "skrample=/no/python")
    said = capsys.readouterr()
    assert not said.err, "no progress bars where nobody watches"
    assert "diffusers" in said.out and "Within the budget of 2x" in said.out.replace("\n", " ")
    found = json.loads(Path("benched/tiny/bench.json").read_text())
    assert found["missing"] == {"skrample": "cannot run /no/python: No such file or directory"}
    main_ends(1, *typed, "--against", "xformers")
    assert capsys.readouterr().err == (
        "hasten: against: 'xformers' is not known; choose some of: diffusers, deepcache, cache-dit, pruna, skrample\n"
    )


def main_ends(code: int, *arguments: str) -> None:
    try:
        main(list(arguments))
    except SystemExit as end:
        assert (end.code or 0) == code
    else:
        assert code == 0


def test_the_worker_imports_nothing_of_hasten() -> None:
    source = (Path(ladders.__file__).parent / "worker.py").read_text()
    assert "import hasten" not in source and "from hasten" not in source
