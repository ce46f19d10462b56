"""How the time of a tuning is divided between the search, the ways to execute the network, and the confirmation."""

from __future__ import annotations

import time

from hasten.evaluate.confirmation import LOOKS
from hasten.evaluate.problem import Problem
from hasten.evaluate.references import References
from hasten.search.confirming import PARTS_REPEATS, REPEATS

LEAST_SHARE = 1 / 3  # of the time that goes to the search even where the rest takes longer than planned
COMPILING = 8 * 60  # seconds from which a tuning is long enough to compile the network
EXECUTING = {False: 0.05, True: 0.25}  # share of the time for ways to execute the network, without and with compiling

QUICKER = 0.6  # of a single image's time that one of a batch takes, where nothing was drawn to tell
DRAWING = 1 / 3  # of the default's time that drawing a candidate takes
PARTS = 7  # runs a round in which ingredients and parts are timed
SLACK = 1.15  # by which the confirmation is expected to take longer


class Plan:
    """The time of one tuning, from now on.

    problem: that is tuned.
    references: of the problem; how long they took to draw is known when they are drawn.
    seconds: for everything, above 0.
    finalists: how many are confirmed.
    executes: whether there are ways to execute the network to be tried.
    """

    def __init__(
        self, problem: Problem, references: References, seconds: float, finalists: int, executes: bool
    ) -> None:
        self.problem, self.references, self.finalists = problem, references, finalists
        self.seconds, self.executes, self.started = seconds, executes, time.monotonic()

    @property
    def compiles(self) -> bool:
        """Whether there is time to compile the network."""
        return self.seconds >= COMPILING

    @property
    def minutes(self) -> float:
        """That have gone by."""
        return (time.monotonic() - self.started) / 60

    def search_until(self, one: float) -> float:
        """The `time.monotonic()` at which the search ends; it gets at least a third of the time.

        one: seconds of an image by the default.
        """
        reserve = self._executing + self._confirming(one)
        return max(self.started + self.seconds - reserve, time.monotonic() + LEAST_SHARE * self.seconds)

    def refine_until(self, one: float) -> float:
        """The `time.monotonic()` at which no more ways to execute the network are tried; `one` as in `search_until`."""
        return max(self.started + self.seconds - self._confirming(one), time.monotonic() + self._executing)

    @property
    def _executing(self) -> float:
        """Seconds that are kept for ways to execute the network."""
        return EXECUTING[self.compiles] * self.seconds if self.executes else 0.0

    def _confirming(self, one: float) -> float:
        """Seconds that the confirmation will take: drawing, explaining the chosen recipe, and timing."""
        samples = self.problem.samples
        default = self.references.seconds.get("default", QUICKER * one * len(samples["search"]))
        reference = self.references.seconds.get("reference", default)
        more = len(samples["confirm"]) / len(samples["search"])
        drawing = more * (default + reference + (self.finalists + LOOKS) * DRAWING * default)
        explaining = 2 * more * default + PARTS * (PARTS_REPEATS + 1) * one
        return SLACK * (drawing + explaining + (REPEATS + 2) * one * (1 + DRAWING * self.finalists))
