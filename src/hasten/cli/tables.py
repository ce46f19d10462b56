"""What commands print as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HEADLINES = {"accuracy": "%", "retrieval.top1": "%", "alignment": "%", "alignment.top1": "%", "psnr": "dB", "fd": ""}
"""Measures of a model that a table shows, and their units; % for shares."""

BEST = "bold green"


def show_result(result: Any, folder: Path) -> None:
    """Print the finalists of a TuneResult, the claim, and where the proof is."""
    from rich.console import Console
    from rich.table import Table

    from hasten.report.report import headline
    from hasten.report.words import words

    console = Console()
    table = Table("", "recipe", "faster", "drift", "flips", box=None, pad_edge=False)
    for finalist in result.front:
        mark = BEST if finalist is result.best else None
        table.add_row(finalist.name, words(finalist.way), *_measures(finalist.confirmed), style=mark)
    console.print(table)
    console.print(headline(result), style="bold", highlight=False)
    console.print(f"report: {folder / 'report.html'}", soft_wrap=True, highlight=False)


def show_bench(result: Any, folder: Path) -> None:
    """Print every confirmed setting of a bench, who did not take part, and the claim."""
    from rich.console import Console
    from rich.table import Table

    from hasten.bench.outcome import side, words

    console = Console()
    table = Table("", "setting", "faster", "drift", "flips", "", box=None, pad_edge=False)
    for finalist in result.front:
        mark = BEST if finalist is result.best(side(finalist)) else None
        note = "" if finalist.confirmed.within else "over the budget"
        table.add_row(side(finalist), words(finalist), *_measures(finalist.confirmed), note, style=mark)
    console.print(table)
    for name, why in result.missing.items():
        console.print(f"{name} did not take part: {why}", highlight=False, markup=False)
    console.print(result.claim, style="bold", highlight=False, markup=False)
    console.print(f"table: {folder / 'bench.md'}", soft_wrap=True, highlight=False)


def show_methods(listed: Sequence[Mapping[str, Any]]) -> None:
    """Print methods as `hasten.methods.methods` lists them."""
    from rich.console import Console
    from rich.table import Column, Table

    from hasten.methods import about, calls

    columns = (Column("method", overflow="fold"), "family", "calls a step", "order", "what it is", "paper", "measured")
    table = Table(*columns, padding=(0, 2, 1, 0), box=None)
    for method in listed:
        paper = f"{method['paper']}, {method['year']}, {method['source']}" if method["paper"] else ""
        start = method["name"], method["family"], calls(method), str(method.get("order", ""))
        table.add_row(*start, about(method), paper, method["figure"])
    Console().print(table)


def show_zoo(models: Sequence[Mapping[str, Any]]) -> None:
    """Print models as `hasten.zoo.describe` describes them."""
    from rich.console import Console
    from rich.table import Table

    titles = ("model", "pipeline", "parameters", "MB", "steps", "licence", "measured")
    table = Table(*titles, padding=(0, 2, 1, 0), box=None)
    for model in models:
        measured = [_measured(key, estimate) for key, estimate in model["metrics"].items() if key in HEADLINES]
        licences = [model["licence"] or "unknown", *(f"data {data}" for data in model["data_licences"])]
        table.add_row(
            model["name"], model["pipeline"], f"{model['parameters'] / 1e6:.1f} M", f"{model['bytes'] / 1e6:.1f}",
            str(model["steps"] or ""), "\n".join(licences), "\n".join(measured),
        )  # fmt: skip
    Console().print(table)


def _measures(confirmed: Any) -> tuple[str, str, str]:
    """How much faster, how far from the reference, and how many flips."""
    return f"{confirmed.speed.value:.2f}x", f"{confirmed.drift.value:.2f}x", f"{100 * confirmed.flips.value:.0f} %"


def _measured(key: str, estimate: Mapping[str, Any]) -> str:
    """A measure with its interval, where it has one: "retrieval.top1 64.5 [57.7, 70.8] %"."""
    scale = 100 if HEADLINES[key] == "%" else 1
    value, low, high = (estimate[part] for part in ("value", "low", "high"))
    spread = "" if None in (low, high) else f" [{scale * low:.1f}, {scale * high:.1f}]"
    return f"{key} {scale * value:.1f}{spread} {HEADLINES[key]}".rstrip() if value is not None else f"{key} unknown"
