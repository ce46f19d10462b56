"""Measuring finalists again on samples that the search never saw. Only these numbers are claimed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from hasten.core.errors import HastenError
from hasten.evaluate.budget import Budget
from hasten.evaluate.problem import Cost, Problem, Ticks
from hasten.evaluate.references import Yardstick
from hasten.evaluate.results import Baseline, Confirmed, Finalist
from hasten.measure import Drift, Estimate, relative, timed_ratio
from hasten.search.judge import compared

SPLIT = "confirm"
LOOKS = 2  # recipes that are made to keep the budget on the confirm samples
GAIN = 1.05  # times what keeps the budget already that they must promise to be faster
METRICS = ("latent_rmse", "rmse", "psnr", "ssim", "effnet")


def baseline(problem: Problem, yardstick: Yardstick, ticks: Ticks = lambda count: None) -> tuple[Baseline, Drift]:
    """The default and the reference on the confirm samples, and how far apart they are."""
    default, reference = yardstick.default(SPLIT, ticks), yardstick.reference(SPLIT, ticks)
    found, exactly = compared(default, reference), Estimate(1.0, 1.0, 1.0, len(default.images), unit="x")
    numbers = confirmed(found, found, exactly, problem.cost(None))
    return Baseline(numbers, default, reference), found


def redraw(
    problem: Problem, base: Baseline, finalists: Sequence[Finalist], ticks: Ticks = lambda count: None
) -> dict[str, tuple[Finalist, Drift]]:
    """The finalists' pictures of the confirm samples and their drift, by name.

    One that fails on these samples (it diverges) is left out. Raises HastenError if none is left.
    """
    drawn: dict[str, tuple[Finalist, Drift]] = {}
    for finalist in finalists:
        made = problem.draw(finalist.recipe, problem.samples[SPLIT], ticks)
        try:
            found = compared(made, base.reference)
        except HastenError:  # not finite
            continue
        drawn[finalist.name] = replace(finalist, pictures=made), found
    if not drawn:
        raise HastenError("confirm: none of the recipes gives finite images on the confirm samples")
    return drawn


def steadied(
    problem: Problem, base: Baseline, default: Drift, drawn: Mapping[str, tuple[Finalist, Drift]], budget: Budget,
    slower: Callable[[Finalist, int], Finalist], ticks: Ticks = lambda count: None,
) -> dict[str, tuple[Finalist, Drift]]:  # fmt: skip
    """More finalists, drawn, where the others leave a gap: fast ones that keep the budget but for their doubt, with as
    many more steps as a solver of second order needs to be rid of it. At most LOOKS.

    slower(finalist, steps): the same with more steps.
    """
    limits, more = base.numbers.score, dict[str, tuple[Finalist, Drift]]()
    seen = [(f.searched.speed, f, prospect(d, default, f.searched.speed)) for f, d in drawn.values() if f.searched]
    for _ in range(LOOKS if budget.seeks_speed else 0):
        sure = max((speed for speed, _, found in seen if budget.within(found.doubt, limits)), default=0.0)
        promising = []
        for speed, finalist, found in seen:
            excess, now = max(budget.excess(found.doubt, limits).values()), finalist.recipe.steps
            if now and 0 < excess < math.inf and budget.within(found.score, limits):
                steps = max(now + 1, math.ceil(now * math.sqrt(1 + excess)))
                promising.append((speed * now / steps, steps, finalist))
        speed, steps, finalist = max(promising, key=lambda one: one[0], default=(0.0, 0, None))
        if finalist is None or speed < GAIN * sure:
            break
        try:
            made = redraw(problem, base, [slower(finalist, steps)], ticks)
        except HastenError:  # it cannot be fitted, or diverges
            break
        more |= made
        seen += [(speed, f, prospect(d, default, speed)) for f, d in made.values()]
    return more


def judged(
    problem: Problem, base: Baseline, default: Drift, drawn: Mapping[str, tuple[Finalist, Drift]],
    speeds: Mapping[str, Estimate], budget: Budget,
) -> list[Finalist]:  # fmt: skip
    """The finalists with their confirmed numbers, fastest first. Those keep the budget whose whole intervals do."""
    found = []
    for name, (finalist, drift) in drawn.items():
        numbers = confirmed(drift, default, speeds[name], problem.cost(finalist.recipe))
        within = budget.within(numbers.doubt, base.numbers.score)
        found.append((numbers.speed.value, replace(finalist, confirmed=replace(numbers, within=within))))
    return [finalist for _, finalist in sorted(found, key=lambda pair: -pair[0])]


def speed_ups(
    problem: Problem, finalists: Sequence[Finalist], repeats: int = 10, progress: bool = False
) -> dict[str, Estimate]:
    """How many times faster than the default each is, one image at a time, all interleaved."""
    one = problem.single
    with ExitStack() as stack:
        default = stack.enter_context(problem.running(None))
        runs = {f.name: stack.enter_context(problem.running(f.recipe)) for f in finalists}
        calls = {name: (lambda run=run: run(one)) for name, run in runs.items()}
        return timed_ratio(lambda: default(one), calls, repeats=repeats, progress=progress)


def prospect(found: Drift, default: Drift, speed: float) -> Confirmed:
    """What was drawn and not timed yet, as if it were as fast as this."""
    return confirmed(found, default, Estimate(speed, speed, speed, 1, unit="x"), Cost(0, 0))


def confirmed(found: Drift, default: Drift, speed: Estimate, cost: Cost) -> Confirmed:
    """What was measured of a recipe, as one; whether that keeps a budget is for others to say."""
    median, worst = (relative(found, default, "latent_rmse", statistic) for statistic in ("median", "p95"))
    metrics = {m: {s: found.estimate(m, s) for s in ("median", "p95")} for m in METRICS if m in found.samples}
    return Confirmed(median, worst, found.flips, speed, metrics, cost, within=True)
