"""A prediction, and the table that converts any kind of output to any other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hasten.core.errors import unknown

Coefficient = Any  # a float, or a tensor that broadcasts over the rows of the state

# kind -> (alpha, sigma) -> (weight of x, weight of the output)
DATA: dict[str, Callable[[Coefficient, Coefficient], tuple[Coefficient, Coefficient]]] = {
    "epsilon": lambda a, s: (1 / a, -s / a),
    "sample": lambda a, s: (0.0, 1.0),
    "v_prediction": lambda a, s: (a / (a * a + s * s), -s / (a * a + s * s)),
    "flow_prediction": lambda a, s: (1 / (a + s), -s / (a + s)),
    "reversed_flow_prediction": lambda a, s: (1 / (a + s), s / (a + s)),
    "score": lambda a, s: (1 / a, s * s / a),
}
_NOISE: dict[str, Callable[[Coefficient, Coefficient], tuple[Coefficient, Coefficient]]] = {
    "epsilon": lambda a, s: (0.0, 1.0),
    "sample": lambda a, s: (1 / s, -a / s),
    "v_prediction": lambda a, s: (s / (a * a + s * s), a / (a * a + s * s)),
    "flow_prediction": lambda a, s: (1 / (a + s), a / (a + s)),
    "reversed_flow_prediction": lambda a, s: (1 / (a + s), -a / (a + s)),
    "score": lambda a, s: (0.0, -s),
}
KINDS = tuple(DATA)


def combine(x: Tensor, x_weight: Coefficient, y: Tensor, y_weight: Coefficient) -> Tensor:
    """x_weight * x + y_weight * y, in as few passes over memory as it takes; may be y itself.

    x, y: of the same shape; left as they are.
    x_weight, y_weight: numbers, or tensors that broadcast over rows.
    """
    if isinstance(x_weight, Tensor) or isinstance(y_weight, Tensor):
        return x_weight * x + y_weight * y
    if x_weight == 0:
        return y if y_weight == 1 else y * y_weight
    if x_weight == 1:
        return torch.add(x, y, alpha=y_weight)
    return (x * x_weight).add_(y, alpha=y_weight)


class Prediction:
    """A network's answer for the state `x` at one time.

    x: the state, (rows, ...).
    alpha, sigma: at its time: numbers, or tensors that broadcast over rows.
    output: what the network returned, shaped like the state.
    kind: of the output, one of `KINDS`.
    renoise: where the direction of re-noising comes from when it is not this prediction's own (CFG++ re-noises with
        the unconditional one).

    Raises HastenError for an unknown kind.
    """

    __slots__ = ("_data", "_noise", "alpha", "kind", "output", "renoise", "sigma", "x")

    def __init__(
        self, x: Tensor, alpha: Coefficient, sigma: Coefficient, output: Tensor, kind: str = "epsilon",
        renoise: Prediction | None = None,
    ) -> None:  # fmt: skip
        if kind not in DATA:
            raise unknown("prediction_type", kind, KINDS)
        self.x, self.alpha, self.sigma = x, alpha, sigma
        self.output, self.kind, self.renoise = output, kind, renoise
        self._data: Tensor | None = None
        self._noise: Tensor | None = None

    @property
    def data(self) -> Tensor:
        """The clean data that the network sees behind x (x0 prediction)."""
        if self._data is None:
            x_weight, weight = DATA[self.kind](self.alpha, self.sigma)
            self._data = combine(self.x, x_weight, self.output, weight)
        return self._data

    @property
    def noise(self) -> Tensor:
        """The direction of re-noising (epsilon prediction)."""
        if self.renoise is not None:
            return self.renoise.noise
        if self._noise is None:
            x_weight, weight = _NOISE[self.kind](self.alpha, self.sigma)
            self._noise = combine(self.x, x_weight, self.output, weight)
        return self._noise

    @property
    def velocity(self) -> Tensor:
        """noise - data: the flow prediction u."""
        return self.noise - self.data

    @property
    def score(self) -> Tensor:
        """The gradient of the log density of x: -noise / sigma."""
        return self.noise * (-1 / self.sigma)

    @property
    def state(self) -> Tensor:
        """Where a step departs from: alpha * data + sigma * noise, which is x for a plain network."""
        return self.x if self.renoise is None else self.alpha * self.data + self.sigma * self.noise

    def with_data(self, data: Tensor, renoise: bool = True) -> Prediction:
        """The same prediction with other data.

        data: shaped like the state.
        renoise: whether re-noising follows the new data.
        """
        return Prediction(self.x, self.alpha, self.sigma, data, "sample", None if renoise else self.renoise or self)

    def rows(self, start: int, stop: int) -> Prediction:
        """The prediction of rows start .. stop-1 alone."""

        def cut(value: Coefficient) -> Coefficient:
            return value[start:stop] if isinstance(value, Tensor) else value

        renoise = None if self.renoise is None else self.renoise.rows(start, stop)
        return Prediction(
            self.x[start:stop], cut(self.alpha), cut(self.sigma), self.output[start:stop], self.kind, renoise
        )


class Pair(Tensor):
    """The two states that an inversion ends with, stacked: (2, rows, ...). `sample` starts from it as from noise.

    Moving and casting keep the type; anything else gives a plain tensor. What was saved comes back by `Pair.of`.
    """

    _KEEP = (Tensor.to, Tensor.float, Tensor.double, Tensor.half, Tensor.cpu, Tensor.cuda, Tensor.clone, Tensor.detach)

    @classmethod
    def of(cls, first: Tensor, second: Tensor) -> Pair:
        """The pair of two states of the same shape."""
        return torch.stack([first, second]).as_subclass(cls)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        return result.as_subclass(cls) if func in cls._KEEP else result
