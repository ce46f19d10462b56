"""What `bench` hands back: the outcome, and the files that it is written to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from hasten.bench.outcome import PICTURE, BenchOutcome
from hasten.bench.page import picture, table
from hasten.core.errors import HastenError

DATA, TABLE = "bench.json", "bench.md"


@dataclass
class BenchResult(BenchOutcome):
    """The outcome of `bench`: the fields are those of `BenchOutcome`."""

    def save(self, folder: str | Path) -> None:
        """Write bench.json, bench.md and bench.png.

        folder: where; it is made if need be.

        Raises HastenError if the folder cannot be written to.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / DATA).write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")
            (folder / TABLE).write_text(table(self), encoding="utf-8")
            picture(self, folder / PICTURE)
        except OSError as error:
            raise HastenError(f"out: cannot write to {folder}: {error.strerror or error}") from None
