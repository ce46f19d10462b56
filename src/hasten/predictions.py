"""What a network says about a state, in whichever of five ways it was trained to say it.

Every kind of output is an affine function of the state and of the data (or noise) it implies, so one small
table converts any kind to any other. The data prediction and the direction of re-noising are kept apart:
guidance and editing may change one and not the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hasten.core.errors import one_of, unknown
from hasten.processes import Process, RectifiedFlow, TrigFlow, VarianceExploding

SIGMA_DATA = 0.5  # of EDM schedulers that do not say
Coefficient = Any  # a float, or a tensor that broadcasts over the rows of the state

# kind -> (alpha, sigma) -> (weight of x, weight of the output)
_DATA: dict[str, Callable[[Coefficient, Coefficient], tuple[Coefficient, Coefficient]]] = {
    "epsilon": lambda a, s: (1 / a, -s / a),
    "sample": lambda a, s: (0.0, 1.0),
    "v_prediction": lambda a, s: (a / (a * a + s * s), -s / (a * a + s * s)),
    "flow_prediction": lambda a, s: (1 / (a + s), -s / (a + s)),
    "score": lambda a, s: (1 / a, s * s / a),
}
_NOISE: dict[str, Callable[[Coefficient, Coefficient], tuple[Coefficient, Coefficient]]] = {
    "epsilon": lambda a, s: (0.0, 1.0),
    "sample": lambda a, s: (1 / s, -a / s),
    "v_prediction": lambda a, s: (s / (a * a + s * s), a / (a * a + s * s)),
    "flow_prediction": lambda a, s: (1 / (a + s), a / (a + s)),
    "score": lambda a, s: (0.0, -s),
}
KINDS = tuple(_DATA)


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
        if kind not in _DATA:
            raise unknown("prediction_type", kind, KINDS)
        self.x, self.alpha, self.sigma = x, alpha, sigma
        self.output, self.kind, self.renoise = output, kind, renoise
        self._data: Tensor | None = None
        self._noise: Tensor | None = None

    @property
    def data(self) -> Tensor:
        """The clean data that the network sees behind x (x0 prediction)."""
        if self._data is None:
            x_weight, weight = _DATA[self.kind](self.alpha, self.sigma)
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


@dataclass(frozen=True)
class Reading:
    """What the output of a network means: its process, and the kind of prediction.

    process: that the network was trained on.
    kind: of its output, one of `KINDS`.
    sigma_data: of a network inside EDM's preconditioning; it is shown x / sqrt(sigma^2 + sigma_data^2), and
        its output, of kind "epsilon" or "v_prediction", is scaled and added to the state. None for all others.
    boundary: with sigma_data, the noise level at which the state itself is the data prediction: 0, or the lowest level
        of a consistency model.
    unit: standard deviation of the noise that the output speaks of: 1, or sigma_data of a `TrigFlow`.

    Source of the preconditioning: Karras et al. 2022, table 1; of the boundary: Song et al. 2023, appendix C.
    """

    process: Process
    kind: str = "epsilon"
    sigma_data: float | None = None
    boundary: float = 0.0
    unit: float = 1.0

    def at(self, x: Tensor, output: Tensor, alpha: Coefficient, sigma: Coefficient) -> Prediction:
        """The prediction that an output stands for.

        x: the state, (rows, ...).
        output: of the network, shaped like the state.
        alpha, sigma: at the state's time: numbers, or tensors that broadcast over rows.
        """
        if self.sigma_data is None and self.unit == 1:
            return Prediction(x, alpha, sigma, output, self.kind)
        skip, out = self._weights(alpha, sigma)
        return Prediction(x, alpha, sigma, combine(x, skip, output, out), "sample")

    def input(self, x: Tensor, sigma: Coefficient) -> Tensor:
        """What the network is shown for state x. Inverse of `state`."""
        return x if self.sigma_data is None else x / (sigma**2 + self.sigma_data**2) ** 0.5

    def shown(self, shown: Tensor, output: Tensor, time: float) -> Prediction:
        """The same, for the input that the network is shown; half precision is read in float32.

        shown: the input, which may have further channels at its end: conditioning images that are shown as well.
        output: of the network, which may have further channels at its end: a variance that is predicted as well.
        time: of the state.
        """
        shown, output = common(shown, output)
        x = self.state(shown, time)
        return self.at(x, output.to(x.dtype), *self._levels(time))

    def output(self, data: Tensor, shown: Tensor, time: float) -> Tensor:
        """What the network would have answered to mean some data. Inverse of `shown`.

        data: the data that it sees, shaped like the state.
        shown: the input.
        time: of the state.
        """
        alpha, sigma = self._levels(time)
        shown, _ = common(shown, data)
        x = self.state(shown, time)
        x_weight, weight = self._weights(alpha, sigma)
        return ((data - x_weight * x) / weight).to(shown.dtype)

    def _levels(self, time: float) -> tuple[float, float]:
        return float(self.process.alpha(time)), float(self.process.sigma(time))

    def state(self, shown: Tensor, time: float) -> Tensor:
        """The state at `time` that the network is shown as `shown`; half precision in float32."""
        x = shown.float() if shown.dtype in (torch.float16, torch.bfloat16) else shown
        if self.sigma_data is None:
            return x
        return x * (float(self.process.sigma(time)) ** 2 + self.sigma_data**2) ** 0.5

    def _weights(self, alpha: Coefficient, sigma: Coefficient) -> tuple[Coefficient, Coefficient]:
        """Of the state and of the network's output in the data prediction."""
        if self.sigma_data is None:
            return _DATA[self.kind](alpha, sigma / self.unit)
        total, above = sigma**2 + self.sigma_data**2, sigma - self.boundary
        sign = 1.0 if self.kind == "epsilon" else -1.0
        return self.sigma_data**2 / (above**2 + self.sigma_data**2), sign * above * self.sigma_data / total**0.5


