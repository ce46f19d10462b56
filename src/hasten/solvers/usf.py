"""USF: a solver as a list of decisions, one a step. The search for the list is in `hasten.fit.usf`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hasten.core.errors import HastenError, one_of
from hasten.core.frozen import set_fields
from hasten.core.registry import Paper
from hasten.processes import Array, Process
from hasten.solvers.base import SOLVERS
from hasten.solvers.exponential import RULES, Frame
from hasten.solvers.table import Path, Tabular, Update

EXPANDED = ("data", "noise")
TABLES = 4096  # that are kept: a search compares thousands of lists, many of them again and again


class Decision(NamedTuple):
    """How one step is made.

    order: how many values it passes through (fewer while there are fewer), 1 to 3.
    expand: "data" or "noise".
    rule: how weights of derivatives are bent, see `exponential.apply_rule`.
    correct: whether the state it reaches is corrected once the network has answered there.
    start: 0 from the current state, 1 from the one before (singlestep methods).
    """

    order: int = 2
    expand: str = "data"
    rule: str = "midpoint"
    correct: bool = False
    start: int = 0


Decisions = tuple[Decision, ...]


def uniform(
    steps: int, order: int = 2, expand: str = "data", rule: str = "midpoint", correct: bool = False
) -> Decisions:
    """The same decision at every step but the last ones, whose order is no more than the steps that are left.

    steps: of the run.
    order, expand, rule, correct: see `Decision`.
    """
    return tuple(Decision(min(order, steps - i), expand, rule, correct) for i in range(steps))


@SOLVERS.add
@dataclass(frozen=True)
class USF(Tabular):
    """Every step decides its own order, expansion, rule, corrector and start. Unfitted: DPM-Solver++ 2M.

    Fitted by `fit`, see `hasten.fit.usf`.

    decisions: one tuple (order, expand, rule, correct, start) a step; later entries may be left out, see
        `Decision`. A step with start 1 cannot follow another.

    Source: Liu et al. 2023, section 3 (without its v3 expansion, low-order derivatives and analytical first step).
    """

    decisions: tuple[tuple[object, ...], ...] = ()
    name = "usf"
    paper = Paper(
        "A Unified Sampling Framework for Solver Searching of Diffusion Probabilistic Models", 2023, "2312.07243"
    )
    convergence = 2  # unfitted

    def __post_init__(self) -> None:
        decisions = tuple(Decision(*decision) for decision in self.decisions)  # type: ignore[arg-type]
        for i, decision in enumerate(decisions):
            one_of("decisions.order", decision.order, (1, 2, 3))
            one_of("decisions.expand", decision.expand, EXPANDED)
            one_of("decisions.rule", decision.rule, RULES)
            if decision.start and (decision.start != 1 or i == 0 or decisions[i - 1].start):
                raise HastenError(f"decisions.start: {decision.start} at step {i}; 1 may only follow a step with 0")
        set_fields(self, decisions=decisions)

    @property
    def needs_fit(self) -> bool:
        return not self.decisions

    def table(self, process: Process, times: Array) -> tuple[str, list[Update]]:
        steps = len(times) - 1
        if self.decisions and len(self.decisions) != steps:
            raise HastenError(f"decisions: made for {len(self.decisions)} steps, the run has {steps}; fit again")
        decisions: Decisions = self.decisions or uniform(steps)  # type: ignore[assignment]
        used = {"data" if process.alpha(times[0]) == 0 else decisions[0].expand, *(d.expand for d in decisions)}
        kinds = tuple(kind for kind in EXPANDED if kind in used)
        return " ".join(kinds), updates_of(decisions, process, tuple(map(float, times)), kinds)


@functools.lru_cache(maxsize=TABLES)
def updates_of(
    decisions: Decisions, process: Process, times: tuple[float, ...], kinds: tuple[str, ...]
) -> list[Update]:
    """The updates that a list of decisions comes to.

    decisions: one a step.
    process: of the network.
    times: decreasing, noisiest first, one more than there are decisions.
    kinds: of the values that are remembered, of `EXPANDED`; they take turns in the weights.
    """
    frames = {kind: Frame.of(process, np.array(times), kind) for kind in EXPANDED}

    def update(d: Decision, s: int, t: int, nodes: Sequence[int], size: int) -> tuple[float, Array]:
        a, by_node, _ = frames[d.expand].update(s, t, nodes, rule=d.rule, size=size)
        weights = np.zeros((len(kinds), size))
        weights[kinds.index(frames[d.expand].value(s))] = by_node
        return a, weights

    path, made = Path(), (decisions[0], 0, [0])  # how the current state came about
    for i, decision in enumerate(decisions):
        before, anchor, passed = made
        if i and before.correct:  # which a step from the state before leaves out
            path.correct(update(before, anchor, i, [*passed, i], i + 1)[1])
        s = i - decision.start
        nodes = [s, *(n for n in range(i, -1, -1) if n != s)][: min(decision.order, i + 1)]
        path.advance(times[i], s, *update(decision, s, i + 1, nodes, i + 1), step=i)
        made = decision, s, nodes
    return path.updates
