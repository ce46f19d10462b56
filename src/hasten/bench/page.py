"""The comparison with other packages as a page of Markdown and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hasten.bench.outcome import OURS, PICTURE, BenchOutcome, side, words
from hasten.measure import Estimate

COLOURS = ("#2f5fd0", "#b3401f", "#8a4fbf", "#b8860b", "#3a8fa3")
SHOWN_DIGITS = "2357"  # of the minor ticks, whose nine labels would be too many
GREEN, INK, SOFT = "#0f7b4f", "#1c1e21", "#9aa1ab"


def table(result: BenchOutcome) -> str:
    """The claim, every measured setting, and who could not take part, as Markdown."""
    facts = result.facts
    samples, default = facts["samples"], facts["default"]
    lines = [
        f"# {facts['model']}: hasten and its peers" if _has_ours(result) else f"# {facts['model']}: the peers",
        "", result.claim, "", f"![drift against speed]({PICTURE})", "",
        "| whose | setting | faster | drift | flips | calls | within |", "| --- | --- | --- | --- | --- | --- | --- |",
        f"| the default | {default['scheduler']}, {default['steps']} steps | 1 | 1 | "
        f"{100 * result.baseline.numbers.flips.value:.0f} % | {result.baseline.numbers.cost.calls} | |",
    ]  # fmt: skip
    for entry in result.front:
        numbers, best = entry.confirmed, entry is result.best(side(entry))
        row = (
            side(entry), words(entry), _spread(numbers.speed), _spread(numbers.drift),
            f"{100 * numbers.flips.value:.0f} %", str(numbers.cost.calls), "yes" if numbers.within else "no",
        )  # fmt: skip
        lines.append(f"| {' | '.join(f'**{cell}**' if best else cell for cell in row)} |")
    lines += ["", f"Bold: the best of each within the budget of {result.budget}."]
    lines += [f"- {name} did not take part: {why}" for name, why in result.missing.items()]
    lines += [f"- {_tried(result, name)}" for name in result.races]
    lines += [f"- {name} ran in a process of its own: {told}" for name, told in facts.get("elsewhere", {}).items()]
    lines += [
        "",
        f"Settings were chosen on {samples['search']['count']} images and measured again on "
        f"{samples['confirm']['count']} of other prompts and seeds. Speed is the default's time over the setting's, "
        "one image at a time, both in turn in one process; intervals are of 95 %. Drift is the median latent RMSE "
        "against the converged image, over the default's.",
        "", f"    {facts['command']}", "",
        ", ".join(f"{key} {value}" for key, value in facts["environment"].items()), "",
    ]  # fmt: skip
    return "\n".join(lines)


def picture(result: BenchOutcome, file: Path) -> None:
    """Draw drift against speed of every setting into a PNG file: small what was tried, large what was confirmed.

    result: what is drawn.
    file: that is written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.4), layout="constrained")
    axes = figure.subplots()
    if result.budget.metric == "drift":
        axes.axhline(result.budget.limit, color=GREEN, linestyle="--", linewidth=1)
    axes.plot(1, 1, "s", color=INK, label="the default", zorder=4)
    for colour, (name, race) in zip(COLOURS, result.races.items()):
        points = [(t.score.speed, t.score.drift) for t in race.trials if t.score.drift > 0]
        axes.plot(*zip(*points), ".", color=colour, alpha=0.35, markersize=5)
        _draw_entries(axes, result, name, colour, "o")
    _draw_entries(axes, result, OURS, GREEN, "*")
    axes.set(xscale="log", yscale="log", xlabel="faster than the default", ylabel="drift, relative to the default")
    axes.set_title(f"{result.facts['model']}: budget {result.budget}", loc="left")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}×")
        axis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in SHOWN_DIGITS else "")
        axis.set_tick_params(which="minor", labelsize=7, labelcolor=SOFT)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=140)


def _draw_entries(axes: Any, result: BenchOutcome, name: str, colour: str, marker: str) -> None:
    """The measured entries of one side, with their intervals."""
    mine = [entry.confirmed for entry in result.front if side(entry) == name]
    mine = [numbers for numbers in mine if 0 < numbers.drift.value < float("inf")]
    if not mine:
        return
    speeds, drifts = [numbers.speed for numbers in mine], [numbers.drift for numbers in mine]
    (x, across), (y, up) = _bars(speeds), _bars(drifts)
    size = 15 if marker == "*" else 8
    axes.errorbar(
        x, y, xerr=across, yerr=up, fmt=marker, color=colour, markersize=size, linewidth=1, label=name, zorder=3
    )


def _bars(estimates: Sequence[Estimate]) -> tuple[list[float], list[list[float]]]:
    """Values, and how far their intervals reach below and above."""
    return [e.value for e in estimates], [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]


def _spread(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _has_ours(result: BenchOutcome) -> bool:
    return any(side(entry) == OURS for entry in result.front)


def _tried(result: BenchOutcome, name: str) -> str:
    race = result.races[name]
    parts = [f"{name}: {len(race.trials)} settings scored, {race.hopeless} given up early"]
    if race.refused:
        last = next(reversed(race.refused.values()))
        parts.append(f"{len(race.refused)} that do not run here (such as: {last[:200]})")
    if race.left:
        parts.append(f"{race.left} ladders that there was no time for")
    return ", ".join(parts)
