"""When a cache lets the network compute in full: what a gate is, and rules on the step.

Gates that look into the running call are in `online`, those whose full steps are worked out beforehand in `planned`.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hasten.caching.history import History
from hasten.caching.indicators import Indicator
from hasten.core.errors import HastenError, positive_int, unit_interval
from hasten.core.frozen import set_fields
from hasten.core.registry import Registry, Span
from hasten.runtime.run import Run


class Gate(ABC):
    """Decides which rows are computed in full at which steps. Frozen dataclasses, listed in `GATES`.

    A rule on the step only overrides `opens`. A gate that reads `run.past`, or that looks at what flows through the
    network by an `indicator`, overrides `decide`. Rows are decided one by one: a batch equals its singles. All queries
    of a step (predictor, corrector) share the decision of the first.

    name: what recipes call it.
    search_space: what a search tries for each setting, as of an `Acceleration`.
    indicator: where in the network it looks before it decides; None for nowhere.
    follows: whether what it sees is compared with the step before, rather than with the step last computed.
    """

    name: ClassVar[str]
    search_space: ClassVar[Mapping[str, Any] | None] = None  # as of an Acceleration
    indicator: Indicator | None = None  # where in the network it looks before it decides
    follows: bool = False  # whether what it sees is compared with the step before, not with the step last computed

    def opens(self, run: Run) -> bool:
        """Whether the step that the request `run` is at is computed in full."""
        raise NotImplementedError

    def decide(self, run: Run, histories: Sequence[History], scores: Sequence[float | None]) -> Sequence[bool]:
        """Whether each row of the request is computed in full at its step.

        run: the request.
        histories: of the rows; `history.image` is the row of `run.past`'s tensors, `history.notes` are the gate's own.
        scores: how far what the indicator sees has moved, see `measure`; None where there is no indicator or nothing to
            compare with yet.
        """
        return [self.opens(run)] * len(histories)

    def measure(self, now: Tensor, before: Tensor) -> Tensor:
        """How far each row of an indicator has moved, (rows,): mean |now - before| / mean |before|.

        Rows that are not finite measure infinite, so that they are computed.

        now: what is seen, (rows, ...).
        before: what it is compared with, shaped like `now`.
        """
        now, before = now.float().flatten(1), before.float().flatten(1)
        moved = (now - before).abs().mean(1) / before.abs().mean(1)
        return torch.where(moved.isfinite(), moved, torch.where((now == before).all(1), 0.0, math.inf))


GATES: Registry[Gate] = Registry("gate", Gate, needs=("opens", "decide"))


@GATES.add
@dataclass(frozen=True)
class Every(Gate):
    """Full on the first `warmup` steps, then where step - offset is a multiple of `interval`, and on the last `tail`.

    By default these are the steps 0, interval, 2 interval, ...: ceil(steps / interval) of them.

    interval: every so many steps are full, at least 1, which is off.
    warmup: how many first steps are full; one is in any case.
    offset: the step that the interval is counted from.
    tail: how many last steps are full.
    """

    interval: int = 2
    warmup: int = 1
    offset: int = 0
    tail: int = 0

    name = "every"
    search_space: ClassVar[Mapping[str, Any]] = {"interval": Span(2, 3), "warmup": Span(1, 3), "tail": Span(0, 1)}

    def __post_init__(self) -> None:
        positive_int("interval", self.interval)

    def opens(self, run: Run) -> bool:
        early, late = run.step < max(1, self.warmup), run.step >= run.steps - self.tail
        return early or late or (run.step - self.offset) % self.interval == 0


@GATES.add
@dataclass(frozen=True)
class Countdown(Gate):
    """Full on step 0, and wherever the number of steps after this one is a multiple of `interval`; the last is full.

    interval: every so many steps are full, at least 1, which is off.

    Source: Selvaraju et al. 2024 (FORA), its code.
    """

    interval: int = 2

    name = "countdown"

    def __post_init__(self) -> None:
        positive_int("interval", self.interval)

    def opens(self, run: Run) -> bool:
        return run.step == 0 or (run.steps - 1 - run.step) % self.interval == 0


@GATES.add
@dataclass(frozen=True)
class Listed(Gate):
    """Full on the listed steps, and always on step 0.

    steps: the full steps, from 0.
    of: how many steps the list is meant for. In runs of another number a listed step stands for the step at the same
        fraction of the way, rounded down. None takes the list as it is.
    """

    steps: tuple[int, ...] = ()
    of: int | None = None

    name = "listed"

    def __post_init__(self) -> None:
        set_fields(self, steps=tuple(sorted(set(self.steps))))

    def opens(self, run: Run) -> bool:
        if self.of is None or self.of == run.steps:
            return run.step == 0 or run.step in self.steps
        return run.step == 0 or run.step in {step * run.steps // self.of for step in self.steps}


@GATES.add
@dataclass(frozen=True)
class Masked(Gate):
    """Full where a list of yes and no says so, and always on step 0.

    mask: one entry a step, at least one; runs of another number of steps are stretched over it.
    """

    mask: tuple[bool, ...] = (True, False)

    name = "masked"

    def __post_init__(self) -> None:
        set_fields(self, mask=tuple(map(bool, self.mask)))
        if not self.mask:
            raise HastenError("mask: () is not possible; give at least one step")

    def opens(self, run: Run) -> bool:
        return run.step == 0 or self.mask[run.step * len(self.mask) // run.steps]


@GATES.add
@dataclass(frozen=True)
class Never(Gate):
    """Full on step 0 only."""

    name = "never"

    def opens(self, run: Run) -> bool:
        return run.step == 0


@GATES.add
@dataclass(frozen=True)
class Within(Gate):
    """Another gate's rule between two fractions of the run, and full outside of them.

    gate: the rule where start <= step / steps < stop: a name, an object with a name and fields, or an instance.
    start: where it begins, 0 to `stop`.
    stop: where it ends, `start` to 1.
    """

    gate: Any = "never"
    start: float = 0.0
    stop: float = 1.0

    name = "within"

    def __post_init__(self) -> None:
        set_fields(self, gate=GATES.build(self.gate))
        if not 0 <= self.start <= self.stop <= 1:
            raise HastenError(f"start: {self.start} to stop: {self.stop} is not possible; give 0 <= start <= stop <= 1")

    @property
    def indicator(self) -> Indicator | None:  # type: ignore[override]
        return self.gate.indicator

    @property
    def follows(self) -> bool:  # type: ignore[override]
        return self.gate.follows

    def measure(self, now: Tensor, before: Tensor) -> Tensor:
        return self.gate.measure(now, before)

    def opens(self, run: Run) -> bool:
        return not self._inside(run) or self.gate.opens(run)

    def decide(self, run: Run, histories: Sequence[History], scores: Sequence[float | None]) -> Sequence[bool]:
        answers = self.gate.decide(run, histories, scores)
        return answers if self._inside(run) else [True] * len(histories)

    def _inside(self, run: Run) -> bool:
        return self.start * run.steps <= run.step < self.stop * run.steps


@GATES.add
@dataclass(frozen=True)
class SwitchedGate(Gate):
    """One gate's rule up to a fraction of the run, another's from step round(start * steps) on.

    first: the earlier gate: a name, an object with a name and fields, or an instance.
    second: the later one, given in the same way; with the first's indicator, if both have one.
    start: the fraction of the run, 0 to 1, at which the second takes over.
    """

    first: Any = "every"
    second: Any = "never"
    start: float = 0.5

    name = "then"

    def __post_init__(self) -> None:
        for field in ("first", "second"):
            set_fields(self, **{field: GATES.build(getattr(self, field))})
        unit_interval("start", self.start)
        if (
            self.first.indicator is not None
            and self.second.indicator is not None
            and self.first.indicator != self.second.indicator
        ):
            raise HastenError("second: looks elsewhere than the first gate; give both the same indicator")

    @property
    def indicator(self) -> Indicator | None:  # type: ignore[override]
        return self.first.indicator or self.second.indicator

    @property
    def follows(self) -> bool:  # type: ignore[override]
        return self.first.follows or self.second.follows

    def measure(self, now: Tensor, before: Tensor) -> Tensor:
        return (self.first if self.first.indicator is not None else self.second).measure(now, before)

    def opens(self, run: Run) -> bool:
        return self._now(run).opens(run)

    def decide(self, run: Run, histories: Sequence[History], scores: Sequence[float | None]) -> Sequence[bool]:
        return self._now(run).decide(run, histories, scores)

    def _now(self, run: Run) -> Gate:
        return self.second if run.step >= round(self.start * run.steps) else self.first
