"""`hasten train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    name: Annotated[str, typer.Argument(help="A model of the zoo.")],
    out: Annotated[Path | None, typer.Option(help="Where to train; runs/NAME if not given.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data, fetched if it is not there.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps.")] = None,
    names: Annotated[int | None, typer.Option(help="How many names to train on.")] = None,
    vae: Annotated[Path | None, typer.Option(help="Folder of the autoencoder.")] = None,
    copies: Annotated[int | None, typer.Option(help="Varied copies of each picture.", show_default=False)] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew instead of going on.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Compile the network first.")] = False,
) -> None:
    """Train a model of the zoo; stopped runs go on where they were."""
    from hasten import zoo_training

    folder = zoo_training.train(
        name, out, data=data, steps=steps, names=names, vae=vae, copies=copies, resume=not fresh, fast=fast
    )
    typer.echo(folder)
