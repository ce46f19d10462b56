"""Seconds as a ratio to the default: paired, interleaved slices, without those that other work disturbed.

On a machine that others use as well, a run that takes long is nearly always slowed a little, and a short one often not
at all, so that a ratio of what was measured flatters the short one. Three things keep the ratio honest. Slices that
others disturbed are replaced by further ones. Where nearly all are disturbed, the shorter run is repeated until its
slice is as long as the longer one's: then load hits both alike. And the result says how busy the machine was.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from hasten.core.console import tracked
from hasten.core.errors import positive_int
from hasten.core.estimates import Estimate, bootstrap

Job = Callable[[], Any]
Clock = Callable[[], float]

TOLERATED = 0.1  # fraction by which a slice may be slower than the best of its run and still count as undisturbed
BEST = 0.1  # the best of a run: this quantile of its times, since the very fastest may be a quirk of the clock
LEAST = 1e-3  # seconds; of shorter slices nothing can be said
MORE = 3  # times as many rounds as asked for are made at most, until enough of them are undisturbed
ROUGH = 5  # whoever asks for fewer rounds wants a rough number quickly, and gets no further rounds
LONGEST = 8  # repetitions of the shorter run in a balanced slice, at most
BUSY = 0.05  # share of the time from which the machine is called busy


@dataclass(frozen=True)
class Speed(Estimate):
    """A speed-up with its interval, and how busy the machine was meanwhile.

    busy: share of the time of both runs that went to others: what slices took beyond the best of their run, and where
        runs keep a CPU occupied, what the process did not get of it; 0 to 1.
    """

    busy: float = 0.0

    @property
    def warning(self) -> str:
        """A sentence if the machine was busy, else empty."""
        if not self.busy > BUSY:
            return ""
        return f"Busy machine: {100 * self.busy:.0f} % of the time while this was measured went to other work."


@dataclass(frozen=True)
class Slice:
    """What one run took.

    seconds: by the clock that was asked for.
    wall: seconds that passed.
    cpu: CPU seconds of this process, of all threads together.
    """

    seconds: float
    wall: float
    cpu: float


@overload
def timed_ratio(
    default: Job,
    others: Job,
    *,
    repeats: int = ...,
    warmup: int = ...,
    seed: int = ...,
    progress: bool = ...,
    clock: Clock = ...,
    cpu: Clock = ...,
) -> Speed: ...
@overload
def timed_ratio(
    default: Job,
    others: Mapping[str, Job],
    *,
    repeats: int = ...,
    warmup: int = ...,
    seed: int = ...,
    progress: bool = ...,
    clock: Clock = ...,
    cpu: Clock = ...,
) -> dict[str, Speed]: ...
def timed_ratio(
    default: Job,
    others: Job | Mapping[str, Job],
    *,
    repeats: int = 10,
    warmup: int = 1,
    seed: int = 0,
    progress: bool = False,
    clock: Clock = time.perf_counter,
    cpu: Clock = time.process_time,
) -> Speed | dict[str, Speed]:
    """Speed-up over the default: its time over the other's, the median over rounds with its interval.

    Every round times each run once, so that a slow minute of the machine hits all of them; the order is
    random in even rounds and the reverse of it in odd ones, so that what a predecessor leaves behind (caches,
    heat) cancels. Accelerators are waited for; garbage is collected between rounds, not within.

    A round is disturbed if one of its two slices took 10 % more than the best of its run, or if a run that otherwise
    keeps a CPU occupied got that much less of it. Of 5 rounds or more, disturbed ones are replaced by further ones, up
    to three times as many in all, and the least disturbed count. If even then fewer than half of these are undisturbed,
    as many rounds are made in which the shorter run is repeated, before and after the longer one, until both take
    equally long, and these count instead.

    default: the run that the others are compared with.
    others: one run, or several by name.
    repeats: rounds that count, at least 1.
    warmup: how often each runs before anything is timed.
    seed: of the orders.
    progress: whether to show a bar.
    clock: a function to seconds; time.process_time on a CPU with one thread is blind to what other processes do.
    cpu: a function to the CPU seconds of this process.
    Returns the speed-up, 2 meaning twice as fast, or one for each name.
    """
    runs = {"": others} if callable(others) else dict(others)
    rounds = positive_int("repeats", repeats)
    for run in (default, *runs.values()):
        for _ in range(warmup):
            run()
    timer = _Timer(default, runs, clock, cpu, seed)
    for _ in tracked(range(rounds), "timing") if progress else range(rounds):
        timer.round(list(runs))
    if rounds >= ROUGH:
        while len(timer.rounds) < MORE * rounds:
            lacking = [name for name in runs if timer.undisturbed(name) < rounds]
            if not lacking:
                break
            timer.round(lacking)
    speeds = {name: timer.speed(name, rounds) for name in runs}
    return speeds[""] if callable(others) else speeds


class _Timer:
    """Times a default (named None) and other runs in turn, and judges what it measured."""

    def __init__(self, default: Job, runs: Mapping[str, Job], clock: Clock, cpu: Clock, seed: int) -> None:
        self.jobs: dict[str | None, Job] = {None: default, **runs}
        self.clock, self.cpu = clock, cpu
        self.wall = time.perf_counter if clock is time.process_time else clock
        self.rounds: list[dict[str | None, Slice]] = []
        self.seed, self._shuffle, self._names = seed, random.Random(seed).shuffle, list(self.jobs)

    def round(self, names: Sequence[str]) -> None:
        """Time the default and some runs once each."""
        if len(self.rounds) % 2:
            self._names.reverse()
        else:
            self._shuffle(self._names)
        gc.collect()
        self.rounds.append({name: self.slice(name) for name in self._names if name is None or name in names})

    def slice(self, name: str | None) -> Slice:
        """Time one run once, without garbage collection."""
        clocks = (self.clock, self.wall, self.cpu)
        enabled = gc.isenabled()
        gc.disable()
        try:
            wait()
            start = [clock() for clock in clocks]
            self.jobs[name]()
            wait()
            return Slice(*(clock() - begin for clock, begin in zip(clocks, start)))
        finally:
            if enabled:
                gc.enable()

    def undisturbed(self, name: str) -> int:
        """How many rounds of a run and the default were left alone."""
        return int((self._disturbed(name) <= TOLERATED).sum())

    def speed(self, name: str, rounds: int) -> Speed:
        """The speed-up of a run by its least disturbed rounds, or by balanced ones where too few are undisturbed."""
        above, below = self._pair(name)
        disturbed = self._disturbed(name)
        if rounds >= ROUGH and 2 * (disturbed <= TOLERATED).sum() < rounds:
            ratios = self._balanced(name, rounds)
        else:
            best = np.sort(np.argsort(disturbed, kind="stable")[:rounds])
            ratios = [above[i].seconds / below[i].seconds for i in best]
        number = bootstrap(ratios, seed=self.seed)
        busy = sum(map(_taken, (above, below))) / max(sum(x.wall for x in (*above, *below)), 1e-12)
        return Speed(number.value, number.low, number.high, number.n, f"speed-up {name}".rstrip(), "x", busy=busy)

    def _pair(self, name: str) -> tuple[list[Slice], list[Slice]]:
        rounds = [one for one in self.rounds if name in one]
        return [one[None] for one in rounds], [one[name] for one in rounds]

    def _disturbed(self, name: str) -> NDArray[np.float64]:
        return np.maximum(*(disturbance(slices) for slices in self._pair(name)))

    def _balanced(self, name: str, rounds: int) -> list[float]:
        """Ratios of rounds in which the shorter of both runs is repeated until its slice is as long as the other's."""
        above, below = (float(np.median([x.seconds for x in slices])) for slices in self._pair(name))
        short, long, quotient = (name, None, above / below) if above > below else (None, name, below / above)
        count, ratios = max(1, min(LONGEST, round(quotient))), []
        for number in range(rounds):
            gc.collect()
            before = (count + number % 2) // 2
            parts = [self.slice(short).seconds for _ in range(before)]
            whole = self.slice(long).seconds
            parts += [self.slice(short).seconds for _ in range(count - before)]
            mean = sum(parts) / count
            ratios.append(whole / mean if short is name else mean / whole)
        return ratios


