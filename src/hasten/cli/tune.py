"""`hasten tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hasten.cli.options import Limit, Model, Prompts, Seed, budget_of, complain, loaded, prompts_in, typed
from hasten.cli.tables import show_result

INTERRUPTED = 130  # the exit code of a command that was interrupted


def tune(
    model: Model,
    budget: Limit = None,
    speed: Annotated[str | None, typer.Option(help="4x: the most faithful at this speed, instead of a budget.")] = None,
    memory: Annotated[str | None, typer.Option(help="500MB: weights and one image may take no more.")] = None,
    minutes: Annotated[float, typer.Option(help="For everything: reference, search and confirmation.")] = 5.0,
    prompts: Prompts = None,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="Where to write; tuned/MODEL if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search in the folder.")] = False,
    trials: Annotated[int | None, typer.Option(help="At most so many recipes.", show_default=False)] = None,
    workers: Annotated[int, typer.Option(help="Processes that search side by side.")] = 1,
    cluster: Annotated[str | None, typer.Option(help='"local", or the address of a Ray cluster for them.')] = None,
) -> None:
    """Search the fastest recipe within a budget, confirm it on unseen prompts, write recipe and report."""
    limit, given = budget_of(budget, speed, memory), prompts_in(prompts)
    folder = out or Path("tuned") / Path(model).name
    pipe = loaded(model)
    import hasten

    try:
        result = hasten.tune(
            pipe, given, limit, minutes, seed, folder, resume, trials=trials, command=typed(), workers=workers,
            cluster=cluster,
        )  # fmt: skip
    except KeyboardInterrupt:
        complain(f"interrupted; what is finished is in {folder}, go on with --resume")
        raise typer.Exit(INTERRUPTED) from None
    show_result(result, folder)
    if result.best is None:
        complain(f"no recipe is sure to keep {result.budget} on unseen samples; {folder}/recipe.json holds the nearest")
        raise typer.Exit(1)
