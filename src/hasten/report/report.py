"""The report: one self-contained web page with the claim, its proof and how it was made; and the same as Markdown."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jinja2

from hasten.evaluate.budget import Score
from hasten.evaluate.contributions import CLOSED, Ablation
from hasten.evaluate.results import Outcome, Trial, is_plain
from hasten.measure import Estimate, Speed
from hasten.recipe import Recipe
from hasten.report.bars import time_bars
from hasten.report.gallery import gallery
from hasten.report.plot import pareto, told
from hasten.report.words import shortened, words


def render(result: Outcome) -> str:
    """The page as HTML that loads nothing from anywhere."""
    plot, outside = pareto(result)
    times = result.breakdown
    return _filled(
        "report.html.j2", result, plot=plot, outside=outside, gallery=gallery(result), plain=plain_best(result),
        point=told(result.chosen), bars="" if times is None else time_bars(times, result.chosen.name),
    )  # fmt: skip


def summarise(result: Outcome) -> str:
    """The numbers as Markdown."""
    return _filled("report.md.j2", result)


def _filled(template: str, result: Outcome, **more: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=template.endswith(".html.j2"),
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
    )  # fmt: skip
    data = result.recipe.to_dict()
    short = json.dumps(shortened(data), indent=2, ensure_ascii=False)
    return environment.get_template(template).render(
        result=result, facts=result.facts, best=result.best, chosen=result.chosen, default=result.baseline.numbers,
        headline=headline(result), doubt=doubt(result), busy=busy(result), words=words, span=span,
        flattery=flattery(result), closure=closure, ablation=result.ablation, breakdown=result.breakdown,
        recipe_json=short, shortened=shortened(data) != data, python_name=json.dumps(result.facts["source"]),
        python_prompt=json.dumps(result.samples.prompts[0] if result.samples else ""), **more,
    )  # fmt: skip


def headline(result: Outcome) -> str:
    """The claim in one sentence; what was not confirmed is not claimed."""
    steps = result.facts["default"]["steps"]
    numbers = result.chosen.confirmed
    faster = f"{_times(numbers.speed)} faster than the {steps}-step default"
    measured = f"{faster}, at {_times(numbers.drift)} its distance from the converged image"
    if result.best is None:
        return f"No recipe is sure to keep the budget on unseen samples. The nearest is {measured}."
    return f"{measured[0].upper()}{measured[1:]}."


def doubt(result: Outcome) -> str:
    """What the samples cannot exclude about the chosen recipe's drift, where that matters for the claim."""
    drift = result.chosen.confirmed.drift
    if result.best is not None or result.budget.metric != "drift" or drift.value > result.budget.limit:
        return ""
    return (
        f"The 95 % interval of its drift reaches {drift.high:.2f}×: {drift.n} images do not exclude "
        "that it is above the budget."
    )


def busy(result: Outcome) -> str:
    """That the machine was busy while the chosen recipe was timed; empty if it was not."""
    speed = result.chosen.confirmed.speed
    return speed.warning if isinstance(speed, Speed) else ""


def flattery(result: Outcome) -> str:
    """How far the search's estimates of the finalists' drift were from what was confirmed; empty without a search."""
    pairs = [(f.confirmed.drift.value, f.searched.drift) for f in result.front if f.searched is not None]
    ratios = [math.log(after / before) for after, before in pairs if 0 < after < math.inf and 0 < before < math.inf]
    if not ratios:
        return ""
    times = math.exp(sum(ratios) / len(ratios))
    agree = [f.agrees for f in result.front if f.agrees is not None]
    return (
        f"On unseen samples the drift of these recipes is {times:.2f} times what the search had seen; "
        f"the intervals of both overlap for {sum(agree)} of {len(agree)}."
    )


def closure(ablation: Ablation) -> str:
    """Whether the contributions make up the whole, in a sentence or two."""
    if ablation.closure is None:
        return f"The whole is {ablation.whole.value:.2f}×: there is too little speed-up to divide it into parts."
    sums = (
        f"Multiplied they make {ablation.product:.2f}×, and the whole is {ablation.whole.value:.2f}×: "
        f"their logarithms sum to {100 * ablation.closure:.0f} % of the whole's"
    )
    if abs(ablation.closure - 1) <= CLOSED:
        return f"{sums}."
    if len(ablation.factors) == 1 and not ablation.refused:
        return f"{sums}. There is one ingredient alone, so what differs is the clock."
    return f"{sums}. They are not independent: what one gives depends on whether another is there."


def span(estimate: Estimate, digits: int = 2) -> str:
    """The interval of an estimate in words, with so many digits after the point."""
    return f"{estimate.low:.{digits}f} to {estimate.high:.{digits}f}"


def plain_best(result: Outcome) -> Trial[Recipe] | None:
    """The fastest trial within the budget that changes the solver and its times only, by the search's estimate."""
    if "search" not in result.facts:
        return None
    seen = dict(result.facts["search"]["default"])
    default = Score(1.0, seen.pop("flips"), 1.0, seen)
    within = [t for t in result.trials if is_plain(t.way) and result.budget.within(t.score, default)]
    return max(within, key=lambda t: t.score.speed, default=None)


def _times(estimate: Estimate) -> str:
    return f"{estimate.value:.{2 if estimate.value < 1 else 1}f}×"
