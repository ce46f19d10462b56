"""`hasten generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hasten.cli.options import Model, check_image_file, loaded
from hasten.core.errors import positive_int


def generate(
    model: Model,
    prompt: Annotated[list[str], typer.Argument(help="What to draw; each prompt gives an image.")],
    recipe: Annotated[str | None, typer.Option(help="A recipe.json, or the folder that holds one.")] = None,
    seed: Annotated[int, typer.Option(help="Of every image.")] = 0,
    steps: Annotated[int | None, typer.Option(help="Wins over the recipe.", show_default=False)] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; wins over the recipe.")] = None,
    out: Annotated[Path, typer.Option(help="The image file; several images are numbered.")] = Path("image.png"),
) -> None:
    """Draw images of prompts, by a recipe if one is given."""
    from hasten.recipe import Recipe, accelerate
    from hasten.zoo import call_of

    chosen = Recipe() if recipe is None else Recipe.of(recipe)
    extra: dict[str, Any] = {} if steps is None else {"num_inference_steps": positive_int("steps", steps)}
    if guidance is not None:
        extra["guidance_scale"] = guidance
    check_image_file(out)
    files = [out] if len(prompt) == 1 else [out.with_stem(f"{out.stem}-{i}") for i in range(1, len(prompt) + 1)]
    pipe = loaded(model)
    extra = call_of(pipe) | extra
    out.parent.mkdir(parents=True, exist_ok=True)
    with accelerate(pipe, chosen) as fast:
        images = fast(prompt=list(prompt), seed=seed, **extra).images
    for file, image in zip(files, images):
        image.save(file)
        typer.echo(file)
