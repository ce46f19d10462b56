"""What a cache takes for a tensor that was not computed: mostly a weighted sum of its earlier values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from hasten.caching.history import Node
from hasten.core.errors import HastenError, one_of, positive_int, unit_interval
from hasten.core.frozen import set_fields
from hasten.core.registry import Registry, Span
from hasten.runtime.run import Run


class Forecaster(ABC):
    """A rule from what was computed to what it is now. Frozen dataclasses, listed in `FORECASTERS`.

    Forecasters keep no state: rows for which `alike` is equal are forecast together.

    name: what recipes call it.
    search_space: what a search tries for each setting, as of an `Acceleration`.
    reach: how many of the newest computed tensors it reads; there may be fewer, but always one.
    """

    name: ClassVar[str]
    search_space: ClassVar[Mapping[str, Any] | None] = None  # as of an Acceleration
    reach: int = 1

    @abstractmethod
    def forecast(self, run: Run, nodes: Sequence[Node], images: Sequence[int]) -> Tensor:
        """The tensor at the query that the request is at: a new one, or a node's own.

        run: the request.
        nodes: what was computed, newest last, each with the rows in question.
        images: which image of the request each row belongs to, for forecasters that read `run.past`.
        """

    def alike(self, run: Run, nodes: Sequence[Node]) -> Hashable:
        """A key: rows may be forecast together if it is equal for them.

        run: the request.
        nodes: what was computed for a row, newest last.
        """
        return run, tuple(node.step for node in nodes)


class Weighted(Forecaster):
    """A forecaster that is a sum of the nodes, with weights that depend on their steps and times only."""

    @abstractmethod
    def weights(self, run: Run, nodes: Sequence[Node]) -> tuple[float, ...]:
        """One weight a node.

        run: the request.
        nodes: what was computed, newest last.
        """

    def alike(self, run: Run, nodes: Sequence[Node]) -> Hashable:
        return self.weights(run, nodes)

    def forecast(self, run: Run, nodes: Sequence[Node], images: Sequence[int]) -> Tensor:
        weights = self.weights(run, nodes)
        if weights[-1] == 1 and not any(weights[:-1]):
            return nodes[-1].tensor
        result = nodes[-1].tensor * weights[-1]
        for weight, node in zip(weights[:-1], nodes[:-1]):
            result = result.add_(node.tensor, alpha=weight)
        return result


FORECASTERS: Registry[Forecaster] = Registry("forecaster", Forecaster)


@FORECASTERS.add
@dataclass(frozen=True)
class Hold(Weighted):
    """The tensor stays as it was last computed."""

    name = "hold"
    search_space: ClassVar[Mapping[str, Any]] = {}

    def weights(self, run: Run, nodes: Sequence[Node]) -> tuple[float, ...]:
        return (1.0,) * len(nodes)


VARIABLES = ("step", "time", "logsnr")


@FORECASTERS.add
@dataclass(frozen=True)
class Taylor(Weighted):
    """A polynomial through the latest order + 1 nodes, extended to now.

    order: of the polynomial, at least 0, which holds the latest node.
    variable: what it is a polynomial in: "step", the "time" of the process, or "logsnr".
    compat: take the powers e^i / i! of the published code, with backward differences as derivatives. That is exact on
        straight lines only; Newton's form, the default, is exact on polynomials of its order.
    apart: how many steps lie between two nodes it goes through, at least 1: a polynomial that is extended far beyond
        nodes that are close together multiplies their errors.

    Source: Liu et al. 2025 (TaylorSeer), eq. (9).
    """

    order: int = 1
    variable: str = "step"
    compat: bool = False
    apart: int = 1

    name = "taylor"
    search_space: ClassVar[Mapping[str, Any]] = {"order": Span(1, 2), "variable": ("time", "logsnr")}

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or not isinstance(self.order, int) or self.order < 0:
            raise HastenError(f"order: {self.order!r} is not possible; give a whole number of at least 0")
        one_of("variable", self.variable, VARIABLES)
        positive_int("apart", self.apart)

    @property
    def reach(self) -> int:  # type: ignore[override]
        return self.order * self.apart + 1

    def weights(self, run: Run, nodes: Sequence[Node]) -> tuple[float, ...]:
        at = [coordinate(self.variable, run, node.step, node.time) for node in nodes]
        now = coordinate(self.variable, run, run.step, run.time)
        new: list[int] = []
        for i in reversed(range(len(at))):
            far = not new or nodes[new[0]].step - nodes[i].step >= self.apart
            if far and len(new) <= self.order and at[i] not in at[i + 1 :]:  # pipelines may visit a time twice
                new.insert(0, i)
        weights = (_taylor if self.compat else lagrange)([at[i] for i in new], now)
        return tuple(dict(zip(new, weights)).get(i, 0.0) for i in range(len(at)))


@FORECASTERS.add
@dataclass(frozen=True)
class Difference(Weighted):
    """The latest node, and `weight` times its difference from the one before.

    weight: of the difference; 0 holds the latest node.

    Source: Lv et al. 2024 (FasterCache), eq. (4).
    """

    weight: float = 0.5

    name = "difference"
    reach = 2

    def weights(self, run: Run, nodes: Sequence[Node]) -> tuple[float, ...]:
        return (1.0,) if len(nodes) == 1 else (-self.weight, 1 + self.weight)


@FORECASTERS.add
@dataclass(frozen=True)
class SwitchedForecaster(Forecaster):
    """One forecaster up to a fraction of the run, another from step round(start * steps) on.

    first: the earlier forecaster: a name, an object with a name and fields, or an instance.
    second: the later one, given in the same way.
    start: the fraction of the run, 0 to 1, at which the second takes over.
    """

    first: Any = "hold"
    second: Any = "taylor"
    start: float = 0.5

    name = "then"

    def __post_init__(self) -> None:
        for field in ("first", "second"):
            set_fields(self, **{field: FORECASTERS.build(getattr(self, field))})
        unit_interval("start", self.start)

    @property
    def reach(self) -> int:  # type: ignore[override]
        return max(self.first.reach, self.second.reach)

    def alike(self, run: Run, nodes: Sequence[Node]) -> Hashable:
        part = self._now(run)
        return part, part.alike(run, nodes[-part.reach :])

    def forecast(self, run: Run, nodes: Sequence[Node], images: Sequence[int]) -> Tensor:
        part = self._now(run)
        return part.forecast(run, nodes[-part.reach :], images)

    def _now(self, run: Run) -> Forecaster:
        return self.second if run.step >= round(self.start * run.steps) else self.first


def coordinate(variable: str, run: Run, step: int, time: float) -> float:
    """The number that stands for a step in polynomials. logsnr is kept within -12 to 12, so that pure noise has one.

    variable: which number, of `VARIABLES`.
    run: the request, for its process.
    step: of the node, from 0.
    time: of the node.
    """
    if variable == "step":
        return float(step)
    if variable == "time":
        return time / run.process.t_max
    return min(max(float(run.process.lam(time)), -12.0), 12.0)


def lagrange(at: Sequence[float], now: float) -> tuple[float, ...]:
    """The weight of each value in what the polynomial through all of them is at `now`.

    at: where the values are, distinct numbers.
    now: where the polynomial is read.
    """
    return tuple(math.prod((now - b) / (a - b) for b in at if b != a) for a in at)


def _taylor(at: Sequence[float], now: float) -> tuple[float, ...]:
    """The same for sum_i D_i e^i / i!, where D_i is the i-th difference of differences, each over its newest gap."""
    count = len(at)
    differences = [[float(i == j) for j in range(count)] for i in range(count)]  # D_0 at each node, as weights
    total = list(differences[-1])
    for i in range(1, count):
        differences = [
            [(new - old) / (at[k + i] - at[k + i - 1]) for new, old in zip(differences[k + 1], differences[k])]
            for k in range(count - i)
        ]
        scale = (now - at[-1]) ** i / math.factorial(i)
        total = [t + scale * d for t, d in zip(total, differences[-1])]
    return tuple(total)
