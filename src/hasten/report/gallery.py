"""The pictures of a report: default, recipe, reference and difference of the same samples."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hasten.evaluate.results import Finalist, Outcome
from hasten.recipe import Recipe

ROWS = 6  # samples that are shown
LARGEST = 384  # pixels; larger pictures are scaled down for the page
AMPLIFY = 4  # how much differences are brightened
SHOWN = 2  # finalists beside each other in a comparison


@dataclass(frozen=True)
class Cell:
    """One picture of the gallery.

    title: what it shows.
    source: the picture, as a URI.
    note: a few words below it.
    """

    title: str
    source: str
    note: str = ""


def gallery(result: Outcome) -> list[tuple[str, list[Cell]]]:
    """Rows of pictures, each with its prompt: from the least to the most drifted sample of the chosen recipe.

    They are spread evenly between those, so nothing is hand-picked.
    """
    base, samples = result.baseline, result.samples
    shown = [result.chosen] if "search" in result.facts else result.front[:SHOWN]
    drifts = _distances(result.chosen.pictures.latents, base.reference.latents)
    order = np.argsort(drifts.numpy(), kind="stable")
    rows = [int(order[round(place)]) for place in np.linspace(0, len(order) - 1, min(ROWS, len(order)))]
    return [(f"{samples.prompts[i]} (seed {samples.seeds[i]})", _cells(result, shown, i)) for i in rows]


def _cells(result: Outcome, shown: Sequence[Finalist[Recipe]], i: int) -> list[Cell]:
    base = result.baseline
    reference = base.reference.images[i]

    def rmse(image: Tensor) -> str:
        return f"RMSE {float((image - reference).square().mean().sqrt()):.3f}"

    default = base.pictures.images[i]
    drawn = {f.name: f.pictures.images[i] for f in shown}
    differences = {name: ((image - reference).abs() * AMPLIFY).clamp(0, 1) for name, image in drawn.items()}
    return [
        Cell("default", data_uri(default), rmse(default)),
        *(Cell(f"recipe {name}", data_uri(image), rmse(image)) for name, image in drawn.items()),
        Cell("reference", data_uri(reference), "converged"),
        *(Cell(f"difference {name}", data_uri(image), f"× {AMPLIFY}") for name, image in differences.items()),
    ]


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).square().mean(1).sqrt()


def data_uri(image: Tensor) -> str:
    """A picture inside a URI: PNG, or JPEG if it is large.

    image: (C, H, W) in [0, 1].
    """
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
