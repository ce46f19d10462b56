"""`hasten zoo`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hasten.cli.tables import show_zoo


def zoo(as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every measure.")] = False) -> None:
    """List the models that ship with hasten: size, licence, default steps, measured quality."""
    from hasten.zoo import describe, names

    models = [describe(name) for name in names()]
    if as_json:
        typer.echo(json.dumps(models, indent=2))
    else:
        show_zoo(models)
