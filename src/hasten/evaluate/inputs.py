"""Checks of what callers hand in, before anything is run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hasten.core.errors import HastenError, positive_int
from hasten.evaluate.results import Candidate
from hasten.recipe import Recipe

LEAST = 2  # samples, so that flips can be seen
LETTERS = 26


def check_numbers(
    samples: Sequence[int], minutes: float = 1.0, trials: int | None = None, finalists: int = 1
) -> None:  # fmt: skip
    """Raise HastenError for numbers that are not possible.

    samples: of each split, at least 2.
    minutes: above 0.
    trials: at least 1, or None.
    finalists: at least 1.
    """
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes < math.inf:
        raise HastenError(f"minutes: {minutes!r} is not possible; give a number above 0")
    if trials is not None:
        positive_int("trials", trials)
    positive_int("finalists", finalists)
    for size in samples:
        if positive_int("samples", size) < LEAST:
            raise HastenError(f"samples: {size} is too few; give at least {LEAST}, so that flips can be seen")


def writable(out: str | Path | None) -> Path | None:
    """A folder for results, made if need be; None for None. Raises HastenError if nothing can be written there."""
    if out is None:
        return None
    folder = Path(out)
    probe = folder / ".hasten"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise HastenError(f"out: cannot write to {folder}: {error.strerror or error}") from None
    return folder


def candidates(recipes: Mapping[str, Any] | Sequence[Any]) -> list[Candidate[Recipe]]:
    """Given recipes by their names, or by letters where they have none. Raises HastenError for one that is wrong."""
    by_name = recipes if isinstance(recipes, Mapping) else {letter(i): recipe for i, recipe in enumerate(recipes)}
    return [Candidate(name, Recipe.of(recipe)) for name, recipe in by_name.items()]


def letter(index: int) -> str:
    """What the recipe at a place is called: A to Z, then R27 and so on."""
    return chr(ord("A") + index) if index < LETTERS else f"R{index + 1}"
