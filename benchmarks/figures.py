"""What the benchmarks measured of each method: in a few words for `hasten methods`, as tables for the docs' pages.

    python benchmarks/figures.py

Reads benchmarks/results/*.json, writes src/hasten/figures.json. docs/papers.py asks for `tables()` when the docs are
built.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parent.parent / "src" / "hasten" / "figures.json"
CASES = ("mixture", "emoji-sd", "emoji-flux")
NFE = "10"
SHOWN = ("5", "8", "10", "15", "20", "30")  # network calls of the solvers' tables


def read(name: str) -> dict[str, Any] | None:
    """The result of a benchmark, if it was ever run."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


# a few words a method


def solvers(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Error of each solver at 10 evaluations, with its best times."""
    parts: dict[str, list[str]] = {}
    for case in CASES:
        for name, row in _own(report, case, NFE):
            parts.setdefault(name, []).append(f"{row['rmse'][0]:.2g} on {case}")
    for name, texts in parts.items():
        yield name, f"RMSE at {NFE} calls: {', '.join(texts)}"


def deepcache(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    row = next(row for row in report["results"] if (row["interval"], row["branch"]) == (3, 0))
    yield "deepcache", f"interval 3: {row['speed']['value']:.2f}x faster, {row['efficiency']:.2f} of what MACs promise"


def caches(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Of each cache and way of guiding, on each model, the setting whose multiply-adds are nearest to half."""
    for model, measured in report["models"].items():
        nearest: dict[str, dict[str, Any]] = {}
        for row in measured["rows"]:
            name = row["label"].split(" ")[0]
            far = abs(math.log(row["macs"] / 2))
            if row["group"] in ("paper", "peer") and far < abs(math.log(nearest.get(name, {"macs": 1e9})["macs"] / 2)):
                nearest[name] = row
        for name, row in nearest.items():
            yield name, f"{model}: {row['speed'][0]:.2f}x faster, {row['to default']['psnr'][0]:.1f} dB to the default"


def inversion(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The largest error of a round trip without guidance; of a solver in several settings, that of the first."""
    seen: set[str] = set()
    for row in report["results"]:
        if row["guidance"] == 1.0 and row["name"] not in seen:
            seen.add(row["name"])
            yield row["name"], f"{report['model']} and back in {report['steps']} steps: to {row['largest']:.0e}"


# tables for pages


def tables() -> dict[str, list[str]]:
    """For each method, its figures as Markdown, each table with the command that made it."""
    made: dict[str, list[str]] = {}
    for source in (solver_tables, cache_tables, inversion_tables, overhead_tables):
        for name, text in source():
            made.setdefault(name, []).append(text)
    return made


def solver_tables() -> Iterator[tuple[str, str]]:
    """RMSE over network calls, beside the best that any package reaches there."""
    report = read("solvers")
    rows: dict[str, list[list[str]]] = {}
    for case in report["cases"] if report else ():
        cells: dict[str, dict[str, str]] = {}
        for calls in SHOWN:
            for name, row in _own(report, case, calls):
                cells.setdefault(name, {})[calls] = f"{row['rmse'][0]:.2g}"
        best = [_best(report["cases"][case]["nfe"].get(calls, [])) for calls in SHOWN]
        for name, by_calls in cells.items():
            rows.setdefault(name, []).append([case, *(by_calls.get(calls, "–") for calls in SHOWN)])
            rows[name].append(["*best of all*", *(f"*{one}*" for one in best)])
    for name, lines in rows.items():
        head = ["RMSE at this many calls", *SHOWN]
        yield name, f"{_table(head, lines)}\n\nWith the best of several grids (`python benchmarks/solvers.py`)."


def cache_tables() -> Iterator[tuple[str, str]]:
    """Every setting that was measured, beside fewer steps without any cache."""
    report = read("caches")
    head = ["model", "setting", "faster", "by multiply-adds", "PSNR to default", "PSNR to reference", "flips"]
    rows: dict[str, list[list[str]]] = {}
    for model, measured in report["models"].items() if report else ():
        for row in measured["rows"]:
            if row["group"] not in ("paper", "peer"):
                continue
            name, _, setting = row["label"].partition(" ")
            to_default, to_reference = row["to default"], row["to reference"]
            speed, psnr = _span(row["speed"], "x"), (f"{to['psnr'][0]:.1f} dB" for to in (to_default, to_reference))
            line = [model, setting or "defaults", speed, f"{row['macs']:.2f}x", *psnr, f"{to_reference['flips']:.0%}"]
            rows.setdefault(name, []).append(line)
    about = (
        "Medians of 12 images (`python benchmarks/caches.py --threads 1`); speeds with 95 % intervals. "
        "[What fewer steps do instead](../measured/caches.md)."
    )
    for name, lines in rows.items():
        yield name, f"{_table(head, lines)}\n\n{about}"


def inversion_tables() -> Iterator[tuple[str, str]]:
    """Round trips with and without guidance."""
    report = read("inversion")
    rows: dict[str, list[list[str]]] = {}
    for row in report["results"] if report else ():
        line = [f"`{row['solver']}`", f"{row['guidance']:g}", f"{row['largest']:.1e}", f"{row['rms']:.1e}"]
        rows.setdefault(row["name"], []).append(line)
    for name, lines in rows.items():
        head = ["setting", "guidance", "largest error", "RMS error"]
        if len({line[0] for line in lines}) == 1:  # one setting, which the page names already
            head, lines = head[1:], [line[1:] for line in lines]
        about = f"{report['model']}, {report['steps']} steps, {report['dtype']}" if report else ""
        yield name, f"{_table(head, lines)}\n\nData to noise and back on {about} (`python benchmarks/inversion.py`)."


def overhead_tables() -> Iterator[tuple[str, str]]:
    """What a step costs without the network."""
    report = read("solver_overhead")
    for label, row in report["methods"].items() if report else ():
        package, _, name = label.partition(" ")
        if package == "hasten":
            yield (
                name,
                (
                    f"A step without the network costs {row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}] of a "
                    "hand-written DPM-Solver++ 2M step (`python benchmarks/solver_overhead.py`)."
                ),
            )


def _own(report: dict[str, Any], case: str, calls: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of hasten's solvers that gave finite results."""
    for row in report["cases"].get(case, {}).get("nfe", {}).get(calls, []):
        package, name = row["family"].split(" ", 1)
        if package == "hasten" and "rmse" in row:
            yield name, row


def _best(rows: Iterable[dict[str, Any]]) -> str:
    errors = [row["rmse"][0] for row in rows if "rmse" in row]
    return f"{min(errors):.2g}" if errors else "–"


def _span(estimate: Iterable[float], unit: str) -> str:
    value, low, high = estimate
    return f"{value:.2f}{unit} [{low:.2f}, {high:.2f}]"


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def main() -> None:
    figures: dict[str, str] = {}
    for source in (solvers, deepcache, caches, inversion):
        report = read(source.__name__)
        for name, text in source(report) if report else ():
            figures[name] = f"{figures[name]}; {text}" if name in figures else text
    FIGURES.write_text(json.dumps(dict(sorted(figures.items())), indent=1) + "\n")
    print(f"{len(figures)} methods written to {FIGURES}")


if __name__ == "__main__":
    main()
