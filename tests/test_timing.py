"""Speed-ups on machines that are busy: simulated by clocks of their own, so that the truth is known."""

import gc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hasten.measure import Speed, timed_ratio
from hasten.measure.timing import BUSY, Slice, disturbance

LONG, SHORT = 4.0, 1.0  # seconds of undisturbed work: the true ratio is 4


class World:
    """A machine with one thread of ours, and others that come and go.

    off, on: mean seconds between their bursts and of a burst, both exponential.
    slower: how many times slower we are meanwhile.
    """

    def __init__(self, seed: int, off: float, on: float, slower: float) -> None:
        self.random = np.random.default_rng(seed)
        self.means, self.slower = (off, on), slower
        self.now = self.own = 0.0
        self.burst, self.left = False, self.random.exponential(off)

    def work(self, seconds: float) -> None:
        left = seconds * float(np.exp(0.01 * self.random.normal()))
        self.own += left
        while left > 0:
            rate = 1 / self.slower if self.burst else 1.0
            passing = min(left / rate, self.left)
            self.now, left, self.left = self.now + passing, left - passing * rate, self.left - passing
            if self.left <= 1e-12:
                self.burst = not self.burst
                self.left = self.random.exponential(self.means[self.burst])

    def ratio(self, repeats: int = 10, cpu: bool = False) -> Speed:
        own: Callable[[], float] = (lambda: self.own) if cpu else (lambda: 0.0)
        return timed_ratio(
            lambda: self.work(LONG), lambda: self.work(SHORT), repeats=repeats, clock=lambda: self.now, cpu=own
        )


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(gc, "collect", lambda: 0)  # it would take nearly all of the time here


WORLDS = {
    "now and then": (20.0, 2.0, 3.0),
    "often": (4.0, 1.0, 4.0),
    "half of the time": (4.0, 4.0, 3.0),
    "heavy": (8.0, 4.0, 5.0),
    "slow minutes": (30.0, 30.0, 3.0),
}
CLOSE = 0.1  # fraction of the truth


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("cpu", [False, True])
def test_bursts_do_not_bias_the_ratio(world, cpu, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    found = [World(seed, *WORLDS[world]).ratio(cpu=cpu) for seed in range(60)]
    off = np.array([speed.value for speed in found]) / 4 - 1
    assert abs(np.median(off)) < 0.02
    assert np.mean(abs(off) < CLOSE) >= 0.9
    assert np.mean([speed.low <= 4 <= speed.high for speed in found]) >= 0.9
    assert all(speed.n == 10 for speed in found)


def plain_median(world: World) -> float:
    """What the median of ten paired ratios says, without any care."""
    ratios = []
    for _ in range(10):
        marks = [world.now]
        for seconds in (LONG, SHORT):
            world.work(seconds)
            marks.append(world.now)
        ratios.append((marks[1] - marks[0]) / (marks[2] - marks[1]))
    return float(np.median(ratios))


def test_bursts_that_no_long_run_escapes_hit_both_alike(monkeypatch):
    """The default is never left alone, as its CPU time shows: both are then timed in slices as long as one another."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    world = (1.0, 0.3, 10.0)
    assert np.median([plain_median(World(seed, *world)) for seed in range(60)]) > 4.2
    speeds = [World(seed, *world).ratio(cpu=True) for seed in range(60)]
    assert abs(np.median([speed.value for speed in speeds]) / 4 - 1) < 0.04
    assert all(speed.busy > BUSY for speed in speeds)


def test_the_clock_is_used_and_calls_nobody_busy_in_vain():
    world = World(0, 1e12, 1.0, 1.0)
    calm = world.ratio(repeats=6)
    assert calm.value == pytest.approx(4, rel=0.02) and calm.n == 6
    assert calm.busy == 0 and calm.warning == ""
    assert world.now == pytest.approx(7 * (LONG + SHORT), rel=0.02)  # a calm machine costs no further round
    exact = World(0, 1e12, 1.0, 1.0)
    swapped = timed_ratio(lambda: exact.work(1.0), lambda: exact.work(3.0), clock=lambda: exact.now)
    assert swapped.value == pytest.approx(1 / 3, rel=0.02)


def test_a_busy_machine_is_said_to_be_one():
    found = World(3, 4.0, 1.0, 4.0).ratio()
    assert found.busy > BUSY and "Busy machine" in found.warning and "\n" not in found.warning
    assert found.to_json()["busy"] == found.busy and found.named("x").busy == found.busy


def test_few_rounds_get_no_further_ones():
    world, runs = World(3, 1.0, 1.0, 5.0), []
    timed_ratio(lambda: world.work(4), lambda: runs.append(world.work(1)), repeats=4, warmup=0, clock=lambda: world.now)
    assert len(runs) == 4


def test_what_the_process_lacks_of_its_cpu_is_seen_though_no_slice_is_faster(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert disturbance([Slice(2.0, 2.0, 1.0)] * 4) == pytest.approx([1.0] * 4)
    assert disturbance([Slice(2.0, 2.0, 2.0), Slice(2.1, 2.1, 2.0)]) == pytest.approx([0, 0.05], abs=0.01)
    assert (disturbance([Slice(2.0, 2.0, 0.1)] * 4) == 0).all()  # it waits for something else: an accelerator, a disk
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert disturbance([Slice(2.0, 2.0, 3.8), Slice(2.0, 2.0, 1.9)]) == pytest.approx([0, 1])
    assert (disturbance([Slice(1e-5, 1e-5, 0.0), Slice(9e-5, 9e-5, 0.0)]) == 0).all()  # too short to say


def test_others_are_judged_one_by_one():
    world = World(5, 6.0, 2.0, 3.0)
    runs = {f"{k}x": (lambda k=k: world.work(LONG / k)) for k in (1, 2, 8)}
    found = timed_ratio(lambda: world.work(LONG), runs, clock=lambda: world.now)
    assert {name: speed.value for name, speed in found.items()} == pytest.approx({"1x": 1, "2x": 2, "8x": 8}, rel=0.1)
    assert [speed.name for speed in found.values()] == [f"speed-up {name}" for name in runs]


def test_the_report_says_that_the_machine_was_busy():
    from hasten.report.report import busy

    speed = World(3, 4.0, 1.0, 4.0).ratio()
    for one, told in ((speed, speed.warning), (World(0, 1e12, 1.0, 1.0).ratio(), "")):
        outcome: Any = SimpleNamespace(chosen=SimpleNamespace(confirmed=SimpleNamespace(speed=one)))
        assert busy(outcome) == told
