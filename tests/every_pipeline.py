"""What works on every pipeline class of diffusers: each class through each check, the outcomes as a table.

    python tests/every_pipeline.py --out FILE.json [--pipelines PATTERN ...] [--checks PATTERN ...] [--workers 2]

An outcome is one of
    equal          as the plain pipeline, to `TOLERANCE`
    works          runs, and the pipeline is left as it was
    differs: why   not as the plain pipeline, for a reason that is listed in `DIFFERENT`
    refused: why   by HastenError, before anything ran
    not here: why  the plain pipeline has no such thing, or refuses the call itself
    fault: what    anything else
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import diffusers
import every
import torch
from every.case import Case, NotHere, one_line
from every.checks import checks
from every.differences import DIFFERENT

from hasten.core.errors import HastenError

PATIENCE = 120  # seconds for a check
GOOD = ("equal", "works", "differs", "refused", "not here")


def outcome(case: Case, name: str) -> str:
    """What comes of a check, said in one line."""
    before = signal.signal(signal.SIGALRM, _late)
    signal.alarm(PATIENCE)
    try:
        done = checks()[name](case)
    except NotHere as why:
        done = f"not here: {why}"
    except HastenError as why:
        done = f"refused: {one_line(why, kind=False)}"
    except Exception as error:
        done = f"fault: {one_line(error)} ({_place(error)})"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    if done.startswith("fault: differs"):
        done = next((f"differs: {why}" for (pipes, things), why in DIFFERENT.items()
                     if fnmatchcase(case.name, pipes) and fnmatchcase(name, things)), done)  # fmt: skip
    return case.left(called=not done.startswith(("refused", "not here"))) or done


def _late(*_: Any) -> None:
    raise TimeoutError(f"takes more than {PATIENCE} s")


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/hasten/" in frame.filename] or frames
    return f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {Path(frames[-1].filename).name}:{frames[-1].lineno}"


def outcomes(name: str, wanted: Iterable[str] | None = None) -> dict[str, str]:
    """The outcomes of all (or some) checks of one pipeline class."""
    torch.set_num_threads(1)
    try:
        case = Case(name)
    except Exception as error:
        return {"plain": f"fault: {one_line(error)} ({_place(error)})"}
    table = {"plain": "works"}
    for check in wanted or checks():
        table[check] = outcome(case, check)
        if "not what it was" in table[check] or "afterwards" in table[check]:
            case = Case(name)
    return table


def built() -> list[str]:
    """The pipeline classes that have a builder."""
    return [name for name in every.names() if name not in every.LEFT_OUT]


def matrix(pairs: dict[str, list[str]], workers: int) -> Iterator[tuple[str, dict[str, str]]]:
    """The outcomes of these checks of pipeline classes, as they come."""
    if workers == 1:
        yield from ((name, outcomes(name, wanted)) for name, wanted in pairs.items())
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from zip(pairs, pool.map(outcomes, pairs, pairs.values()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pipelines", nargs="*", default=["*"])
    parser.add_argument("--checks", nargs="*", default=["*"])
    parser.add_argument("--again", type=Path, help="only the pairs that were faults in this file")
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    names = [name for name in built() if any(fnmatchcase(name, pattern) for pattern in asked.pipelines)]
    wanted = [name for name in checks() if any(fnmatchcase(name, pattern) for pattern in asked.checks)]
    table: dict[str, dict[str, str]] = {}
    pairs = dict.fromkeys(names, wanted)
    if asked.again:
        before = json.loads(asked.again.read_text())["pipelines"]
        faults = {
            name: [check for check, said in row.items() if said.startswith("fault")] for name, row in before.items()
        }
        pairs = {name: [c for c in faults[name] if c in wanted] for name in names if faults.get(name)}
    for name, row in matrix(pairs, asked.workers):
        table[name] = row
        faults = {check: said for check, said in row.items() if said.startswith("fault")}
        print(f"{time.strftime('%H:%M:%S')} {name}: {len(faults)} faults of {len(row)}", flush=True)
        for check, said in faults.items():
            print(f"    {check}: {said}", flush=True)
        if asked.out:
            asked.out.write_text(json.dumps({"pipelines": table, "left out": every.LEFT_OUT}, indent=1) + "\n")
    sys.exit(min(99, sum(said.startswith("fault") for row in table.values() for said in row.values())))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    main()
