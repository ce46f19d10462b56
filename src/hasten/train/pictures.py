"""Pictures of a training run: the loss curve and grids of samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def draw_curve(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Plot loss over steps (both logarithmic) into a small PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not rows:
        return
    figure = Figure(figsize=(5, 3), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.plot([row["step"] for row in rows], [row["loss"] for row in rows], linewidth=0.8)
    axes.set(xlabel="step", ylabel="loss", xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    FigureCanvasAgg(figure).print_png(str(path))


def grid(images: Sequence[Any], columns: int, gap: int = 4, scale: int = 1) -> Any:
    """PIL images of one size, side by side on white."""
    from PIL import Image

    width, height = (side * scale for side in images[0].size)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        tile = image.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(tile, (gap + column * (width + gap), gap + row * (height + gap)))
    return sheet
