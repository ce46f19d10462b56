"""`hasten compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hasten.cli.options import Limit, Model, Prompts, Seed, budget_of, loaded, prompts_in, recipes_of, typed
from hasten.cli.tables import show_result


def compare(
    model: Model,
    recipe: Annotated[list[str], typer.Option(help="A recipe.json, or the folder that holds one; give several.")],
    out: Annotated[Path, typer.Option(help="Where to write the report.")] = Path("compared"),
    budget: Limit = None,
    prompts: Prompts = None,
    samples: Annotated[int, typer.Option(help="How many images to measure.")] = 32,
    seed: Seed = 0,
) -> None:
    """Measure given recipes against the default, as tune measures its finalists, and write the report."""
    from hasten.search import compare as measure

    limit, recipes, given = budget_of(budget), recipes_of(recipe), prompts_in(prompts)
    result = measure(loaded(model), recipes, given, limit, seed, out, samples=samples, command=typed())
    show_result(result, out)
