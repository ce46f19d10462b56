"""Guidance from memory: on most steps the conditional branch runs alone, and the difference to it is forecast."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from hasten.core.errors import HastenError, positive_int
from hasten.core.registry import Paper, Span
from hasten.guidance.base import GUIDANCES, GuidanceMethod, needs_branches
from hasten.guidance.branches import Alone, batched, learn_order, ran, replaced
from hasten.guidance.differences import Difference, Frequencies, Held
from hasten.runtime.anatomy import batch_of
from hasten.runtime.run import Row, Run
from hasten.runtime.view import wrap


class Reuse(GuidanceMethod):
    """Both branches run on some steps; on the others the conditional one alone. Subclasses say when, and how.

    The first call of a generation always runs both, and so do batches that are not made of two branches.
    Nothing is kept from another generation, picture size, number of images, dtype or device.
    """

    narrows = True
    after = ("interval",)  # it may leave steps unguided, and nothing is to be learnt from those

    @abstractmethod
    def full(self, run: Run) -> bool:
        """Whether both branches run for the query that `run` is at."""

    @abstractmethod
    def difference(self, last: Tensor) -> Difference:
        """What forecasts from a difference that was computed.

        last: the difference, (images, ...).
        """

    def check(self, network: nn.Module) -> None:
        needs_branches(self.name, network)

    def attach(self, network: nn.Module, run: Run) -> None:
        if all(getattr(self, field) == value for field, value in self.off.items()):
            return
        batch, kept, conditional = batch_of(network), _Differences(self), Alone(network, run)

        def alone(filled: Any, x: Tensor) -> Any:
            if kept.begin(run, x):
                return None
            run.act(self.name)
            pairs = zip(batched(filled, len(x)), kept.forecast(run), strict=True)
            return replaced(filled, len(x), [answer + difference for answer, difference in pairs])

        conditional.instead(alone)

        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            x = batch(args, kwargs)
            rows, filled = run.rows(len(x)), conditional.answer()
            run.act(self.name, False)
            if filled is not None and run.alone(len(x)) == 1:
                kept.begin(run, x)
                answer = inner(*args, **kwargs)
                pairs = zip(batched(answer, len(x)), batched(filled, len(x)), strict=True)
                kept.remember(run, [a - b for a, b in pairs])
                return answer
            guided = [] if rows is None else _guided(rows)
            if rows is None or not guided:
                return inner(*args, **kwargs)
            if run.conditional_last is None:
                answer = inner(*args, **kwargs)
                learn_order(run, answer, len(x))
                return answer
            full = {part: kept.begin(part, x) for part in guided}
            if not all(full.values()):
                run.act(self.name)
            running = [i for i, row in enumerate(rows) if row.branch == 0 or full.get(row.part, True)]
            answer = ran(run, inner, args, kwargs, rows, running)
            whole = [kept.whole(x, rows, running) for x in batched(answer, len(running))]
            for part in guided:
                empty, filled = _places(rows, part)
                if full[part]:
                    kept.remember(part, [x[empty] - x[filled] for x in whole])
                    continue
                for x, difference in zip(whole, kept.forecast(part), strict=True):
                    x[empty] = x[filled] + difference
            return replaced(answer, len(running), whole)

        wrap(network, forward)


class _Differences:
    """What is kept of each request, for each call of a query."""

    def __init__(self, reuse: Reuse) -> None:
        self.reuse = reuse
        self._stamps: WeakKeyDictionary[Run, Any] = WeakKeyDictionary()
        self._kept: WeakKeyDictionary[Run, dict[int, list[Difference]]] = WeakKeyDictionary()

    def begin(self, part: Run, x: Tensor) -> bool:
        """Whether both branches of the request run in a call whose batch is x."""
        stamp = (part.number, part.images, x.shape[1:], x.dtype, x.device)
        if self._stamps.get(part) != stamp or not self._within(part):
            self._stamps[part], self._kept[part] = stamp, {}
        return part.call not in self._kept[part] or self.reuse.full(part)

    def remember(self, part: Run, differences: list[Tensor]) -> None:
        if self._within(part):
            self._kept[part][part.call] = [self.reuse.difference(last) for last in differences]

    def forecast(self, part: Run) -> list[Tensor]:
        time = float(part.process.network_time(part.time))
        return [difference.forecast(time) for difference in self._kept[part][part.call]]

    @staticmethod
    def whole(x: Tensor, rows: Sequence[Row], running: Sequence[int]) -> Tensor:
        """Room for all rows, with those in it that ran."""
        if len(running) == len(rows):
            return x
        room = x.new_empty(len(rows), *x.shape[1:])
        room[list(running)] = x
        return room

    @staticmethod
    def _within(part: Run) -> bool:
        """Whether a generation is going on; outside of one nothing is kept."""
        return bool(part.number) and part.step < part.steps


def _guided(rows: Sequence[Row]) -> list[Run]:
    """The requests that have two branches in a batch."""
    return [part for part, count in Counter(row.part for row in rows).items() if count == 2 * (part.images or 0)]


def _places(rows: Sequence[Row], part: Run) -> tuple[list[int], list[int]]:
    """The positions of a request's unconditional rows and, in the same order, of its conditional ones."""
    where = {row: i for i, row in enumerate(rows)}
    empty = [i for i, row in enumerate(rows) if row.part is part and row.branch == 1]
    return empty, [where[rows[i].conditional] for i in empty]


