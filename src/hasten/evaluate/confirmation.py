"""Measuring candidates on samples that no search saw. Only these numbers are claimed."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from hasten.core.errors import HastenError
from hasten.evaluate.budget import Budget, Score
from hasten.evaluate.problem import Cost, Problem, Ticks
from hasten.evaluate.references import References
from hasten.evaluate.results import Baseline, Candidate, Confirmed, Drawn, Finalist, W
from hasten.evaluate.scores import compared
from hasten.measure import Drift, Estimate, relative, timed_ratio
from hasten.recipe import Recipe

SPLIT = "confirm"
LOOKS = 2  # recipes that are given more steps, at most
GAIN = 1.05  # a recipe with more steps must promise to be so much faster than what keeps the budget already
METRICS = ("latent_rmse", "rmse", "psnr", "ssim", "effnet")

Slower = Callable[[Candidate[Recipe], int], Candidate[Recipe]]
"""Makes a candidate with so many steps of another one."""


def baseline(problem: Problem, references: References, ticks: Ticks = lambda count: None) -> tuple[Baseline, Drift]:
    """The default and the reference on the confirm samples, and the default's drift.

    problem: with confirm samples.
    references: of the problem.
    ticks: called as samples are drawn.
    """
    default, reference = references.default(SPLIT, ticks), references.reference(SPLIT, ticks)
    drift, one = compared(default, reference), Estimate(1.0, 1.0, 1.0, len(default.images), unit="x")
    return Baseline(numbers(drift, drift, one, problem.cost(None)), default, reference), drift


def redraw(
    problem: Problem, base: Baseline, candidates: Sequence[Candidate[W]], ticks: Ticks = lambda count: None
) -> dict[str, Drawn[W]]:
    """The candidates' pictures of the confirm samples, by name. One whose pictures are not finite is left out.

    problem: with confirm samples.
    base: whose reference they are compared with.
    candidates: what is drawn.
    ticks: called as samples are drawn.

    Raises HastenError if none is left.
    """
    drawn: dict[str, Drawn[W]] = {}
    for candidate in candidates:
        pictures = problem.draw(candidate.way, problem.samples[SPLIT], ticks)
        try:
            drift = compared(pictures, base.reference)
        except HastenError:  # not finite
            continue
        drawn[candidate.name] = Drawn(candidate, pictures, drift)
    if not drawn:
        raise HastenError("confirm: none of the recipes gives finite images on the confirm samples")
    return drawn


def with_more_steps(
    problem: Problem, base: Baseline, default: Drift, drawn: Mapping[str, Drawn[Recipe]], budget: Budget,
    slower: Slower, ticks: Ticks = lambda count: None,
) -> dict[str, Drawn[Recipe]]:  # fmt: skip
    """Draw some candidates again with more steps, where that is likely to make the best recipe faster.

    A fast candidate may be within the budget by its estimates but not at the worse end of its intervals. It is given
    as many more steps as its excess calls for, if its error falls with the square of the steps. It is drawn if it
    would then still be faster than every candidate that keeps the budget already. At most LOOKS are drawn.

    problem: with confirm samples.
    base: the default and the reference on these.
    default: the default's drift on these.
    drawn: the candidates, by name.
    budget: to be kept.
    slower: makes the candidates with more steps.
    ticks: called as samples are drawn.
    """
    limits, more = base.numbers.score, dict[str, Drawn[Recipe]]()
    seen = [
        (one.candidate, one.candidate.searched.speed, prospect(one.drift, default, one.candidate.searched.speed))
        for one in drawn.values()
        if one.candidate.searched is not None
    ]
    for _ in range(LOOKS if budget.seeks_speed else 0):
        kept = [speed for _, speed, numbers in seen if budget.within(numbers.pessimistic, limits)]
        promising = [
            (speed * now / steps, steps, candidate)
            for candidate, speed, numbers in seen
            if (now := candidate.way.steps) and (steps := _enough(now, numbers, budget, limits))
        ]
        speed, steps, candidate = max(promising, key=lambda one: one[0], default=(0.0, 0, None))
        if candidate is None or speed < GAIN * max(kept, default=0.0):
            break
        try:
            again = redraw(problem, base, [slower(candidate, steps)], ticks)
        except HastenError:  # it cannot be fitted, or its pictures are not finite
            break
        more |= again
        seen += [(one.candidate, speed, prospect(one.drift, default, speed)) for one in again.values()]
    return more


def _enough(now: int, numbers: Confirmed, budget: Budget, limits: Score) -> int | None:
    """How many steps would keep the budget for sure; None where no more are needed, or more would not be enough."""
    excess = max(budget.excess(numbers.pessimistic, limits).values())
    if not 0 < excess < math.inf or not budget.within(numbers.score, limits):
        return None
    return max(now + 1, math.ceil(now * math.sqrt(1 + excess)))


def judged(
    problem: Problem, base: Baseline, default: Drift, drawn: Mapping[str, Drawn[W]],
    speeds: Mapping[str, Estimate], budget: Budget,
) -> list[Finalist[W]]:  # fmt: skip
    """The finalists, fastest first. Those keep the budget that keep it at the worse end of every interval.

    problem: what costs are counted on.
    base: whose numbers limit the flips.
    default: the default's drift on the confirm samples.
    drawn: the candidates, by name.
    speeds: by name, how many times faster than the default.
    budget: to be kept.
    """
    finalists = []
    for name, one in drawn.items():
        measured = numbers(one.drift, default, speeds[name], problem.cost(one.candidate.way))
        within = budget.within(measured.pessimistic, base.numbers.score)
        candidate, confirmed = one.candidate, replace(measured, within=within)
        finalists.append(
            Finalist(candidate.name, candidate.way, candidate.searched, confirmed=confirmed, pictures=one.pictures)
        )
    return sorted(finalists, key=lambda f: -f.confirmed.speed.value)


def speed_ups(
    problem: Problem, candidates: Sequence[Candidate[W]], repeats: int = 10, progress: bool = False
) -> Mapping[str, Estimate]:
    """How many times faster than the default each candidate is, one image at a time, all in turn.

    problem: whose default.
    candidates: what is timed.
    repeats: rounds, at least 1.
    progress: whether a bar is shown.
    """
    one = problem.single
    with ExitStack() as stack:
        default = stack.enter_context(problem.running(None))
        runs = {c.name: stack.enter_context(problem.running(c.way)) for c in candidates}
        calls = {name: functools.partial(run, one) for name, run in runs.items()}
        return timed_ratio(lambda: default(one), calls, repeats=repeats, progress=progress)


def prospect(drift: Drift, default: Drift, speed: float) -> Confirmed:
    """The numbers of what was drawn and not timed yet, with a speed that is expected of it."""
    return numbers(drift, default, Estimate(speed, speed, speed, 1, unit="x"), Cost(0, 0))


def numbers(drift: Drift, default: Drift, speed: Estimate, cost: Cost) -> Confirmed:
    """What was measured, as one record, whose `within` is not judged yet.

    drift: on the confirm samples.
    default: the default's drift on these.
    speed: the default's time over this one's.
    cost: of one image.
    """
    median, worst = (relative(drift, default, "latent_rmse", statistic) for statistic in ("median", "p95"))
    metrics = {m: {s: drift.estimate(m, s) for s in ("median", "p95")} for m in METRICS if m in drift.samples}
    return Confirmed(median, worst, drift.flips, speed, metrics, cost, within=True)
