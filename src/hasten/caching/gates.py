"""When a cache lets the network compute in full: a rule on the step, or on what was seen; never a count of calls."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from hasten.caching.history import History
from hasten.core.errors import HastenError, positive_int, unit_interval
from hasten.core.registry import Registry, Span
from hasten.runtime.run import Run

if TYPE_CHECKING:
    from hasten.caching.indicators import Indicator


class Gate(ABC):
    """Decides which rows are computed in full at which steps. Frozen dataclasses, listed in `GATES`.

    A rule on the step says `opens(run)`. One that looks at what the solver has done reads `run.past` and
    overrides `decide`, and so does one that looks at what flows through the network, which names its `indicator`
    besides. Rows are decided for one by one: a batch equals its singles.
    All queries of a step (predictor, corrector) share the split of the first.
    """

    name: ClassVar[str]
    search_space: ClassVar[Mapping[str, Any] | None] = None  # as of an Acceleration
    indicator: Indicator | None = None  # where in the network it looks before it decides
    follows: bool = False  # whether what it sees is compared with the step before, not with the step last computed

    def opens(self, run: Run) -> bool:
        """Whether the step that the request `run` is at is computed in full."""
        raise NotImplementedError

    def decide(self, run: Run, histories: Sequence[History], scores: Sequence[float | None]) -> Sequence[bool]:
        """The same for each row of the request.

        histories: what is known of the rows; `history.image` is the row of `run.past`'s tensors, `history.notes`
        is the gate's own. scores: how far what the indicator sees has moved, as `measure` has it; None where there
        is no indicator or nothing to compare with yet.
        """
        return [self.opens(run)] * len(histories)

    def measure(self, now: Tensor, before: Tensor) -> Tensor:
        """How far each row of an indicator has moved, (rows,): mean |now - before| / mean |before|.

        Rows that are not finite measure infinite: they are computed.
        """
        now, before = now.float().flatten(1), before.float().flatten(1)
        moved = (now - before).abs().mean(1) / before.abs().mean(1)
        return torch.where(moved.isfinite(), moved, torch.where((now == before).all(1), 0.0, math.inf))


GATES: Registry[Gate] = Registry("gate", Gate)


@GATES.add
@dataclass(frozen=True)
class Every(Gate):
    """Full on the first `warmup` steps, then wherever step - phase is a multiple of `interval`, and on the last `tail`.

    As it is: steps 0, interval, 2 interval, ...: ceil(steps / interval) of them. interval 1 is off.
    """

    interval: int = 2
    warmup: int = 1
    phase: int = 0
    tail: int = 0

    name = "every"
    search_space: ClassVar[Mapping[str, Any]] = {"interval": Span(2, 3), "warmup": Span(1, 3), "tail": Span(0, 1)}

    def __post_init__(self) -> None:
        positive_int("interval", self.interval)

    def opens(self, run: Run) -> bool:
        early, late = run.step < max(1, self.warmup), run.step >= run.steps - self.tail
        return early or late or (run.step - self.phase) % self.interval == 0


@GATES.add
@dataclass(frozen=True)
class Countdown(Gate):
    """Full on step 0, and wherever the number of steps after this one is a multiple of `interval`; the last is full.

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

    of: how many steps the list is meant for; runs of another number are scaled to it: a listed step stands for
    the step at the same fraction of the way, rounded down. None takes the list as it is.
    """

    steps: tuple[int, ...] = ()
    of: int | None = None

    name = "listed"

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(sorted(set(self.steps))))

    def opens(self, run: Run) -> bool:
        if self.of is None or self.of == run.steps:
            return run.step == 0 or run.step in self.steps
        return run.step == 0 or run.step in {step * run.steps // self.of for step in self.steps}


@GATES.add
@dataclass(frozen=True)
class Masked(Gate):
    """Full where a list of yes and no says so, and always on step 0; runs of another length are stretched over it."""

    mask: tuple[bool, ...] = (True, False)

    name = "masked"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", tuple(map(bool, self.mask)))
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
    """Another gate's rule between two fractions of the run; full outside: start <= step / steps < stop."""

    gate: Any = "never"
    start: float = 0.0
    stop: float = 1.0

    name = "within"

    def __post_init__(self) -> None:
        object.__setattr__(self, "gate", GATES.build(self.gate))
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
class Magnitude(Gate):
    """Full where the size of a residual, followed by known ratios, is no longer what it was. See `magnitude_steps`."""

    ratios: tuple[float, ...] = ()
    threshold: float = 0.24
    most: int = 5
    retention: float = 0.1
    keep: tuple[int, ...] = ()

    name = "magnitude"

    def opens(self, run: Run) -> bool:
        return run.step in magnitude_steps(run.steps, self.ratios, self.threshold, self.most, self.retention, self.keep)