@GUIDANCES.add
@dataclass(frozen=True)
class DifferenceReuse(Reuse):
    """Guide with the difference of the branches that was computed last.

    The unconditional answer is taken to be the conditional one plus the difference of the last full step.

    interval: both branches run on steps 0, interval, 2 interval, ...; at least 1, which is off.
    steps: if there are any, both run on these instead, and on step 0.
    start: share of the first steps on all of which both run, 0 to 1.

    Source: the CFG branch caching of Lv et al. 2024 (FasterCache), section 3.3, without its frequencies.
    """

    interval: int = 2
    steps: tuple[int, ...] = ()
    start: float = 0.0

    name = "reuse"
    search_space: ClassVar[Mapping[str, Any]] = {"interval": Span(2, 4)}
    paper = Paper("FasterCache: Training-Free Video Diffusion Model Acceleration with High Quality", 2024, "2410.19355")
    off: ClassVar[Mapping[str, Any]] = {"interval": 1, "steps": ()}
    conflicts = ("reuse-frequencies",)

    def __post_init__(self) -> None:
        positive_int("interval", self.interval)
        _share("start", self.start)
        for step in self.steps:
            if isinstance(step, bool) or not isinstance(step, int) or step < 0:
                raise HastenError(f"steps: {step!r} is not possible; give whole numbers of at least 0")

    def full(self, run: Run) -> bool:
        if run.step < self.start * run.steps:
            return True
        return run.step in self.steps if self.steps else run.step % self.interval == 0

    def difference(self, last: Tensor) -> Difference:
        return Held(last)


@GUIDANCES.add
@dataclass(frozen=True)
class FrequencyReuse(Reuse):
    """Guide with the difference computed last, its low and high frequencies growing from call to call.

    Times are those the network is shown, usually of 1,000. The defaults are those of diffusers.

    interval: both branches run on steps 0, interval, 2 interval, ...; at least 1, which is off.
    start: share of the first steps on all of which both run, 0 to 1; the authors' code has 0.36.
    below: the time from which on upwards both run; None is no limit.
    low: factor on low frequencies, anew on each call without the unconditional branch, at least 0.
    high: factor on high frequencies, likewise.
    low_between: the two times between which `low` is used.
    high_between: the two times between which `high` is used.

    Source: Lv et al. 2024 (FasterCache), eq. (9)-(11).
    """

    interval: int = 5
    start: float = 0.0
    below: float | None = 641.0
    low: float = 1.1
    high: float = 1.1
    low_between: tuple[float, float] = (99.0, 901.0)
    high_between: tuple[float, float] = (-1.0, 301.0)

    name = "reuse-frequencies"
    search_space: ClassVar[Mapping[str, Any]] = {}
    paper = DifferenceReuse.paper
    off: ClassVar[Mapping[str, Any]] = {"interval": 1}

    def __post_init__(self) -> None:
        positive_int("interval", self.interval)
        _share("start", self.start)
        for field in ("low", "high"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise HastenError(f"{field}: {getattr(self, field)!r} is not possible; give a factor of at least 0")
        for field in ("low_between", "high_between"):
            if len(getattr(self, field)) != 2:
                raise HastenError(f"{field}: {getattr(self, field)!r} is not possible; give two numbers")

    def full(self, run: Run) -> bool:
        early = self.below is not None and float(run.process.network_time(run.time)) >= self.below
        return early or run.step < self.start * run.steps or run.step % self.interval == 0

    def difference(self, last: Tensor) -> Difference:
        return Frequencies(last, self._factors)

    def _factors(self, time: float) -> tuple[float, float]:
        low = self.low if self.low_between[0] < time < self.low_between[1] else 1.0
        high = self.high if self.high_between[0] < time < self.high_between[1] else 1.0
        return low, high


def _share(field: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise HastenError(f"{field}: {value!r} is not possible; give a share from 0 to 1")