def reading_of(process: Process, config: Mapping[str, Any]) -> Reading:
    """How the network is read whose scheduler has this diffusers config.

    process: of that config.
    config: its `prediction_type` and `sigma_data` are read.

    Raises HastenError for a prediction_type that is not known.
    """
    if isinstance(process, RectifiedFlow):
        return Reading(process, "flow_prediction")
    if isinstance(process, TrigFlow):
        one_of("prediction_type", config.get("prediction_type", "trigflow"), ("trigflow",))
        return Reading(process, "v_prediction", unit=process.sigma_data)
    kind = config.get("prediction_type", "epsilon")
    exploding = isinstance(process, VarianceExploding)
    one_of("prediction_type", kind, ("epsilon", "v_prediction") if exploding else KINDS)
    return Reading(process, kind, float(config.get("sigma_data", SIGMA_DATA)) if exploding else None)


def common(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The part of both that the other has as well."""
    if a.shape == b.shape:
        return a, b
    both = tuple(slice(0, min(n, m)) for n, m in zip(a.shape, b.shape))
    return a[both], b[both]


def thresholded(data: Tensor, quantile: float) -> Tensor:
    """Every row clipped to [-s, s] and divided by s, where s is its quantile of absolute values, at least 1.

    The quantile is interpolated as torch.quantile does, which refuses large tensors and half precision.

    data: (rows, ...).
    quantile: 0 to 1.
    """
    ordered = data.flatten(1).abs().float().sort(1).values
    at = quantile * (ordered.shape[1] - 1)
    below, above = ordered[:, int(at)], ordered[:, min(int(at) + 1, ordered.shape[1] - 1)]
    s = torch.lerp(below, above, at % 1).clamp(min=1).to(data.dtype).reshape(-1, *(1,) * (data.ndim - 1))
    return data.clamp(-s, s) / s


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
