"""A tuning of a tiny pipeline that takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pipelines
import pytest

import hasten
from hasten.evaluate import references as reference
from hasten.evaluate.problem import Problem
from hasten.evaluate.samples import choose
from hasten.search import confirming

LETTERS = list("abcdefghij")
STEPS = 8  # of the default


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Fewer steps of the reference and fewer rounds of timing."""
    patch.setattr(reference, "FIRST", 8)
    patch.setattr(reference, "LAST", 16)
    patch.setattr(confirming, "REPEATS", 2)
    patch.setattr(confirming, "PARTS_REPEATS", 1)


def tuned(out: Path | None, pipe: Any = None, **choices: Any) -> Any:
    pipe = pipe or pipelines.make("sd")
    settings = {"budget": "2x", "minutes": 1, "trials": 3, "samples": (3, 4), "batch": 2, "finalists": 2}
    return hasten.tune(pipe, LETTERS, out=out, call={"num_inference_steps": STEPS}, **settings | choices)


def problem(pipe: Any = None, **sizes: int) -> Problem:
    samples = choose(LETTERS, sizes or {"search": 3, "confirm": 4})
    return Problem(pipe or pipelines.make("sd"), samples, batch=2, call={"num_inference_steps": STEPS})