@lru_cache(maxsize=128)
def magnitude_steps(
    steps: int, ratios: tuple[float, ...], threshold: float, most: int, retention: float, keep: tuple[int, ...]
) -> frozenset[int]:
    """The full steps out of `steps`: the first round(retention steps), then where the error would grow too large.

    ratios: of the residual's size at each step to that of the step before, on a run of `len(ratios)` steps; the
    nearest is taken for runs of another number. Their product since the last full step is how large the residual
    would have become, its distance from 1 is the error of a step, and the errors of a stretch of skipped steps
    add up to at most `threshold`, of at most `most` steps. keep: steps that are full in any case.
    Source: Ma et al. 2025 (MagCache), section 3.3, and its code.
    """
    early, product, error, skipped = int(retention * steps + 0.5), 1.0, 0.0, 0
    full = {0}
    for step in range(steps):
        if step < early:
            full.add(step)
            continue
        product *= _nearest(ratios, step, steps)
        error, skipped = error + abs(1 - product), skipped + 1
        if step == 0 or step in keep or error > threshold or skipped > most:
            full.add(step)
            product, error, skipped = 1.0, 0.0, 0
    return frozenset(full)


def _nearest(ratios: tuple[float, ...], step: int, steps: int) -> float:
    """The ratio at the same fraction of the way; 1 if there are none."""
    if not ratios:
        return 1.0
    return ratios[round(step * (len(ratios) - 1) / (steps - 1))] if steps > 1 else ratios[-1]


@GATES.add
@dataclass(frozen=True)
class Then(Gate):
    """One gate's rule up to a fraction of the run, another's from step round(start * steps) on."""

    first: Any = "every"
    second: Any = "never"
    start: float = 0.5

    name = "then"

    def __post_init__(self) -> None:
        for field in ("first", "second"):
            object.__setattr__(self, field, GATES.build(getattr(self, field)))
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


@GATES.add
@dataclass(frozen=True)
class Centered(Gate):
    """As many full steps as `Every` has, but dense around step `center`. See `centered_steps`."""

    interval: int = 2
    center: int = 15
    power: float = 1.4
    signed: bool = False

    name = "centered"

    def opens(self, run: Run) -> bool:
        return run.step in centered_steps(run.steps, self.interval, self.center, self.power, self.signed)


@lru_cache(maxsize=128)
def centered_steps(steps: int, interval: int, center: int, power: float, signed: bool) -> frozenset[int]:
    """ceil(steps / interval) steps out of `steps`, dense around `center`: a power curve, cut at whole numbers.

    signed: take sign(u) |u|^power left of the center and round; otherwise as the authors' code does, where
    the root of a negative number is complex and the real part of its power is cut towards zero.
    Where steps fall together, the power is lowered by 0.02 until they do not.
    Raises HastenError if that happens down to power 1.
    Source: Ma et al. 2023 (DeepCache), section 3.4; `sample_from_quad_center` of its code.
    """
    if interval == 1:
        return frozenset(range(steps))
    count = -(-steps // interval)
    curve = _signed_curve if signed else _official_curve
    lowered = power
    while lowered > 1:
        distinct = np.unique(curve(steps, count, center, lowered))
        chosen = frozenset({0, *distinct[1:-1].tolist()})
        if len(chosen) == count:
            return chosen
        lowered -= 0.02
    raise HastenError(
        f"center: no {count} of {steps} steps can be spread around step {center} with a power of at most {power}; "
        'move the center, raise the power, or use schedule="uniform"'
    )


def _official_curve(steps: int, count: int, center: int, power: float) -> np.ndarray:
    roots = np.linspace(complex(-center) ** (1 / power), complex(steps - center) ** (1 / power), count + 1)
    return np.trunc((roots**power).real).astype(int) + center


def _signed_curve(steps: int, count: int, center: int, power: float) -> np.ndarray:
    def signed(u: np.ndarray | float, exponent: float) -> np.ndarray:
        return np.sign(u) * np.abs(u) ** exponent

    roots = np.linspace(signed(-center, 1 / power), signed(steps - center, 1 / power), count + 1)
    return np.round(signed(roots, power)).astype(int) + center
