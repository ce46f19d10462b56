"""Solvers that learn while they run: whoever hosts the run (a loop, a pipeline) hosts the fit too."""

from __future__ import annotations

from hasten.core.fitters import Fitters
from hasten.fit.trajectory import Trajectory
from hasten.solvers import Solver


class Learner(Solver):
    """A solver that fits itself to its model while it runs.

    fitted: what came of each run so far, the newest last.
    """

    fitted: list[Solver]


learners = Fitters("hasten.fit")  # functions (solver, trajectory) -> Learner, by the class of the solver


def learns(solver: Solver) -> bool:
    """Whether a solver could be fitted while it runs, and is not fitted yet."""
    return solver.needs_fit and learners.get(type(solver)) is not None


def learning(solver: Solver, trajectory: Trajectory) -> Learner | None:
    """A solver like this one that fits itself while it runs; None if it cannot, or is fitted already.

    solver: with the settings that the fitted one will have.
    trajectory: of the very start states that it will run from.
    """
    return learners(solver, trajectory) if learns(solver) else None
