"""What the benchmarks measured of each method, in a few words: `hasten methods` and the README show it.

    python benchmarks/figures.py

Reads benchmarks/results/*.json, writes src/hasten/figures.json and the README's table of methods.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hasten import methods

RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parent.parent / "src" / "hasten" / "figures.json"
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- hasten methods --markdown -->", "<!-- end -->"
CASES = ("mixture", "emoji-sd", "emoji-flux")
NFE = "10"


def solvers(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Error of each solver at 10 evaluations, with its best times."""
    found: dict[str, list[str]] = {}
    for case in CASES:
        for row in report["cases"].get(case, {}).get("nfe", {}).get(NFE, []):
            package, name = row["family"].split(" ", 1)
            if package == "hasten" and "rmse" in row:
                found.setdefault(name, []).append(f"{row['rmse'][0]:.2g} on {case}")
    for name, parts in found.items():
        yield name, f"RMSE at {NFE} calls: {', '.join(parts)}"


def deepcache(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    row = next(row for row in report["results"] if (row["interval"], row["branch"]) == (3, 0))
    yield "deepcache", f"interval 3: {row['speed']['value']:.2f}x faster, {row['efficiency']:.2f} of what MACs promise"


def caches(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Of each cache and way of guiding, on each model, the setting whose multiply-adds are nearest to half."""
    for model, found in report["models"].items():
        nearest: dict[str, dict[str, Any]] = {}
        for row in found["rows"]:
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


def main() -> None:
    figures: dict[str, str] = {}
    for read in (solvers, deepcache, caches, inversion):
        file = RESULTS / f"{read.__name__}.json"
        if file.exists():
            for name, text in read(json.loads(file.read_text())):
                figures[name] = f"{figures[name]}; {text}" if name in figures else text
    FIGURES.write_text(json.dumps(dict(sorted(figures.items())), indent=1) + "\n")
    before, rest = README.read_text().split(BEGIN)
    table = methods.markdown(methods.methods())
    README.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")
    print(f"{len(figures)} methods written to {FIGURES} and {README}")


if __name__ == "__main__":
    main()
