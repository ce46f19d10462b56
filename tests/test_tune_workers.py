"""A search that is killed, goes on, and is shared by several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pipelines
import pytest
import torch
from small import LETTERS, STEPS, hurry

import hasten
from hasten.core.errors import HastenError
from hasten.evaluate.budget import Budget
from hasten.evaluate.problem import Problem
from hasten.evaluate.references import REFERENCES_FILE, References
from hasten.evaluate.samples import choose, to_fit
from hasten.search.space import Space
from hasten.search.study import Search
from hasten.search.workers import Task, work

torch.set_num_threads(1)

SLOWLY = """
import json, sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
from imagined import Imagined, search

class Slow(Imagined):
    def draw(self, recipe):
        time.sleep(0.05)
        return super().draw(recipe)

search(Path({folder!r}), resume={resume}).run(Slow(), float("inf"), most=500)
"""


def finished(folder: Path) -> dict[int, Any]:
    """What the study in a folder holds of each finished trial."""
    import optuna

    study = optuna.load_study(study_name="tune", storage=f"sqlite:///{folder / 'study.db'}")
    return {t.number: t.user_attrs for t in study.trials if "recipe" in t.user_attrs and t.state.is_finished()}


@pytest.mark.slow
def test_a_search_killed_at_any_moment_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """Kill -9 while it works, twice; what was finished stays as it was, and is not asked for again."""
    before: dict[int, Any] = {}
    for attempt, wait in enumerate((0.31, 0.17)):
        script = SLOWLY.format(tests=str(Path(__file__).parent), folder=str(tmp_path), resume=attempt > 0)
        killed = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
        many = len(before) + 3
        while killed.poll() is None and not ((tmp_path / "study.db").exists() and len(_sure(tmp_path)) >= many):
            time.sleep(0.05)
        time.sleep(wait)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        after = finished(tmp_path)
        assert len(after) >= many and {n: after[n] for n in before} == before
        before = after
    from imagined import Imagined, search

    asked = Imagined()
    last = search(tmp_path, resume=True)
    last.run(asked, float("inf"), most=len(before) + 4)  # type: ignore[arg-type]
    assert not {kept["asked"] for kept in before.values()} & set(asked.asked)
    assert {n: kept for n, kept in finished(tmp_path).items() if n in before} == before


def _sure(folder: Path) -> dict[int, Any]:
    try:
        return finished(folder)
    except Exception:  # it is being made
        return {}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    pipelines.make("sd").save_pretrained(folder)
    (folder / "call.json").write_text(json.dumps({"num_inference_steps": STEPS}))
    return folder


def loaded(model: Path) -> Any:
    pipe = hasten.load(str(model))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.slow
def test_a_helper_joins_a_search_and_stops_when_told(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurry(monkeypatch)
    samples = choose(LETTERS, {"search": 2, "confirm": 2})
    samples["fit"] = to_fit(samples["search"], 2)
    problem = Problem(loaded(model), samples, batch=2)
    references = References(problem, tmp_path / REFERENCES_FILE)
    references.default("search"), references.reference("search")
    search = Search(Space.of(problem), Budget.of("9x"), 0, tmp_path)
    waiting = search.study.ask()  # the main process is at this one
    search.space.suggest(waiting)
    task = Task(str(model), samples, 2, problem.call, "9x", 0, tmp_path, time.time() + 600, 3, 1)
    work(task)
    assert search.proposals == 2 and search.begun == 3, "two by the helper, one still being tried"
    assert waiting.number not in finished(tmp_path)
    work(Task(str(model), samples, 2, problem.call, "9x", 0, tmp_path, time.time() - 1, None, 1))
    assert search.proposals in (2, 3), "out of time: no more than what a search tries at least"


@pytest.mark.slow
def test_workers_search_one_study(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    result = hasten.tune(
        loaded(model), LETTERS, "9x", minutes=9, out=tmp_path, trials=6, samples=(2, 2), batch=2, finalists=1, workers=2
    )
    assert result.facts["workers"] == 2 and result.facts["failures"] == []
    assert result.facts["search"]["proposals"] >= 6 and result.front
    asked = [kept["asked"] for kept in finished(tmp_path).values()]
    assert len(asked) >= 6


def test_workers_that_could_not_work_are_refused(model: Path, tmp_path: Path) -> None:
    pipe = loaded(model)
    with pytest.raises(HastenError, match="workers: several need a folder"):
        hasten.tune(pipe, LETTERS, workers=2)
    with pytest.raises(HastenError, match="workers: 0"):
        hasten.tune(pipe, LETTERS, workers=0, out=tmp_path)
    with pytest.raises(HastenError, match="not loaded from a name or a folder"):
        hasten.tune(pipelines.make("sd"), LETTERS, workers=2, out=tmp_path)


def test_a_local_ray_cluster_helps(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason='Ray is not installed: pip install "hasten[cluster]"')
    hurry(monkeypatch)
    try:
        result = hasten.tune(
            loaded(model), LETTERS, "9x", minutes=9, out=tmp_path, trials=5, samples=(2, 2), batch=2, finalists=1,
            workers=2, cluster="local",
        )  # fmt: skip
    finally:
        ray.shutdown()
    assert result.facts["failures"] == [] and result.facts["search"]["proposals"] >= 5
