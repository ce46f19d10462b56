"""The command line. It parses, calls the library and prints; heavy imports wait inside the commands."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from hasten.core.errors import HastenError

app = typer.Typer(
    name="hasten", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Make diffusion and flow models generate faster, and prove how faithful they stayed.",
)  # fmt: skip

Model = Annotated[str, typer.Argument(help="A zoo name (emoji-sd), a folder written by save_pretrained, or a hub id.")]
Seed = Annotated[int, typer.Option(help="Of the samples, and of the search.")]
Prompts = Annotated[Path | None, typer.Option(help="A text file with one prompt a line.")]
Limit = Annotated[
    str | None,
    typer.Option(help="1.0x (of the default's drift), ssim>=0.95 or latent_rmse<=0.1; 1.0x if not given."),
]

HEADLINES = {"accuracy": "%", "retrieval.top1": "%", "alignment": "%", "alignment.top1": "%", "psnr": "dB", "fd": ""}
"""Measures of a model that a table shows, and their units; % for shares."""

KNOWN = (HastenError, OSError)
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors end in one line on stderr, exit code 1 (2 where the usage is wrong)."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in typed  # wherever it stands
    try:
        with contextlib.nullcontext() if debug else _without_chatter():
            app(args=[argument for argument in typed if argument != "--debug"], prog_name="hasten")
    except Exception as error:
        if debug:
            traceback.print_exc()
        hint = "" if debug or isinstance(error, KNOWN) else " (--debug shows where)"
        _complain(f"{_one_line(error)}{hint}")
        raise SystemExit(1) from None


def _version(wanted: bool) -> None:
    if wanted:
        import hasten

        typer.echo(f"hasten {hasten.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
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
    from hasten.evaluate.budget import Budget
    from hasten.evaluate.samples import read_prompts

    limit = Budget.of(_budget(budget, speed, memory))
    given = None if prompts is None else read_prompts(prompts)
    folder = out or Path("tuned") / Path(model).name
    pipe = _loaded(model)
    import hasten

    try:
        result = hasten.tune(
            pipe, given, limit, minutes, seed, folder, resume, trials=trials, command=_typed(), workers=workers,
            cluster=cluster,
        )  # fmt: skip
    except KeyboardInterrupt:
        _complain(f"interrupted; what is finished is in {folder}, go on with --resume")
        raise typer.Exit(INTERRUPTED) from None
    _show(result, folder)
    if result.best is None:
        _complain(
            f"no recipe is sure to keep {result.budget} on unseen samples; {folder}/recipe.json holds the nearest"
        )
        raise typer.Exit(1)


@app.command()
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
    from hasten.evaluate.budget import Budget
    from hasten.evaluate.samples import read_prompts
    from hasten.recipe import Recipe
    from hasten.search import compare as measure

    limit = Budget.of(_budget(budget))
    recipes = dict(zip(_names(recipe), [Recipe.of(one) for one in recipe]))
    given = None if prompts is None else read_prompts(prompts)
    result = measure(_loaded(model), recipes, given, limit, seed, out, samples=samples, command=_typed())
    _show(result, out)


@app.command()
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
    from hasten.evaluate.budget import Budget
    from hasten.evaluate.samples import read_prompts
    from hasten.recipe import Recipe

    limit = Budget.of(_budget(budget))
    peers.chosen(against)
    elsewhere = peers.pythons(python or [])
    recipes = dict(zip(_names(recipe or []), [Recipe.of(one) for one in recipe or []]))
    given = None if prompts is None else read_prompts(prompts)
    folder = out or Path("benched") / Path(model).name
    result = measure(
        _loaded(model), against, recipes, given, limit, minutes, seed, folder, pythons=elsewhere,
        samples=(max(2, samples // 2), samples), command=_typed(),
    )  # fmt: skip
    _show_bench(result, folder)


@app.command()
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
    from hasten.core.errors import positive_int
    from hasten.recipe import Recipe, accelerate
    from hasten.zoo import call_of

    chosen = Recipe() if recipe is None else Recipe.of(recipe)
    extra: dict[str, Any] = {} if steps is None else {"num_inference_steps": positive_int("steps", steps)}
    if guidance is not None:
        extra["guidance_scale"] = guidance
    _check_image_file(out)
    files = [out] if len(prompt) == 1 else [out.with_stem(f"{out.stem}-{i}") for i in range(1, len(prompt) + 1)]
    pipe = _loaded(model)
    extra = call_of(pipe) | extra
    out.parent.mkdir(parents=True, exist_ok=True)
    with accelerate(pipe, chosen) as fast:
        images = fast(prompt=list(prompt), seed=seed, **extra).images
    for file, image in zip(files, images):
        image.save(file)
        typer.echo(file)


@app.command()
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
    _check_image_file(out)
    pipe = _loaded(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(image) as picture:
        trip = round_trip(pipe, picture, prompt, guidance, chosen, steps)
    trip.save(out)
    for line in (*trip.told(), out, out.with_suffix(".safetensors")):
        typer.echo(line)


@app.command()
def methods(
    family: Annotated[
        str | None, typer.Option(help="Only one: solver, start, guidance, caches, quantize or compile.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As the table of the README.")] = False,
) -> None:
    """List every method with its paper, what it needs and what it was measured to do."""
    import json

    from rich.console import Console
    from rich.table import Column, Table

    from hasten import methods as listing

    found = listing.methods(family)
    if as_json or markdown:
        typer.echo(json.dumps(found, indent=2) if as_json else listing.markdown(found))
        return
    columns = (Column("method", overflow="fold"), "family", "calls a step", "order", "what it is", "paper", "measured")
    table = Table(*columns, padding=(0, 2, 1, 0), box=None)
    for method in found:
        paper = f"{method['paper']}, {method['year']}, {method['source']}"
        start = method["name"], method["family"], listing.calls(method), str(method.get("order", ""))
        table.add_row(*start, listing.about(method), paper, method["figure"])
    Console().print(table)


@app.command()
def zoo(as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every measure.")] = False) -> None:
    """List the models that ship with hasten: size, licence, default steps, measured quality."""
    import json

    from rich.console import Console
    from rich.table import Table

    from hasten.zoo import describe, names

    found = [describe(name) for name in names()]
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = Table(
        "model", "pipeline", "parameters", "MB", "steps", "licence", "measured", padding=(0, 2, 1, 0), box=None
    )
    for model in found:
        measured = [_measured(key, estimate) for key, estimate in model["metrics"].items() if key in HEADLINES]
        licences = [model["licence"] or "unknown", *(f"data {data}" for data in model["data_licences"])]
        table.add_row(
            model["name"], model["pipeline"], f"{model['parameters'] / 1e6:.1f} M", f"{model['bytes'] / 1e6:.1f}",
            str(model["steps"] or ""), "\n".join(licences), "\n".join(measured),
        )  # fmt: skip
    Console().print(table)


@app.command()
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
    from hasten import zoo

    folder = zoo.train(
        name, out, data=data, steps=steps, names=names, vae=vae, copies=copies, resume=not fresh, fast=fast
    )
    typer.echo(folder)


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Without the warnings of the libraries underneath, those of torch's own code if it is not loaded yet."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _check_image_file(out: Path) -> None:
    from PIL import Image

    if out.suffix.lower() not in Image.registered_extensions():
        raise HastenError(f"out: {out.name!r} is not an image file; end it in .png or .jpg")


def _budget(budget: str | None, speed: str | None = None, memory: str | None = None) -> str:
    """The options as one text that `Budget.of` reads."""
    if budget is not None and speed is not None:
        raise HastenError("speed: a budget was given as well; give one of the two")
    quality = f"speed>={speed}" if speed is not None else budget or "1.0x"
    return quality if memory is None else f"{quality}, memory<={memory}"


def _loaded(model: str) -> Any:
    from hasten.bridge import load

    pipe = load(model)
    pipe.set_progress_bar_config(disable=not sys.stderr.isatty())
    return pipe


def _show(result: Any, folder: Path) -> None:
    """The finalists as a table, the claim, and where the proof is."""
    from rich.console import Console
    from rich.table import Table

    from hasten.report.report import headline
    from hasten.report.words import words

    console = Console()
    table = Table("", "recipe", "faster", "drift", "flips", box=None, pad_edge=False)
    for finalist in result.front:
        found = finalist.confirmed
        mark = "bold green" if finalist is result.best else None
        table.add_row(
            finalist.name, words(finalist.way), f"{found.speed.value:.2f}x", f"{found.drift.value:.2f}x",
            f"{100 * found.flips.value:.0f} %", style=mark,
        )  # fmt: skip
    console.print(table)
    console.print(headline(result), style="bold", highlight=False)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True, highlight=False)


def _show_bench(result: Any, folder: Path) -> None:
    """Every confirmed setting as a table, who is missing, and the claim."""
    from rich.console import Console
    from rich.table import Table

    from hasten.bench.outcome import side, words

    console = Console()
    table = Table("", "setting", "faster", "drift", "flips", "", box=None, pad_edge=False)
    for finalist in result.front:
        found = finalist.confirmed
        mark = "bold green" if finalist is result.best(side(finalist)) else None
        table.add_row(
            side(finalist), words(finalist), f"{found.speed.value:.2f}x", f"{found.drift.value:.2f}x",
            f"{100 * found.flips.value:.0f} %", "" if found.within else "over the budget", style=mark,
        )  # fmt: skip
    console.print(table)
    for name, why in result.missing.items():
        console.print(f"{name} did not take part: {why}", highlight=False, markup=False)
    console.print(result.claim, style="bold", highlight=False, markup=False)
    console.print(f"table: {folder / 'bench.md'}", soft_wrap=True, highlight=False)


def _measured(key: str, estimate: dict[str, Any]) -> str:
    """A measure with its interval, where it has one: "retrieval.top1 64.5 [57.7, 70.8] %"."""
    scale = 100 if HEADLINES[key] == "%" else 1
    value, low, high = (estimate[part] for part in ("value", "low", "high"))
    spread = "" if None in (low, high) else f" [{scale * low:.1f}, {scale * high:.1f}]"
    return f"{key} {scale * value:.1f}{spread} {HEADLINES[key]}".rstrip() if value is not None else f"{key} unknown"


def _names(recipes: list[str]) -> list[str]:
    """Short names for recipe files: what tells them apart in their paths, else letters."""
    paths = [Path(text) for text in recipes]
    names = [path.parent.name if path.name == "recipe.json" else path.stem for path in paths]
    if all(names) and len(set(names)) == len(names):
        return names
    return [chr(ord("A") + i) if i < 26 else f"R{i + 1}" for i in range(len(recipes))]


def _typed() -> str:
    return shlex.join(["hasten", *sys.argv[1:]])


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return text if isinstance(error, KNOWN) and text else f"{type(error).__name__}: {text}"


def _complain(text: str) -> None:
    print(f"hasten: {text}", file=sys.stderr)
