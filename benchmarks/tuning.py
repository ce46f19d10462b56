"""Whether `hasten tune` keeps its promises: many tunings, each checked on images of its own; and two processes for one.

    python benchmarks/tuning.py promise [--model emoji-sd] [--runs 10] [--minutes 5] [--jobs 2]
    python benchmarks/tuning.py workers [--model emoji-sd] [--trials 24]

promise: tunings with other seeds, so with other prompts and noises, one thread each and `jobs` side by side. Of each
the speed-up, drift and flips that it confirmed itself, and what `hasten compare` makes of its recipe with a seed that
no tuning had ("values within": median and flips as they are; "within": with the whole interval); how far the search's
estimates were off, and what its ablation sums to.
workers: one process for a number of trials, and two with one thread each for 0.65 of the seconds that it took from
the first trial to the last: the trials that each finished, the best speed-ups that each found, and the seconds a trial
of two for those of one.
All by the command line; merged into benchmarks/results/tuning.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy.exc
from report import save
from rich.progress import track

RESULTS = Path(__file__).parent / "results" / "tuning.json"
SHARE = 0.65  # of the time of one process that two are given
UNSEEN = 1000  # added to the seed of a tuning, for images that nobody chose anything on


def hasten(*words: str, out: Path, threads: int = 1) -> None:
    """Run the command line; what it says goes nowhere, unless there is no recipe in the end."""
    command = [sys.executable, "-m", "hasten", *words, "--out", str(out)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True)
    if not (out / "recipe.json").exists():  # where none is sure to keep the budget, the nearest is there
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stderr[-2000:]}")


def told(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """All that a front.json says, and its chosen recipe's part."""
    front = json.loads((folder / "front.json").read_text())
    return front, next(one for one in front["front"] if one["name"] == front["chosen"])


def claim(numbers: dict[str, Any]) -> dict[str, Any]:
    spans = {
        name: [numbers[name][k] for k in ("value", "low", "high")] for name in ("speed", "drift", "worst", "flips")
    }
    return spans | {"within": numbers["within"]}


def kept(model: str, minutes: float, seed: int, folder: Path) -> dict[str, Any]:
    """One tuning, and its recipe on images of its own."""
    out, checked = folder / f"tuned-{seed}", folder / f"checked-{seed}"
    hasten("tune", model, "--minutes", f"{minutes:g}", "--seed", str(seed), out=out)
    hasten("compare", model, "--recipe", str(out), "--seed", str(seed + UNSEEN), out=checked)
    front, chosen = told(out)
    there, again = told(checked)
    agree = [one["agrees"] for one in front["front"] if one["agrees"] is not None]
    return {
        "seed": seed, "recipes": front["facts"]["search"]["recipes"], "minutes": front["facts"]["minutes"],
        "searched": {name: chosen["searched"][name] for name in ("speed", "drift", "flips", "interval")},
        "confirmed": claim(chosen["confirmed"]), "unseen": claim(again["confirmed"]),
        "unseen default's flips": there["default"]["flips"]["value"], "calls": chosen["confirmed"]["cost"]["calls"],
        "intervals overlap": [sum(agree), len(agree)],
        "closure": front["ablation"]["closure"] if front["ablation"] else None,
    }  # fmt: skip


def promise(given: argparse.Namespace, keep: Callable[[dict[str, Any]], None]) -> None:
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.jobs) as pool:
        jobs = [pool.submit(kept, given.model, given.minutes, seed, Path(folder)) for seed in range(1, given.runs + 1)]
        for job in track(as_completed(jobs), f"tunings of {given.model}", given.runs):
            runs = sorted([*runs, job.result()], key=lambda run: run["seed"])
            within = {f"{what} within": sum(run[what]["within"] for run in runs) for what in ("confirmed", "unseen")}
            keep({"minutes": given.minutes, **within, "unseen values within": sum(map(at_most, runs)), "runs": runs})


def at_most(run: dict[str, Any]) -> bool:
    """Whether the recipe is no further off than the default on images of its own, whatever the intervals say."""
    found = run["unseen"]
    return found["drift"][0] <= 1 and found["flips"][0] <= run["unseen default's flips"]


def searched(model: str, workers: int, enough: Callable[[list[Any]], bool], folder: Path) -> dict[str, Any]:
    """How long the trials of one search took, and how far they came; it is ended once they are enough."""
    out = folder / f"by-{workers}"
    more = ["--workers", str(workers), "--minutes", "60", "--seed", "1", "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": str(workers)}  # the cores are shared out among the workers
    command = [sys.executable, "-m", "hasten", "tune", model, *more]
    run = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        while not enough(found := finished(out / "study.db")):
            if run.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended after {len(found)} trials")
            time.sleep(0.5)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    seconds = (max(t.datetime_complete for t in found) - min(t.datetime_start for t in found)).total_seconds()
    scores = [trial.user_attrs["score"] for trial in found if trial.user_attrs.get("complete")]
    best = {limit: max((s["speed"] for s in scores if s["drift"] <= limit), default=None) for limit in (0.25, 0.5, 1.0)}
    return {"seconds": seconds, "trials": len(found), "best speed-up by drift, as searched": best}


def finished(study: Path) -> list[Any]:
    """The finished trials of a search that may be going on."""
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if not study.exists():
        return []
    try:
        trials = optuna.load_study(study_name="tune", storage=f"sqlite:///{study}").trials
    except (KeyError, sqlalchemy.exc.OperationalError):  # it is being made
        return []
    return [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.FAIL)]


def workers(given: argparse.Namespace, keep: Callable[[dict[str, Any]], None]) -> None:
    def later(found: list[Any]) -> bool:
        begin = min((trial.datetime_start for trial in found), default=datetime.max)
        return datetime.now() - begin >= timedelta(seconds=SHARE * one["seconds"])

    with tempfile.TemporaryDirectory() as folder:
        one = searched(given.model, 1, lambda found: len(found) >= given.trials, Path(folder))
        two = searched(given.model, 2, later, Path(folder))
    each = [found["seconds"] / found["trials"] for found in (one, two)]
    keep({"one": one, "two": two, "seconds a trial": each[1] / each[0]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("promise", "workers"))
    parser.add_argument("--model", default="emoji-sd")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--trials", type=int, default=24)
    given = parser.parse_args()

    def keep(found: dict[str, Any]) -> None:
        before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        save({**before, given.what: {**before.get(given.what, {}), given.model: found}}, RESULTS)

    {"promise": promise, "workers": workers}[given.what](given, keep)


if __name__ == "__main__":
    main()
