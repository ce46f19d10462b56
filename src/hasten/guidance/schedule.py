"""A guidance scale that changes along the way, whatever scale the pipeline was called with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hasten.core.errors import one_of
from hasten.core.registry import Paper
from hasten.guidance.base import GUIDANCES, GuidanceMethod, needs_branches
from hasten.guidance.branches import Alone, batched, needs_order, replaced
from hasten.runtime.anatomy import batch_of
from hasten.runtime.run import Run
from hasten.runtime.view import wrap

SHAPES: dict[str, Callable[[float], float]] = {
    "constant": lambda left: 1.0,
    "linear": lambda left: 2.0 * (1.0 - left),
    "cosine": lambda left: 1.0 + math.cos(math.pi * left),
}
"""The factor on the scale by the share of the time that is left, 1 at noise to 0 at data; 1 on average."""


@GUIDANCES.add
@dataclass(frozen=True)
class ScaleSchedule(GuidanceMethod):
    """Let what guidance adds to the conditional prediction grow from nothing at noise to twice as much at data.

    A pipeline's guidance_scale w adds w - 1 times the difference of the branches. That difference is multiplied here,
    by 1 on average over time, so that w is whatever the pipeline is called with.

    shape: how the factor grows: "linear", "cosine", or "constant", which is off.

    Source: Wang et al. 2024, section 3, whose weight is w - 1.
    """

    shape: str = "linear"

    name = "scale-schedule"
    paper = Paper("Analysis of Classifier-Free Guidance Weight Schedulers", 2024, "2404.13040")
    off: ClassVar[Mapping[str, Any]] = {"shape": "constant"}

    def __post_init__(self) -> None:
        one_of("shape", self.shape, SHAPES)

    def check(self, network: nn.Module) -> None:
        needs_branches(self.name, network)

    def attach(self, network: nn.Module, run: Run) -> None:
        if self.shape == "constant":
            return
        batch, conditional = batch_of(network), Alone(network, run)

        def factor(part: Run) -> float:
            return SHAPES[self.shape](part.time / part.process.t_max)

        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            answer = inner(*args, **kwargs)
            count = len(batch(args, kwargs))
            rows, branch = run.rows(count), run.alone(count)
            run.act(self.name, False)
            towards = conditional.answer() if branch == 1 else None
            if towards is not None:
                run.act(self.name)
                pairs = zip(batched(towards, count), batched(answer, count), strict=True)
                return replaced(answer, count, [torch.lerp(c, u, factor(run)) for c, u in pairs])
            if rows is None or run.branches(count) != 2:
                return answer
            needs_order(self.name, run)
            run.act(self.name)
            where = {row: i for i, row in enumerate(rows)}
            partner = [where[row.conditional] for row in rows]
            factors = [factor(row.part) for row in rows]

            def scaled(x: Tensor) -> Tensor:
                by = torch.tensor(factors, dtype=x.dtype, device=x.device).reshape(-1, *[1] * (x.ndim - 1))
                return torch.lerp(x[partner], x, by)

            return replaced(answer, count, [scaled(x) for x in batched(answer, count)])

        wrap(network, forward)
