"""Whether `hasten tune` keeps its promises: many tunings, each checked on images of its own; and two processes for one.

    python benchmarks/tuning.py promise [--model emoji-sd] [--runs 10] [--minutes 5] [--jobs 2]
    python benchmarks/tuning.py workers [--model emoji-sd] [--trials 24]

promise: tunings with other seeds, so with other prompts and noises, one thread each and `jobs` side by side. Of each
the speed-up, drift and flips that it confirmed itself, and what `hasten compare` makes of its recipe with a seed that
no tuning had; how far the search's estimates were off, and what its ablation sums to.
workers: the seconds from the first to the last trial of the same number of trials, by one process and by two with one
thread each, and the best speed-up that each found within the budget.
All by the command line; merged into benchmarks/results/tuning.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from report import save
from rich.progress import track

RESULTS = Path(__file__).parent / "results" / "tuning.json"
UNSEEN = 1000  # added to the seed of a tuning, for images that nobody chose anything on


def hasten(*words: str, threads: int = 1) -> None:
    """Run the command line; what it says goes nowhere, unless it fails."""
    command = [sys.executable, "-m", "hasten", *words]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True)
    if done.returncode:
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
    hasten("tune", model, "--minutes", f"{minutes:g}", "--seed", str(seed), "--out", str(out))
    hasten("compare", model, "--recipe", str(out), "--seed", str(seed + UNSEEN), "--out", str(checked))
    front, chosen = told(out)
    _, again = told(checked)
    agree = [one["agrees"] for one in front["front"] if one["agrees"] is not None]
    return {
        "seed": seed, "recipes": front["facts"]["search"]["recipes"], "minutes": front["facts"]["minutes"],
        "searched": {name: chosen["searched"][name] for name in ("speed", "drift", "flips", "interval")},
        "confirmed": claim(chosen["confirmed"]), "unseen": claim(again["confirmed"]),
        "intervals overlap": [sum(agree), len(agree)],
        "closure": front["ablation"]["closure"] if front["ablation"] else None,
    }  # fmt: skip


def promise(given: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.jobs) as pool:
        jobs = [pool.submit(kept, given.model, given.minutes, seed, Path(folder)) for seed in range(1, given.runs + 1)]
        runs = [job.result() for job in track(jobs, f"tunings of {given.model}")]
    return {
        "minutes": given.minutes, "jobs": given.jobs, "runs": runs,
        "confirmed within": sum(run["confirmed"]["within"] for run in runs),
        "unseen within": sum(run["unseen"]["within"] for run in runs),
    }  # fmt: skip


def searched(model: str, workers: int, trials: int, folder: Path) -> dict[str, Any]:
    """How long the trials of one search took, and how far they came."""
    out = folder / f"by-{workers}"
    more = ["--workers", str(workers), "--trials", str(trials), "--minutes", "60", "--seed", "1"]
    hasten("tune", model, "--out", str(out), *more, threads=workers)  # the cores are shared out among the workers
    with sqlite3.connect(out / "study.db") as study:
        rows = study.execute("select datetime_start, datetime_complete from trials where state != 'RUNNING'").fetchall()
    times = [[datetime.fromisoformat(at) for at in row if at] for row in rows]
    seconds = (max(max(row) for row in times) - min(min(row) for row in times)).total_seconds()
    front, _ = told(out)
    within = [one["searched"]["speed"] for one in front["front"] if one["confirmed"]["within"]]
    return {"seconds": seconds, "trials": len(rows), "best within, as searched": max(within, default=None)}


def workers(given: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        one, two = (searched(given.model, count, given.trials, Path(folder)) for count in (1, 2))
    return {"one": one, "two": two, "ratio": two["seconds"] / one["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("promise", "workers"))
    parser.add_argument("--model", default="emoji-sd")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--trials", type=int, default=24)
    given = parser.parse_args()
    found = {"promise": promise, "workers": workers}[given.what](given)
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    section = {**before.get(given.what, {}), given.model: found}
    save({**before, given.what: section}, RESULTS)


if __name__ == "__main__":
    main()
