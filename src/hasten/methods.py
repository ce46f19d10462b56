"""Every method there is, as plain data: what `hasten methods` prints and the README's table is made of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hasten.core.errors import unknown
from hasten.core.registry import plain

FIGURES = Path(__file__).parent / "figures.json"
"""What each method was measured to do, written by `benchmarks/figures.py` from the benchmarks' results."""


def families() -> dict[str, Any]:
    """The families of methods by name."""
    from hasten.recipe import FAMILIES
    from hasten.solvers import SOLVERS
    from hasten.starts import STARTS

    return {"solver": SOLVERS, "start": STARTS, **FAMILIES}


def parts() -> dict[str, Any]:
    """The families of what methods are made of, and of what stands beside them, by name."""
    from hasten.caches import FORECASTERS, GATES, INDICATORS, SITES
    from hasten.discrete import UNMASKERS
    from hasten.grids import GRIDS

    return {registry.field: registry for registry in (SITES, GATES, FORECASTERS, INDICATORS, GRIDS, UNMASKERS)}


def methods(family: str | None = None) -> list[dict[str, Any]]:
    """Every method as plain data: name, family, paper, settings and what it was measured to do.

    family: only this one, which may be one of `parts`; None for all of `families`.
    Raises HastenError for a family that does not exist.
    """
    known = families() | parts()
    if family is not None and family not in known:
        raise unknown("family", family, known)
    figures = json.loads(FIGURES.read_text())
    chosen = families() if family is None else {family: known[family]}
    return [
        {**method, "figure": "" if name in parts() else figures.get(method["name"], "")}
        for name, classes in chosen.items()
        for method in _of(name, classes)
    ]


def markdown(listed: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of methods.

    listed: as `methods` returns them.
    """
    rows = [
        f"| `{m['name']}` | {m['family']} | {calls(m)} | {m.get('order', '')} | {link(m)} | {m['figure']} |"
        for m in listed
    ]
    head = "| method | family | calls a step | order | paper | measured |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


def calls(method: Mapping[str, Any]) -> str:
    """Network calls a step of a solver, and whether it draws noise or chooses its own times."""
    if "evaluations" not in method:
        return ""
    notes = [note for key, note in (("stochastic", "noise"), ("adaptive", "adaptive")) if method[key]]
    return " + ".join([str(method["evaluations"]), *notes])


def about(method: Mapping[str, Any]) -> str:
    """What a method is, whether it needs to be fitted, its other names, and what is known to go wrong."""
    needs = " Needs fit()." if method.get("needs_fit") else ""
    also = f" Also: {', '.join(method['aliases'])}." if method.get("aliases") else ""
    warning = f" Warning: {method['warning']}." if method.get("warning") else ""
    return method["about"] + needs + also + warning


def link(method: Mapping[str, Any]) -> str:
    """Its paper as a Markdown link, and the year; a dash if it names none."""
    return "–" if not method["paper"] else f"[{method['paper']}]({method['link']}), {method['year']}"


def _of(family: str, classes: Any) -> Iterator[dict[str, Any]]:
    """The methods of a family, as `methods` returns them but for the figure."""
    for cls in classes:
        made, paper = cls(), getattr(cls, "paper", None)
        listed = {
            "name": cls.name,
            "family": family,
            "about": " ".join((cls.__doc__ or "").split("\n\n")[0].split()).split(" Source:")[0],
            "paper": paper.title if paper else "",
            "year": paper.year if paper else None,
            "source": paper.source if paper else "",
            "link": paper.link if paper else "",
            "settings": {field.name: plain(getattr(made, field.name)) for field in dataclasses.fields(cls)},
            "aliases": classes.aliases(cls.name),
        }
        if family == "solver":
            listed |= {"evaluations": made.evaluations, "order": made.convergence, "stochastic": made.stochastic}
            listed |= {"adaptive": made.adaptive, "warning": made.warning}
        if hasattr(made, "needs_fit"):
            listed["needs_fit"] = made.needs_fit
        yield listed
