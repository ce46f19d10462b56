"""What works on every pipeline class of diffusers: each class through each check, the outcomes as a table.

    python tests/every_pipeline.py --out [--pipelines PATTERN ...] [--checks PATTERN ...] [--workers 2]

The table is benchmarks/results/pipelines.json, of which the documentation makes a page.

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
from collections.abc import Callable, Iterable, Iterator
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
RECORD = Path(__file__).parent.parent / "benchmarks" / "results" / "pipelines.json"
GOOD = ("equal", "works", "differs", "refused", "not here")


def outcome(case: Case, name: str) -> str:
    """What comes of a check, said in one line."""
    said = outcome_of(case, checks()[name])
    if said.startswith(("fault: differs", "fault: changes nothing")):
        why = known(case.name, name)
        said = f"differs: {why}" if why else said
    return said


def known(pipeline: str, check: str) -> str | None:
    """Why a pipeline class makes something else in a check, if that is known and meant."""
    meant = ((why, pipes, things) for (pipes, things), why in DIFFERENT.items())
    return next(
        (why for why, pipes, things in meant if fnmatchcase(pipeline, pipes) and fnmatchcase(check, things)), None
    )


def outcome_of(case: Case, check: Callable[[Case], str]) -> str:
    """What comes of a function of a case, said in one line."""
    before = signal.signal(signal.SIGALRM, _late)
    signal.alarm(PATIENCE)
    try:
        done = check(case)
    except NotHere as why:
        done = f"not here: {why}"
    except HastenError as why:
        done = f"refused: {one_line(why, kind=False)}"
    except Exception as error:
        done = f"fault: {one_line(error)} ({_place(error)})"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return done if done.startswith("not here") else case.left() or done  # calls that the pipeline refuses leave traces


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
        return {"undone": f"fault: {one_line(error)} ({_place(error)})"}
    table = {}
    for check in wanted or checks():
        table[check] = outcome(case, check)
        if "not what it was" in table[check] or (table[check].startswith("not here") and case.left()):
            case = Case(name)
    table["undone"] = "equal" if case.makes_the_same() else "fault: the plain pipeline makes something else afterwards"
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


def recorded(file: Path = RECORD) -> dict[str, dict[str, str]]:
    """The outcomes that a file holds, by pipeline class and check."""
    if not file.exists():
        return {}
    kept = json.loads(file.read_text())
    said, names = kept["outcomes"], kept["checks"]
    rows = {name: zip(names, row, strict=True) for name, row in kept["pipelines"].items()}
    return {name: {check: said[i] for check, i in row if i is not None} for name, row in rows.items()}


def record(file: Path, table: dict[str, dict[str, str]]) -> None:
    """Write outcomes into a file, beside those that it has already: every different one once, and where it came."""
    whole = {name: recorded(file).get(name, {}) | table.get(name, {}) for name in built()}
    whole = {name: row for name, row in whole.items() if row}
    names = [*checks(), "undone"]
    said = sorted({outcome for row in whole.values() for outcome in row.values()})
    place = {outcome: i for i, outcome in enumerate(said)}
    kept = {
        "diffusers": diffusers.__version__,
        "checks": names,
        "outcomes": said,
        "pipelines": {n: [place[row[c]] if c in row else None for c in names] for n, row in whole.items()},
        "left out": every.LEFT_OUT,
    }
    lines = [f"  {json.dumps(n)}: {json.dumps(row)}" for n, row in kept["pipelines"].items()]
    text = json.dumps(kept | {"pipelines": {}}, indent=1)
    file.write_text(text.replace('"pipelines": {}', '"pipelines": {\n' + ",\n".join(lines) + "\n }") + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, nargs="?", const=RECORD, help="write outcomes there, into what it holds")
    parser.add_argument("--pipelines", nargs="*", default=["*"])
    parser.add_argument("--checks", nargs="*", default=["*"])
    parser.add_argument("--again", action="store_true", help="only the pairs that are faults in that file")
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    names = [name for name in built() if any(fnmatchcase(name, pattern) for pattern in asked.pipelines)]
    wanted = [name for name in checks() if any(fnmatchcase(name, pattern) for pattern in asked.checks)]
    pairs = dict.fromkeys(names, wanted)
    if asked.again:
        before = recorded(asked.out or RECORD)
        pairs = {name: [c for c in wanted if before.get(name, {}).get(c, "").startswith("fault")] for name in names}
        pairs = {name: faulty for name, faulty in pairs.items() if faulty}
    faulty = 0
    for name, row in matrix(pairs, asked.workers):
        faults = {check: said for check, said in row.items() if said.startswith("fault")}
        faulty += len(faults)
        print(f"{time.strftime('%H:%M:%S')} {name}: {len(faults)} faults of {len(row)}", flush=True)
        for check, said in faults.items():
            print(f"    {check}: {said}", flush=True)
        if asked.out:
            record(asked.out, {name: row})
    sys.exit(min(99, faulty))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    main()
