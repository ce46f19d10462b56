"""*Pipelines*: what works on which pipeline class of diffusers, and what is refused for which reason.

Made from `benchmarks/results/pipelines.json`, which `python tests/every_pipeline.py --out` writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

PATH = "pipelines.md"
RECORD = Path(__file__).parent.parent / "benchmarks" / "results" / "pipelines.json"
COLUMNS = {  # head -> the checks that it sums up, by how their names begin
    "default solver": ("own solver",),
    "other schedulers": ("as ",),
    "solvers": ("solver ",),
    "guidance": ("guidance ",),
    "caches": ("caches ",),
    "16 bits": ("quantize ",),
    "seeds": ("seeds",),
    "strength": ("strength ",),
    "callbacks": ("callback", "interrupt"),
}
GOOD = ("equal", "works")
INTRODUCTION = """---
hide: [navigation, toc]
---

# Pipelines

{classes} pipeline classes of diffusers {version}, each built with tiny random networks and run by
`hasten.accelerate`: a sample of this table is tested in every run, and all of it among the slow tests. A cell says how
many checks came out equal to the plain pipeline or (where nothing is to be equal) work, of those that the plain
pipeline has at all. The others are refused by name or differ, [for these reasons](#reasons). Every pipeline was left
bit for bit as it was.

- **default solver**: the solver that the shipped scheduler is, in 4 and in 11 steps, makes what the pipeline makes.
- **other schedulers**: the same after another scheduler of diffusers was put into the pipeline.
- **solvers**: DPM-Solver++, Euler, Heun and UniPC run.
- **guidance**, **caches**, **16 bits**: the method runs and changes something, and switched off changes nothing.
- **seeds**: `seed=` makes what a generator of that seed makes, and the same in a batch as alone, also under each cache
  that works.
- **strength**: image-to-image from strength 0.05, 0.5 and 1, and with Heun, which asks twice a step.
- **callbacks**: one that changes the latents, one that changes the guidance scale, one that interrupts.
"""


def page() -> str:
    """The page, as Markdown."""
    kept = json.loads(RECORD.read_text())
    table = {name: dict(zip(kept["checks"], row, strict=True)) for name, row in kept["pipelines"].items()}
    said = kept["outcomes"]
    head = ["pipeline", *COLUMNS]
    rows = [[f"[{name}](#{name.lower()})", *_cells(row, said)] for name, row in table.items()]
    lines = [head, ["---"] * len(head), *rows]
    parts = [INTRODUCTION.format(classes=len(table), version=kept["diffusers"])]
    parts += ["\n".join(f"| {' | '.join(line)} |" for line in lines), "## Reasons"]
    parts += [f'<a id="{name.lower()}"></a>**{name}**\n\n{_reasons(row, said)}' for name, row in table.items()]
    parts += ["## Not built", "\n".join(f"- `{name}` {reason}" for name, reason in kept["left out"].items())]
    return "\n\n".join(parts) + "\n"


def _cells(row: dict[str, int | None], said: list[str]) -> Iterable[str]:
    outcomes = {check: said[i] for check, i in row.items() if i is not None and not said[i].startswith("not here")}
    under = {check: check.replace("seeds under", "caches") for check in outcomes if check.startswith("seeds under")}
    for check, cache in under.items():
        if not outcomes.get(cache, "").startswith(GOOD):
            del outcomes[check]
    for beginnings in COLUMNS.values():
        there = [outcome for check, outcome in outcomes.items() if check.startswith(beginnings)]
        good = sum(outcome.startswith(GOOD) for outcome in there)
        many = "all" if good == len(there) else f"{good} of {len(there)}" if good else "none"
        yield f'<span style="white-space: nowrap">{many}</span>' if there else "–"


def _reasons(row: dict[str, int | None], said: list[str]) -> str:
    """What does not work, by reason."""
    checks: dict[str, list[str]] = {}
    for check, i in row.items():
        if i is not None and not said[i].startswith((*GOOD, "not here")) and not check.startswith("seeds under"):
            checks.setdefault(said[i], []).append(check)
    if not checks:
        return "Nothing is refused."
    return "\n".join(f"- {', '.join(names)}: {_plain(reason)}" for reason, names in checks.items())


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, "\\" + sign if sign not in "<>" else {"<": "&lt;", ">": "&gt;"}[sign])
    return text
