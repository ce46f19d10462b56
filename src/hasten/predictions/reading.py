"""How the output of a network is read: what it was trained on, and the range of its data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hasten.core.errors import HastenError, one_of
from hasten.predictions.prediction import DATA, KINDS, Coefficient, Prediction, combine
from hasten.processes import Angular, Process, RectifiedFlow, TrigFlow, VarianceExploding, understood
from hasten.processes.understood import FIELDS, Row

SIGMA_DATA = 0.5  # of EDM schedulers that do not say


@dataclass(frozen=True)
class Limit:
    """How the data that a model of pixels predicts is kept within its range.

    most: data is clipped to [-most, most]; of thresholding, the largest number that it is divided by.
    quantile: of thresholding, 0 to 1; None only clips.
    renoise: whether re-noising follows the limited data; DDIM keeps the direction that the network predicted.
    """

    most: float = 1.0
    quantile: float | None = None
    renoise: bool = True

    def of(self, prediction: Prediction) -> Prediction:
        """The same prediction with its data within the range."""
        data = prediction.data
        if self.quantile is None:
            return prediction.with_data(data.clamp(-self.most, self.most), self.renoise)
        return prediction.with_data(thresholded(data, self.quantile, self.most), self.renoise)


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
    limit: the range of its data; None if it has none.

    Source of the preconditioning: Karras et al. 2022, table 1; of the boundary: Song et al. 2023, appendix C.
    """

    process: Process
    kind: str = "epsilon"
    sigma_data: float | None = None
    boundary: float = 0.0
    unit: float = 1.0
    limit: Limit | None = None

    def at(self, x: Tensor, output: Tensor, alpha: Coefficient, sigma: Coefficient) -> Prediction:
        """The prediction that an output stands for.

        x: the state, (rows, ...).
        output: of the network, shaped like the state.
        alpha, sigma: at the state's time: numbers, or tensors that broadcast over rows.
        """
        if self.sigma_data is None and self.unit == 1:
            prediction = Prediction(x, alpha, sigma, output, self.kind)
        else:
            skip, out = self._weights(alpha, sigma)
            prediction = Prediction(x, alpha, sigma, combine(x, skip, output, out), "sample")
        return prediction if self.limit is None else self.limit.of(prediction)

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
            return DATA[self.kind](alpha, sigma / self.unit)
        total, above = sigma**2 + self.sigma_data**2, sigma - self.boundary
        sign = 1.0 if self.kind == "epsilon" else -1.0
        return self.sigma_data**2 / (above**2 + self.sigma_data**2), sign * above * self.sigma_data / total**0.5


def reading_of(process: Process, config: Mapping[str, Any]) -> Reading:
    """How the network is read whose scheduler has this diffusers config.

    process: of that config.
    config: its prediction_type, sigma_data, and the range of its data are read, as far as its class has them.

    Raises HastenError for a prediction_type that is not known.
    """
    row, own = understood(config)
    kind, limit = own.get("prediction_type") or "epsilon", _limit(row, own)
    if isinstance(process, RectifiedFlow):
        if not own.get("use_flow_sigmas") or kind == "flow_prediction":
            kind = "reversed_flow_prediction" if process.inverted else "flow_prediction"
        return Reading(process, kind, limit=limit)
    if isinstance(process, TrigFlow):
        one_of("prediction_type", own.get("prediction_type", "trigflow"), ("trigflow",))
        return Reading(process, "v_prediction", unit=process.sigma_data, limit=limit)
    if isinstance(process, Angular):
        return Reading(process, "v_prediction", limit=limit)
    if not isinstance(process, VarianceExploding):
        one_of("prediction_type", kind, KINDS)
        if kind == "epsilon" and process.alpha(process.t_max) == 0:
            raise HastenError(
                "rescale_betas_zero_snr: True is not possible with prediction_type 'epsilon': at pure noise, "
                "that says nothing of the data; such models predict v or the sample"
            )
        return Reading(process, kind, limit=limit)
    one_of("prediction_type", kind, ("epsilon", "v_prediction"))
    # a table of betas that is read as noise levels is of data with variance 1
    sigma_data = 1.0 if row.kind == "table" else float(own.get("sigma_data", SIGMA_DATA))
    boundary = process.sigma_min if row.kind == "consistency" else 0.0
    return Reading(process, kind, sigma_data, boundary, limit=limit)


def _limit(row: Row, own: Mapping[str, Any]) -> Limit | None:
    """The range of the data of a config's fields that are honoured."""
    read = {field: own[field] for field in own if row.special.get(field, FIELDS[field]).use == "honoured"}
    if read.get("thresholding"):
        quantile = float(read.get("dynamic_thresholding_ratio", 0.995))
        return Limit(float(read.get("sample_max_value", 1.0)), quantile, not row.keeps_noise)
    if read.get("clip_sample") or read.get("clip_denoised"):
        return Limit(float(read.get("clip_sample_range", 1.0)), None, not row.keeps_noise)
    return None


def common(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The part of both that the other has as well."""
    if a.shape == b.shape:
        return a, b
    both = tuple(slice(0, min(n, m)) for n, m in zip(a.shape, b.shape))
    return a[both], b[both]


def thresholded(data: Tensor, quantile: float, most: float = float("inf")) -> Tensor:
    """Every row clipped to [-s, s] and divided by s, where s is its quantile of absolute values, at least 1.

    The quantile is interpolated as torch.quantile does, which refuses large tensors and half precision.

    data: (rows, ...).
    quantile: 0 to 1.
    most: s is at most this.
    """
    ordered = data.flatten(1).abs().float().sort(1).values
    at = quantile * (ordered.shape[1] - 1)
    below, above = ordered[:, int(at)], ordered[:, min(int(at) + 1, ordered.shape[1] - 1)]
    s = torch.lerp(below, above, at % 1).clamp(min=1, max=most).to(data.dtype).reshape(-1, *(1,) * (data.ndim - 1))
    return data.clamp(-s, s) / s
