"""*Schedulers*: which scheduler classes of diffusers are understood, and what becomes of every field of their configs.

Made from the table that hasten itself reads, without diffusers and mkdocs.
"""

from __future__ import annotations

from collections import defaultdict

from hasten.processes.understood import CLASHES, FIELDS, SCHEDULERS, Field, Row

PATH = "schedulers.md"
KINDS = {
    "table": "a table of betas (variance preserving), or a flow where `use_flow_sigmas` says so",
    "flow": "a rectified flow",
    "edm": "noise levels as in EDM",
    "cosine-edm": "noise levels as in EDM, shown as angles (Stable Audio)",
    "consistency": "noise levels of a consistency model",
    "angular": "angles from data to noise",
    "cosine": "a cosine in continuous time (Wuerstchen, Stable Cascade)",
}
INTRODUCTION = """# Schedulers

A pipeline's scheduler config says what its network was trained on. Every class that diffusers exports, and every field
of its config, is in one table, which hasten reads and this page prints: a field is **honoured**, **does not matter**
(and why), or some of its values are **refused** by name before anything is run. Fields that a config has left over from
another class are not read. A test walks all of diffusers' schedulers and fails for a class or a field that is new.

Where a recipe chooses no grid, steps are placed where the pipeline's own scheduler would place them. What a *caller*
passes (`timesteps=`, `sigmas=`, `eta=`) wins over the recipe; lists that a pipeline fills in by itself do not win over
the recipe's grid. A recipe ends on data unless it says otherwise; `SolverScheduler` made by hand without `end` ends
where the original does. Given `timesteps=` alone, some flow schedulers of diffusers show the network these and step
between other noise levels, and warn of it; here a step goes from the level that was shown to the next.
"""


def page() -> str:
    """The page, as Markdown."""
    parts = [
        INTRODUCTION,
        "## Classes\n",
        _table(["class", "process", "notes"], [_class(*it) for it in SCHEDULERS.items()]),
    ]
    parts += ["## Fields\n", _table(["field", "", "what it decides, or why it does not matter"], _fields())]
    clashes = [[" and ".join(f"`{k}={v}`" for k, v in values.items()), reason] for values, reason in CLASHES]
    parts += ["## Refused together\n", _table(["values", "why"], clashes)]
    return "\n".join(parts)


def _class(name: str, row: Row) -> list[str]:
    if row.refused:
        return [f"`{name}`", "refused", row.refused]
    notes = [f"`{field}`: {_meaning(rule)}" for field, rule in row.special.items()]
    if row.named:
        notes.append("a solver must be named")
    if row.solvers:
        notes.append(f"only with {' or '.join(f'`{solver}`' for solver in row.solvers)}")
    return [f"`{name}`", KINDS[row.kind], "; ".join(notes)]


def _fields() -> list[list[str]]:
    owners: dict[str, int] = defaultdict(int)
    for row in SCHEDULERS.values():
        for field in row.fields:
            owners[field] += not row.refused
    return [[f"`{name}`", f"{owners[name]} classes", _meaning(rule)] for name, rule in FIELDS.items()]


def _meaning(rule: Field) -> str:
    said = f"**{'honoured' if rule.use == 'honoured' else 'does not matter'}**: {rule.why}"
    if not rule.only:
        return said
    reason = f" ({rule.otherwise})" if rule.otherwise else ""
    return f"{said}; other values than {', '.join(f'`{value}`' for value in rule.only)} are refused{reason}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