def disturbance(slices: Sequence[Slice]) -> NDArray[np.float64]:
    """By which fraction each slice of a run took longer than it does when left alone; 0 where nothing can be said.

    It is what the clock shows beyond the best of the run, or, where that is more, what the process lacked of the CPU.

    slices: of one run.
    """
    seconds = np.array([x.seconds for x in slices])
    if not (seconds >= LEAST).all():
        return np.zeros(len(seconds))
    return np.maximum(seconds / np.quantile(seconds, BEST) - 1, _lacking(seconds, slices))


def _taken(slices: Sequence[Slice]) -> float:
    """Seconds that others took of the slices of a run; small differences between slices are not theirs."""
    wall = np.array([x.wall for x in slices])
    if not (wall >= LEAST).all():
        return 0.0
    longer = np.maximum(wall / np.quantile(wall, BEST) - 1, _lacking(wall, slices))
    return float(np.where(longer > TOLERATED, wall * longer / (1 + longer), 0.0).sum())


def _lacking(seconds: NDArray[np.float64], slices: Sequence[Slice]) -> NDArray[np.float64]:
    """By which fraction slices are longer than the CPU seconds in them explain; 0 for runs that do not keep a CPU busy.

    One thread can have all of a CPU. Of several threads, the best share that the run ever had is what it can have.
    """
    share = np.array([x.cpu for x in slices]) / seconds
    full = float(share.max())
    if full < 0.5:
        return np.zeros(len(share))
    if torch.get_num_threads() == 1:
        full = max(full, 1.0)
    return full / np.maximum(share, 1e-6) - 1


def wait() -> None:
    """Return when accelerators have done what they were told."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()
