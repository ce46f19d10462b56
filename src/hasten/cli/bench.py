"""`hasten bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hasten.cli.options import Limit, Model, Prompts, Seed, budget_of, loaded, prompts_in, recipes_of, typed
from hasten.cli.tables import show_bench

FEWEST = 2  # samples that settings can be chosen on


def bench(
    model: Model,
    against: Annotated[str, typer.Option(help="Peers, with commas: diffusers, deepcache, cache-dit, pruna, skrample.")]
    = "diffusers,deepcache,cache-dit,pruna",
    recipe: Annotated[list[str] | None, typer.Option(help="A recipe.json, or its folder; give several.")] = None,
    python: Annotated[
        list[str] | None, typer.Option(help="pruna=/path/to/bin/python: a peer's own environment; give several.")
    ] = None,
    budget: Limit = None,
    minutes: Annotated[float, typer.Option(help="For finding the best settings; measuring them comes on top.")] = 20.0,
    prompts: Prompts = None,
    samples: Annotated[int, typer.Option(help="How many images to measure; half as many to choose settings on.")] = 32,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Where to write; benched/MODEL if not given.")] = None,
) -> None:  # fmt: skip
    """Measure other packages at their own best settings beside recipes, on the same prompts and seeds."""
    from hasten.bench import bench as measure
    from hasten.bench import peers

    limit = budget_of(budget)
    peers.chosen(against)
    elsewhere = peers.pythons(python or [])
    recipes, given = recipes_of(recipe or []), prompts_in(prompts)
    folder = out or Path("benched") / Path(model).name
    result = measure(
        loaded(model), against, recipes, given, limit, minutes, seed, folder, pythons=elsewhere,
        samples=(max(FEWEST, samples // 2), samples), command=typed(),
    )  # fmt: skip
    show_bench(result, folder)
