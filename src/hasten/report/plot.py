"""The picture of a search: drift against speed, as SVG that takes its colours from the page around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

from hasten.evaluate.budget import Score
from hasten.evaluate.results import Finalist, Outcome, Trial, front, plain_front
from hasten.measure import Estimate
from hasten.recipe import Recipe
from hasten.report.words import words

WIDTH, HEIGHT = 640, 440
LEFT, RIGHT, TOP, BOTTOM = 80, 16, 40, 60  # room for letters that are larger on small screens
MOST = 7  # ticks of an axis that can be read
EXPONENTS = range(-4, 4)  # of the decades that have ticks
DIGITS = ((1, 2, 3, 5, 7), (1, 2, 5), (1,))  # of the ticks in a decade, from many to few

Scale = Callable[[float], float]


def pareto(result: Outcome) -> tuple[str, int]:
    """The plot as SVG, and how many trials lie outside of it. Every mark has a title with its numbers and recipe."""
    drifts, speeds = _range(result)
    x, y = _log(speeds, LEFT, WIDTH - RIGHT), _log(drifts, HEIGHT - BOTTOM, TOP)
    shown = [t for t in result.trials if _inside(t, speeds, drifts)]
    parts = [
        *_axes(x, y, speeds, drifts),
        *_limit(result, x, y, speeds, drifts),
        *(_dot(t, x, y) for t in shown),
        _steps([t for t in plain_front(result.trials) if t in shown], x, y, "plain"),
        _steps([t for t in front(result.trials) if t in shown], x, y, "front"),
        _text(x(1), y(1) - 14, "default", "label", "start" if x(1) < LEFT + 50 else "middle"),
        f'<rect class="default" x="{x(1) - 6:.1f}" y="{y(1) - 6:.1f}" width="12" height="12">'
        "<title>The default: 1× as fast, 1× drift</title></rect>",
        *(part for f in result.front for part in _finalist(f, f is result.best, x, y, speeds, drifts)),
    ]
    about = "Drift against speed of every recipe tried; the arrow keys go from one to the next"
    view = f'id="plot" viewBox="0 0 {WIDTH} {HEIGHT}" tabindex="0" aria-label="{about}"'
    return f"<svg {view}>{''.join(parts)}</svg>", len(result.trials) - len(shown)


def _range(result: Outcome) -> tuple[tuple[float, float], tuple[float, float]]:
    """Drifts and speeds that are shown: all finalists and the default; trials up to some times the default."""
    measured = [f.confirmed for f in result.front]
    finite = [c.drift.value for c in measured if 0 < c.drift.value < math.inf]
    highest = max(3.0, *(1.25 * d for d in finite), 1.0)
    trials = [t for t in result.trials if 0 < t.score.drift <= highest]
    drifts = [1.0, *finite, *(t.score.drift for t in trials)]
    speeds = [1.0, *(c.speed.value for c in measured), *(t.score.speed for t in trials)]
    low = min(drifts) / 1.25
    return (max(low, 1e-3), max(1.4, 1.25 * max(drifts))), (min(speeds) / 1.12, max(1.5, 1.15 * max(speeds)))


def _log(limits: tuple[float, float], begin: float, end: float) -> Scale:
    low, high = math.log(limits[0]), math.log(limits[1])
    return lambda value: begin + (math.log(value) - low) / (high - low) * (end - begin)


def _inside(trial: Trial[Recipe], speeds: tuple[float, float], drifts: tuple[float, float]) -> bool:
    return speeds[0] <= trial.score.speed <= speeds[1] and drifts[0] <= trial.score.drift <= drifts[1]


def _axes(x: Scale, y: Scale, speeds: tuple[float, float], drifts: tuple[float, float]) -> Iterator[str]:
    for value in _ticks(speeds):
        yield f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        yield _text(x(value), HEIGHT - BOTTOM + 22, f"{value:g}×", "tick", "middle")
    for value in _ticks(drifts):
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        yield _text(LEFT - 8, y(value) + 5, f"{value:g}×", "tick", "end")
    yield _text(WIDTH - RIGHT, HEIGHT - 10, "times faster than the default →", "axis", "end")
    yield _text(8, 22, "↑ drift, times the default's", "axis", "start")


def _ticks(limits: tuple[float, float]) -> list[float]:
    """Round numbers within the limits, few enough to be read. (matplotlib's LogLocator finds none in some ranges.)"""
    ticks: list[float] = []
    for digits in DIGITS:
        ticks = [t for e in EXPONENTS for m in digits if limits[0] <= (t := m * 10.0**e) <= limits[1]]
        if len(ticks) <= MOST:
            break
    return ticks


def _limit(
    result: Outcome, x: Scale, y: Scale, speeds: tuple[float, float], drifts: tuple[float, float]
) -> Iterator[str]:
    """What the budget leaves, where it is a limit on one of the two axes."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    if result.budget.metric == "drift" and drifts[0] < result.budget.limit < drifts[1]:
        at = y(result.budget.limit)
        yield f'<rect class="allowed" x="{LEFT}" y="{at:.1f}" width="{right - LEFT}" height="{bottom - at:.1f}"/>'
        yield f'<line class="limit" x1="{LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield _text(right - 6, at - 7, f"budget {result.budget}", "label", "end")
    if result.budget.metric == "speed" and speeds[0] < result.budget.limit < speeds[1]:
        at = x(result.budget.limit)
        yield f'<rect class="allowed" x="{at:.1f}" y="{TOP}" width="{right - at:.1f}" height="{bottom - TOP}"/>'
        yield f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{bottom}"/>'
        yield _text(at + 6, TOP + 16, f"budget {result.budget}", "label", "start")


def _dot(trial: Trial[Recipe], x: Scale, y: Scale) -> str:
    place = f'cx="{x(trial.score.speed):.1f}" cy="{y(trial.score.drift):.1f}"'
    text = f"Tried: {_estimate(trial.score)}\n{words(trial.way)}"
    return f'<circle class="trial" {place} r="4"><title>{escape(text)}</title></circle>'


def _estimate(score: Score) -> str:
    numbers = f"{score.speed:.2f}× faster, {score.drift:.2f}× drift, {100 * score.flips:.0f} % flips"
    return f"{numbers} (the search's estimate)"


def _steps(trials: Sequence[Trial[Recipe]], x: Scale, y: Scale, kind: str) -> str:
    """A staircase: what is known to be reachable."""
    ordered = sorted(trials, key=lambda t: t.score.speed)
    if len(ordered) < 2:
        return ""
    path = f"M{x(ordered[0].score.speed):.1f} {y(ordered[0].score.drift):.1f}"
    for trial in ordered[1:]:
        path += f"V{y(trial.score.drift):.1f}H{x(trial.score.speed):.1f}"
    return f'<path class="{kind}" d="{path}"/>'


def _finalist(
    finalist: Finalist[Recipe], best: bool, x: Scale, y: Scale, speeds: tuple[float, float], drifts: tuple[float, float]
) -> Iterator[str]:
    """A confirmed recipe with the intervals of both its numbers, and a line from where the search had seen it."""
    numbers, searched = finalist.confirmed, finalist.searched
    if not 0 < numbers.drift.value < math.inf:
        return
    at_x, at_y = x(numbers.speed.value), y(numbers.drift.value)
    left, right = (x(_clip(v, speeds)) for v in (numbers.speed.low, numbers.speed.high))
    low, high = (y(_clip(v, drifts)) for v in (numbers.drift.low, numbers.drift.high))
    kind = "best" if best else "finalist"
    if searched is not None:
        start_x, start_y = x(_clip(searched.speed, speeds)), y(_clip(searched.drift, drifts))
        yield f'<path class="moved" d="M{start_x:.1f} {start_y:.1f}L{at_x:.1f} {at_y:.1f}"/>'
        yield f'<circle class="seen" cx="{start_x:.1f}" cy="{start_y:.1f}" r="6"/>'
    yield f'<path class="interval {kind}" d="M{left:.1f} {at_y:.1f}H{right:.1f}M{at_x:.1f} {low:.1f}V{high:.1f}"/>'
    title = f"<title>{escape(told(finalist))}</title>"
    yield f'<circle class="{kind}" cx="{at_x:.1f}" cy="{at_y:.1f}" r="11">{title}</circle>'
    yield _text(at_x, at_y + 5, finalist.name[:2], "name", "middle")


def told(finalist: Finalist[Recipe]) -> str:
    """A finalist in three lines: its confirmed numbers, the search's estimate, the recipe."""
    numbers, searched = finalist.confirmed, finalist.searched
    lines = [
        f"Recipe {finalist.name}, confirmed: {numbers.speed.value:.2f}× faster ({_span(numbers.speed)}), "
        f"{numbers.drift.value:.2f}× drift ({_span(numbers.drift)}), {100 * numbers.flips.value:.0f} % flips",
        *([] if searched is None else [f"Searched: {_estimate(searched)}"]),
        words(finalist.way),
    ]
    return "\n".join(lines)


def _span(estimate: Estimate) -> str:
    return f"{estimate.low:.2f} to {estimate.high:.2f}"


def _clip(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
