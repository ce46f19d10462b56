"""`compare`: given recipes are measured as `tune` measures its finalists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hasten.core.console import Display
from hasten.core.errors import HastenError
from hasten.evaluate import facts
from hasten.evaluate.budget import Budget
from hasten.evaluate.inputs import candidates, check_numbers, writable
from hasten.evaluate.problem import Problem
from hasten.evaluate.references import References
from hasten.evaluate.samples import Prompts, choose, known_prompts
from hasten.search.confirming import confirm
from hasten.search.result import TuneResult


def compare(
    pipe: Any,
    recipes: Mapping[str, Any] | Sequence[Any],
    prompts: Prompts | None = None,
    budget: Budget | str | float = "1.0x",
    seed: int = 0,
    out: str | Path | None = None,
    *,
    samples: int = 32,
    batch: int = 8,
    call: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    command: str | None = None,
) -> TuneResult:
    """Measure given recipes against the default as `tune` measures its finalists, with the same report.

    pipe: a diffusers text-to-image pipeline; it is left as it is.
    recipes: by name, or a list (then they are called A, B, ...); each a Recipe, mapping, path or JSON text.
    prompts: a list, or {"confirm": [...]}; the model's own captions or everyday prompts if None.
    budget: see `Budget.of`.
    seed: of the samples.
    out: a folder for recipe.json, front.json, report.html and report.md; nothing is written if None.
    samples: how many images are measured, at least 2.
    batch: how many run at once, at least 1.
    call: what every call of the pipeline gets besides; num_inference_steps=... makes another default.
    progress: whether bars are shown; None shows them where stderr is a terminal.
    command: what the report says was typed.

    Raises HastenError for a recipe that is wrong or does not suit the model, before anything is run.
    """
    limit, given = Budget.of(budget), candidates(recipes)
    if not given:
        raise HastenError("recipes: there are none; give at least one")
    check_numbers([samples])
    chosen = choose(known_prompts(pipe) if prompts is None else prompts, {"confirm": samples}, seed)
    problem = Problem(pipe, chosen, batch=batch, call=call)
    for candidate in given:
        with problem.running(candidate.way):
            pass
    folder, references = writable(out), References(problem)
    result = confirm(problem, references, given, limit, Display(progress))
    typed = command or f"hasten.compare(pipe, {[one.name for one in given]}, seed={seed})"
    result.facts = facts.gather(problem, references, seed, typed)
    if folder is not None:
        result.save(folder)
    return result
