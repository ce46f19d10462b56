"""The guidance interval: guide at middle noise levels only, and run the conditional branch alone elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from hasten.core.errors import HastenError
from hasten.core.frozen import set_fields
from hasten.core.registry import Paper, Span
from hasten.guidance.base import GUIDANCES, GuidanceMethod, needs_branches
from hasten.guidance.branches import Alone, learn_order, ran
from hasten.runtime.anatomy import batch_of
from hasten.runtime.rows import mapped, pick
from hasten.runtime.run import Run
from hasten.runtime.view import wrap


@GUIDANCES.add
@dataclass(frozen=True)
class GuidanceInterval(GuidanceMethod):
    """Guide only where low < sigma / alpha <= high.

    Elsewhere the network runs on the last branch of its batch, the conditional one, and its output is handed out for
    both, so that whatever the pipeline extrapolates is the conditional prediction. Batches that are not made of two
    branches run as they are, and so does the first call of a generation if nobody has said how many images it has
    (diffusers pipelines do when they prepare latents). SD-like models take about (0.28, 5.4); (0, None) is off.

    low: noise level sigma / alpha, at least 0.
    high: noise level sigma / alpha, at least `low`; None is no limit.

    Source: Kynkäänniemi et al. 2024, section 3.
    """

    low: float = 0.0
    high: float | None = None

    name = "interval"
    narrows = True
    search_space: ClassVar[Mapping[str, Any]] = {"low": Span(0.02, 1.5, log=True), "high": Span(1.5, 15.0, log=True)}
    paper = Paper(
        "Applying Guidance in a Limited Interval Improves Sample and Distribution Quality", 2024, "2404.07724"
    )
    off: ClassVar[Mapping[str, Any]] = {"low": 0.0, "high": None}

    def __post_init__(self) -> None:
        if self.high == float("inf"):
            set_fields(self, high=None)
        if not 0 <= self.low < float("inf"):
            raise HastenError(f"low: {self.low!r} is not possible; give a noise level sigma / alpha of at least 0")
        if self.high is not None and not self.high >= self.low:
            raise HastenError(f"high: {self.high!r} is not possible; give a noise level of at least low = {self.low!r}")

    def guides(self, run: Run) -> bool:
        """Whether the query that `run` is at lies inside the interval."""
        with np.errstate(divide="ignore"):
            noise = float(np.divide(run.process.sigma(run.time), run.process.alpha(run.time)))
        return self.low < noise and (self.high is None or noise <= self.high)

    def check(self, network: nn.Module) -> None:
        needs_branches(self.name, network)

    def attach(self, network: nn.Module, run: Run) -> None:
        if (self.low, self.high) == (0.0, None):
            return
        batch = batch_of(network)

        def alone(conditional: Any, states: Tensor) -> Any:
            if self.guides(run):
                return None
            run.act(self.name)
            return mapped(conditional, Tensor.clone)

        Alone(network, run).instead(alone)

        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            count = len(batch(args, kwargs))
            rows = run.rows(count)
            run.act(self.name, False)
            if rows is None or run.branches(count) != 2:
                return inner(*args, **kwargs)
            guides = {part: self.guides(part) for part in run.parts}
            kept = [i for i, row in enumerate(rows) if row.branch == 0 or guides[row.part]]
            if len(kept) == count or run.conditional_last is None:
                answer = inner(*args, **kwargs)
                learn_order(run, answer, count)
                return answer
            run.act(self.name)
            where = {rows[i]: position for position, i in enumerate(kept)}
            source = [where.get(row, where[row.conditional]) for row in rows]
            return mapped(ran(run, inner, args, kwargs, rows, kept), lambda x: pick(x, len(kept), source))

        wrap(network, forward)
