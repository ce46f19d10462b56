"""Searching a faster recipe under an error budget, and proving it. The room is called as a function, too:
`hasten.tune(pipe, budget="1.0x", minutes=5)`, `hasten.tune.compare(pipe, [recipe, other])`,
`hasten.tune.bench(pipe, ["diffusers"], [recipe])`.
"""

from __future__ import annotations

import inspect
import sys
import types

from hasten.tune.benching import bench
from hasten.tune.budget import Budget, Score
from hasten.tune.result import Finalist, TuneResult
from hasten.tune.tuning import compare, tune

__all__ = ["Budget", "Finalist", "Score", "TuneResult", "bench", "compare", "tune"]


class _Room(types.ModuleType):
    """A module that is called as its main function."""

    __call__ = staticmethod(tune)


sys.modules[__name__].__class__ = _Room
__signature__ = inspect.signature(tune)
