"""Networks with parts left out for good: one class a method, listed in `PRUNERS`. There are none yet."""

from hasten.prune.base import PRUNERS, Pruner

__all__ = ["PRUNERS", "Pruner"]
