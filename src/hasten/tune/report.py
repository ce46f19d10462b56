"""The report: one self-contained web page with the claim, its proof and how it was made."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import fields as fields_of
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hasten.measure import Estimate
from hasten.recipe import Recipe
from hasten.solvers import Solver
from hasten.tune.plot import pareto
from hasten.tune.result import Confirmed, Finalist, TuneResult

ROWS = 6  # samples that are shown
LARGEST = 384  # pixels; larger pictures are scaled down for the page
AMPLIFY = 4  # how much differences are brightened
SHOWN = 2  # finalists beside each other in a comparison
READABLE = 4  # numbers of a setting that are spelled out


def render(result: TuneResult) -> str:
    """The page as HTML that loads nothing from anywhere."""
    import jinja2

    place = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(place), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    plot, outside = pareto(result, lambda recipe: words(recipe))  # type: ignore[arg-type]
    return environment.get_template("report.html.j2").render(
        result=result, facts=result.facts, best=result.best, chosen=result.chosen, default=baseline_numbers(result),
        headline=headline(result), plot=plot, outside=outside, gallery=gallery(result), words=words, span=span,
        recipe_json=json.dumps(result.recipe.to_dict(), indent=2), amplify=AMPLIFY, plain=plain_best(result),
        doubt=doubt(result), python_name=json.dumps(result.facts["source"]), python_prompt=json.dumps(_prompt(result)),
    )  # fmt: skip


def headline(result: TuneResult) -> str:
    """The claim in one sentence; what was not confirmed is not claimed."""
    steps = result.facts["default"]["steps"]
    finalist = result.chosen
    found = confirmed(finalist)
    faster = f"{_times(found.speed)} faster than the {steps}-step default"
    measured = f"{faster}, at {_times(found.drift)} its distance from the converged image"
    if result.best is None:
        return f"No recipe stayed within the budget on unseen samples. The nearest is {measured}."
    return f"{measured[0].upper()}{measured[1:]}."


def doubt(result: TuneResult) -> str:
    """What the sample cannot exclude about the chosen recipe's drift, where that matters for the claim."""
    found = confirmed(result.chosen)
    if result.best is None or result.budget.metric != "drift" or found.drift.high <= result.budget.limit:
        return ""
    return (
        f"The 95 % interval of its drift reaches {found.drift.high:.2f}×: {found.drift.n} images do not exclude "
        "that it is above the budget."
    )


def words(recipe: Recipe) -> str:
    """A recipe in a few words."""
    parts = []
    if recipe.solver is not None:
        parts.append(_solver(recipe.solver))
    if recipe.steps is not None:
        parts.append(f"{recipe.steps} steps")
    data = recipe.to_dict()
    if recipe.grid is not None:
        parts.append(_grid(data["grid"]))
    if recipe.guidance is not None:
        parts.append(_described(data["guidance"], "guidance"))
    parts += [_described(cache, "cache") for cache in data.get("caches", [])]
    return ", ".join(parts) or "the default"


def _solver(solver: Solver) -> str:
    """Its class, its order if it has one, and every setting that is not the usual one; rows of numbers unread."""
    usual = type(solver)()
    fields = {f.name: getattr(solver, f.name) for f in fields_of(solver)}  # type: ignore[arg-type]
    told = {name: value for name, value in fields.items() if name == "order" or value != getattr(usual, name)}
    fitted = {name for name, value in told.items() if isinstance(value, tuple | Tensor) and len(value) > READABLE}
    short = [f"{name} {value}" for name, value in told.items() if name not in fitted]
    return " ".join([type(solver).__name__, *short, *(["fitted"] if fitted else [])])


def _grid(grid: dict[str, Any]) -> str:
    if grid["name"] == "uniform":
        return f"{grid.get('spacing', 'trailing')} times"
    if grid["name"] == "explicit":
        return "times of its own"
    return f"{_described(grid, 'grid')} times"


def _described(value: dict[str, Any], field: str) -> str:
    fields = [f"{key} {number}" for key, number in value.items() if key not in ("name", "at")]
    return " ".join([value.get("name", field), *fields])


def span(estimate: Estimate, digits: int = 2) -> str:
    """The interval of an estimate."""
    return f"{estimate.low:.{digits}f} to {estimate.high:.{digits}f}"


def _prompt(result: TuneResult) -> str:
    return result.samples.prompts[0] if result.samples else ""


def confirmed(finalist: Finalist) -> Confirmed:
    """Its confirmed numbers; reports are made of nothing else."""
    assert finalist.confirmed is not None
    return finalist.confirmed


def baseline_numbers(result: TuneResult) -> Confirmed:
    assert result.baseline is not None
    return result.baseline.numbers


def plain_best(result: TuneResult) -> Any:
    """The fastest trial within the budget that changes the solver and its times only, by the search's estimate."""
    from hasten.tune.budget import Score
    from hasten.tune.space import is_plain

    if "search" not in result.facts:
        return None
    seen = dict(result.facts["search"]["default"])
    default = Score(1.0, seen.pop("flips"), 1.0, seen)
    within = [t for t in result.trials if is_plain(t.recipe) and result.budget.within(t.score, default)]
    return max(within, key=lambda t: t.score.speed, default=None)


@dataclass(frozen=True)
class Cell:
    """One picture of the gallery."""

    title: str
    source: str
    note: str = ""


def gallery(result: TuneResult) -> list[tuple[str, list[Cell]]]:
    """Samples from the least to the most drifted of the chosen recipe, evenly spread: nothing is hand-picked."""
    base, samples = result.baseline, result.samples
    if base is None or samples is None or result.chosen.pictures is None:
        return []
    shown = [result.chosen] if "search" in result.facts else result.front[:SHOWN]
    drifts = _distances(result.chosen.pictures.latents, base.reference.latents)
    order = np.argsort(drifts.numpy(), kind="stable")
    rows = [int(order[round(place)]) for place in np.linspace(0, len(order) - 1, min(ROWS, len(order)))]
    return [(f"{samples.prompts[i]} (seed {samples.seeds[i]})", _cells(result, shown, i)) for i in rows]


def _cells(result: TuneResult, shown: Sequence[Finalist], i: int) -> list[Cell]:
    assert result.baseline is not None
    base = result.baseline
    reference = base.reference.images[i]

    def rmse(image: Tensor) -> str:
        return f"RMSE {float((image - reference).square().mean().sqrt()):.3f}"

    default = base.pictures.images[i]
    cells = [Cell("default", data_uri(default), rmse(default)), Cell("reference", data_uri(reference))]
    for finalist in shown:
        assert finalist.pictures is not None
        image = finalist.pictures.images[i]
        difference = ((image - reference).abs() * AMPLIFY).clamp(0, 1)
        cells += [
            Cell(f"recipe {finalist.name}", data_uri(image), rmse(image)),
            Cell(f"|{finalist.name} − reference| × {AMPLIFY}", data_uri(difference)),
        ]
    return cells


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).square().mean(1).sqrt()


def data_uri(image: Tensor) -> str:
    """An image (C, H, W) in [0, 1] as PNG, or as JPEG if it is large, inside a URI."""
    from PIL import Image

    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    large = max(picture.size) > LARGEST
    if large:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG" if large else "PNG", **({"quality": 88} if large else {"optimize": True}))
    kind = "jpeg" if large else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _times(estimate: Estimate) -> str:
    return f"{estimate.value:.{2 if estimate.value < 1 else 1}f}×"
