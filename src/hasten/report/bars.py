"""The picture of where the time goes: one bar for the default and one for the recipe, as SVG."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from hasten.evaluate.breakdown import Breakdown, Times

WIDTH, HEIGHT = 640, 146
BAR, GAP, LABEL = 30, 14, 32


def time_bars(breakdown: Breakdown, name: str) -> str:
    """Both bars in the same scale. Every part has a title, and a colour by its place in `breakdown.parts`.

    breakdown: whose times.
    name: of the recipe.
    """
    scale = WIDTH / max(breakdown.default.total, breakdown.recipe.total)
    rows = (("the default", breakdown.default), (f"recipe {name}", breakdown.recipe))
    drawn = [part for i, (label, times) in enumerate(rows) for part in _bar(breakdown, label, times, i, scale)]
    about = "Time of one image by the default and by the recipe"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{about}">{"".join(drawn)}</svg>'


def _bar(breakdown: Breakdown, label: str, times: Times, row: int, scale: float) -> Iterator[str]:
    top = row * (LABEL + BAR + GAP)
    share = times.total / breakdown.default.total
    told = f"{label}: {100 * share:.0f} % of the default's time" if row else f"{label}: 100 %"
    yield f'<text class="label" x="0" y="{top + LABEL - 9}">{escape(told)}</text>'
    left = 0.0
    for i, part in enumerate(breakdown.parts):
        width = times.parts.get(part, 0.0) * scale
        title = f"{part}: {100 * times.parts.get(part, 0.0) / breakdown.default.total:.1f} % of the default's time"
        place = f'x="{left:.2f}" y="{top + LABEL}" width="{width:.2f}" height="{BAR}"'
        yield f'<rect class="part{i % 6}" {place}><title>{escape(title)}</title></rect>'
        left += width
