"""What commands share: options, and what is made of them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hasten.core.errors import HastenError

Model = Annotated[str, typer.Argument(help="A zoo name (emoji-sd), a folder written by save_pretrained, or a hub id.")]
Seed = Annotated[int, typer.Option(help="Of the samples, and of the search.")]
Prompts = Annotated[Path | None, typer.Option(help="A text file with one prompt a line.")]
Limit = Annotated[
    str | None,
    typer.Option(help="1.0x (of the default's drift), ssim>=0.95 or latent_rmse<=0.1; 1.0x if not given."),
]
LETTERS = 26


def loaded(model: str) -> Any:
    """The pipeline of a model, whose calls show a progress bar where somebody watches."""
    from hasten.bridge import load

    pipe = load(model)
    pipe.set_progress_bar_config(disable=not sys.stderr.isatty())
    return pipe


def prompts_in(file: Path | None) -> list[str] | None:
    """The prompts in a file; None if there is no file."""
    from hasten.evaluate.samples import read_prompts

    return None if file is None else read_prompts(file)


def budget_of(budget: str | None, speed: str | None = None, memory: str | None = None) -> Any:
    """The Budget that these options come to. Raises HastenError if they contradict one another."""
    from hasten.evaluate.budget import Budget

    if budget is not None and speed is not None:
        raise HastenError("speed: a budget was given as well; give one of the two")
    quality = f"speed>={speed}" if speed is not None else budget or "1.0x"
    return Budget.of(quality if memory is None else f"{quality}, memory<={memory}")


def recipes_of(texts: list[str]) -> dict[str, Any]:
    """Recipes by short names: what tells their files apart, else letters."""
    from hasten.recipe import Recipe

    paths = [Path(text) for text in texts]
    names = [path.parent.name if path.name == "recipe.json" else path.stem for path in paths]
    if not (all(names) and len(set(names)) == len(names)):
        names = [chr(ord("A") + i) if i < LETTERS else f"R{i + 1}" for i in range(len(texts))]
    return dict(zip(names, [Recipe.of(text) for text in texts]))


def check_image_file(out: Path) -> None:
    """Raise a HastenError unless the name of a file is that of a picture."""
    from PIL import Image

    if out.suffix.lower() not in Image.registered_extensions():
        raise HastenError(f"out: {out.name!r} is not an image file; end it in .png or .jpg")


def typed() -> str:
    """The command as it was typed."""
    return shlex.join(["hasten", *sys.argv[1:]])


def complain(text: str) -> None:
    """Say in one line on stderr what went wrong."""
    print(f"hasten: {text}", file=sys.stderr)
