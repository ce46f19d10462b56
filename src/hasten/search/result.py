"""What a tuning hands back: the outcome with its report, and the folder that it is written to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hasten.core.errors import HastenError
from hasten.evaluate.budget import Budget
from hasten.evaluate.results import Candidate, Outcome, Trial, front
from hasten.recipe import Recipe
from hasten.report.report import render, summarise

FRONT, REPORT, SUMMARY = "front.json", "report.html", "report.md"


@dataclass
class TuneResult(Outcome):
    """The outcome of `hasten.tune` or `hasten.compare`: the fields are those of `Outcome`."""

    @cached_property
    def report(self) -> str:
        """A web page in one file, with plot, tables and pictures."""
        return render(self)

    @property
    def summary(self) -> str:
        """The numbers of the report as Markdown, for a terminal or a pull request."""
        return summarise(self)

    def save(self, folder: str | Path) -> None:
        """Write front.json, recipe.json, report.html and report.md.

        folder: where; it is made if need be.

        Raises HastenError if the folder cannot be written to.
        """
        with _written(Path(folder)) as place:
            _write_json(place, self.to_json())
            self.recipe.save(place)
            (place / REPORT).write_text(self.report, encoding="utf-8")
            (place / SUMMARY).write_text(self.summary, encoding="utf-8")


def save_front(folder: Path, budget: Budget, trials: Sequence[Trial[Recipe]]) -> None:
    """Write front.json with what a search has so far; nothing of it is confirmed.

    folder: where.
    budget: of the search.
    trials: so far.

    Raises HastenError if the folder cannot be written to.
    """
    some = [Candidate(f"trial {t.number}", t.way, t.score) for t in front(trials)]
    unconfirmed = dict.fromkeys(("default", "ablation", "breakdown"))
    names = {"best": None, "chosen": some[0].name if some else None}
    shown = {"front": [candidate.to_json() for candidate in some]}
    with _written(folder) as place:
        _write_json(place, {"budget": str(budget), **names, **shown, **unconfirmed, "facts": {}})


def _write_json(folder: Path, data: dict[str, Any]) -> None:
    (folder / FRONT).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _written(folder: Path) -> Iterator[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        raise HastenError(f"out: cannot write to {folder}: {error.strerror or error}") from None
