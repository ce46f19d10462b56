"""Everything that knows diffusers pipelines: a scheduler that hosts any solver, loading, per-image seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hasten.bridge.loading import load
from hasten.bridge.seeds import generators

__all__ = ["SolverScheduler", "generators", "load"]

if TYPE_CHECKING:
    from hasten.bridge.scheduler import SolverScheduler


def __getattr__(name: str) -> Any:
    """Import the scheduler, and diffusers with it, when it is first asked for."""
    if name == "SolverScheduler":
        from hasten.bridge.scheduler import SolverScheduler

        return SolverScheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
