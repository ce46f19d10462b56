"""The application: its commands, and `main`, which turns every error into one line."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from hasten.cli.bench import bench
from hasten.cli.compare import compare
from hasten.cli.generate import generate
from hasten.cli.invert import invert
from hasten.cli.methods import methods
from hasten.cli.options import complain
from hasten.cli.train import train
from hasten.cli.tune import tune
from hasten.cli.zoo import zoo
from hasten.core.console import quiet
from hasten.core.errors import HastenError
from hasten.core.plugins import FILES, load_plugins

EXPECTED = (HastenError, OSError)
"""Errors whose own text is enough."""

app = typer.Typer(
    name="hasten", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Make diffusion and flow models generate faster, and prove how faithful they stayed.",
)  # fmt: skip
for command in (tune, compare, bench, generate, invert, methods, zoo, train):
    app.command()(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Errors end in one line on stderr, exit code 1 (2 where the usage is wrong).

    arguments: what was typed after the program's name; sys.argv if None.
    """
    typed = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in typed  # wherever it stands
    try:
        with _own_files(), contextlib.nullcontext() if debug else _without_chatter():
            rest = [argument for argument in typed if argument != "--debug"]
            app(args=_imports_first(rest), prog_name="hasten")
    except Exception as error:
        if debug:
            traceback.print_exc()
        hint = "" if debug or isinstance(error, EXPECTED) else " (--debug shows where)"
        complain(f"{_one_line(error)}{hint}")
        raise SystemExit(1) from None


def _imports_first(typed: Sequence[str]) -> list[str]:
    """What was typed, with every `--import FILE` before the command."""
    first, rest = [], list(typed)
    while "--import" in rest:
        at = rest.index("--import")
        if at + 1 == len(rest):
            raise HastenError("import: no file is named; give --import FILE")
        first += rest[at : at + 2]
        del rest[at : at + 2]
    together = [argument for argument in rest if argument.startswith("--import=")]
    return [*first, *together, *(argument for argument in rest if argument not in together)]


@contextlib.contextmanager
def _own_files() -> Iterator[None]:
    """The files to import are on exit those that they were."""
    before = os.environ.get(FILES)
    try:
        yield
    finally:
        os.environ.pop(FILES, None)
        if before is not None:
            os.environ[FILES] = before


def _import(files: list[Path] | None) -> None:
    """Import files here, and in the processes that are started from here."""
    if files:
        known = [os.environ[FILES]] if os.environ.get(FILES) else []
        os.environ[FILES] = os.pathsep.join([*known, *(str(file.absolute()) for file in files)])
        load_plugins()


def _version(wanted: bool) -> None:
    if wanted:
        import hasten

        typer.echo(f"hasten {hasten.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    files: Annotated[
        list[Path] | None,
        typer.Option("--import", callback=_import, help="A Python file that lists methods of your own; give several."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Options of every command."""


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Without the warnings of the libraries underneath, those of torch's own code if it is not loaded yet."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with quiet():
        yield


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return text if isinstance(error, EXPECTED) and text else f"{type(error).__name__}: {text}"
