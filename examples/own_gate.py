"""A gate of your own that looks at what the solver did: compute in full only while the predicted image still moves."""

from dataclasses import dataclass
from typing import ClassVar

import hasten
from hasten.caching.gates import GATES, Gate
from hasten.core.registry import Span


@GATES.add
@dataclass(frozen=True)
class Restless(Gate):
    """Full while the predicted data of the last two steps differ by `threshold` (RMSE), and after a skipped step.

    threshold: at least 0; 0 computes every step.
    """

    threshold: float = 0.1
    name = "restless"
    search_space: ClassVar = {"threshold": Span(0.01, 0.5, log=True)}

    def decide(self, run, histories, scores):
        if len(run.past) < 2:
            return [True] * len(histories)
        old, new = (answer.prediction.data for answer in run.past[-2:])
        moved = (new - old).flatten(1).square().mean(1).sqrt()
        return [history.skipped > 0 or bool(moved[history.image] >= self.threshold) for history in histories]


pipe = hasten.load("emoji-sd")
for threshold in (0.1, 0.3):
    cache = {"name": "cache", "site": "unet-deep", "gate": {"name": "restless", "threshold": threshold}}
    with hasten.accelerate(pipe, {"solver": "ddim", "steps": 12, "caches": [cache]}) as fast:
        fast("noto red apple", seed=0)
        print(f"threshold {threshold}: skipped on steps {pipe.scheduler.run.skipped('cache')[0]}")
