"""`hasten invert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hasten.cli.options import Model, check_image_file, loaded


def invert(
    model: Model,
    image: Annotated[Path, typer.Argument(help="A picture; it is drawn on white and brought to the model's size.")],
    prompt: Annotated[str, typer.Option(help="What it shows.")] = "",
    guidance: Annotated[float, typer.Option(help="Guidance scale in both directions; 1 is none.")] = 1.0,
    solver: Annotated[str, typer.Option(help="edict or bdia (exact), or another such as ddim (not).")] = "edict",
    steps: Annotated[int, typer.Option(help="Steps in each direction.")] = 50,
    out: Annotated[Path, typer.Option(help="The rebuilt picture; the noise lies beside it.")] = Path("inverted.png"),
) -> None:
    """Turn a picture into the noise that the model makes it from, and back, and say how well that went."""
    from PIL import Image

    from hasten.edit import Inverse, round_trip
    from hasten.solvers import SOLVERS

    chosen = Inverse(SOLVERS.build(solver)).solver
    check_image_file(out)
    pipe = loaded(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(image) as picture:
        trip = round_trip(pipe, picture, prompt, guidance, chosen, steps)
    trip.save(out)
    for line in (*trip.told(), out, out.with_suffix(".safetensors")):
        typer.echo(line)
