"""`hasten methods`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hasten.cli.tables import show_methods


def methods(
    family: Annotated[
        str | None,
        typer.Option(
            help="Only one: solver, start, guidance, caches, prune, quantize or compile; or parts that they are made "
            "of: site, gate, forecaster, indicator, grid or unmasker."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As the table of the README.")] = False,
) -> None:
    """List every method with its paper, what it needs and what it was measured to do."""
    from hasten import methods as listing

    listed = listing.methods(family)
    if as_json or markdown:
        typer.echo(json.dumps(listed, indent=2) if as_json else listing.markdown(listed))
    else:
        show_methods(listed)
        if family is None:
            typer.echo(f"What else there is: --family {', '.join(listing.parts())}")
