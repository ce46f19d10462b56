"""The last points of a run on its ODE, and the weights that extrapolate from them.

Everything here reads `run.past`, the guided predictions that the solver was handed, image by image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from hasten.predictions import Prediction
from hasten.processes import Process, RectifiedFlow
from hasten.runtime.run import Run


@dataclass(frozen=True)
class Trail:
    """The last points of some images on their way, newest first, up to three, at distinct times.

    process: of the network.
    times: of the points, in the variable of the ODE, see `variable`.
    now: that of the running query.
    state: the newest point, (images, ...).
    noise: predicted there.
    slopes: dx/dt at the points, (images, ...) each, float32 or better.
    alpha: at the running query.
    sigma: at the running query.
    """

    process: Process
    times: tuple[float, ...]
    now: float
    state: Tensor
    noise: Tensor
    slopes: tuple[Tensor, ...]
    alpha: float
    sigma: float

    def data(self, state: Tensor, noise: Tensor) -> Tensor:
        """The data behind a state at the running query's time.

        state: (images, ...).
        noise: in that state.
        """
        return (state - self.sigma * noise) / self.alpha

    @property
    def bend(self) -> Tensor:
        """The second difference of three slopes, positively scaled: its sign and direction are what counts."""
        return summed(divided_difference(self.times), self.slopes)


def trail(run: Run, images: Sequence[int]) -> Trail | None:
    """What `run.past` knows of some images; None at the first step. Of a step only the first query counts.

    run: the request.
    images: which of its images.
    """
    points = []
    now = variable(run.process, run.time)
    for answer in reversed(run.past):
        at = variable(run.process, answer.time)
        if answer.stage == 0 and at != now and all(at != time for time, _, _ in points):
            points.append((at, answer.time, answer.prediction))
    points = points[:3]
    if not points or max(images) >= len(points[0][2].x):
        return None
    newest = points[0][2]
    slopes = tuple(_rows(slope(run.process, time, p), images) for _, time, p in points)
    return Trail(
        run.process, tuple(at for at, _, _ in points), now, _rows(newest.x, images), _rows(newest.noise, images),
        slopes, float(run.process.alpha(run.time)), float(run.process.sigma(run.time)),
    )  # fmt: skip


def variable(process: Process, time: float) -> float:
    """What the ODE is integrated over: for flows the noise level, so that dx/dt is what they predict; else the time.

    process: of the network.
    time: as the process counts it.
    """
    return float(process.sigma(time)) if isinstance(process, RectifiedFlow) else float(time)


def slope(process: Process, time: float, prediction: Prediction) -> Tensor:
    """dx/dt = alpha' data + sigma' noise on the probability-flow ODE, at the prediction's state.

    In variance-preserving processes that is beta/2 (noise / sigma - x); in flows, noise - data.

    process: of the network.
    time: of the prediction.
    prediction: the guided one.
    """
    if isinstance(process, RectifiedFlow):
        return prediction.velocity
    reach = 5e-4 * process.t_max  # half a training step: slopes of tables jump at their entries
    low, high = max(time - reach, 0.0), min(time + reach, process.t_max)
    alpha, sigma = ((float(f(high)) - float(f(low))) / (high - low) for f in (process.alpha, process.sigma))
    return alpha * prediction.data + sigma * prediction.noise


def divided_difference(times: Sequence[float]) -> tuple[float, ...]:
    """The weights of three values at distinct times in their second divided difference, half a second derivative."""
    return tuple(1 / math.prod(a - b for b in times if b != a) for a in times)


def step_weights(times: Sequence[float], now: float, curvature: float = 1.0) -> tuple[float, ...]:
    """The weights of slopes in the change of the state from the newest of their times until now.

    This is the integral of the straight line through the two newest, plus a multiple of what the parabola through all
    three adds to it. Whatever the multiple, the error of a step falls with the third power of its size.

    times: of the slopes, one to three, distinct, newest first.
    now: the time to reach.
    curvature: the multiple; with 1 this is Adams-Bashforth of third order on any grid.
    """
    ahead = now - times[0]
    if len(times) == 1:
        return (ahead,)
    gap = times[0] - times[1]
    line = (ahead + ahead**2 / (2 * gap), -(ahead**2) / (2 * gap))
    if len(times) == 2:
        return line
    bent = curvature * (ahead**3 / 3 + ahead**2 * gap / 2)
    return tuple(a + bent * b for a, b in zip((*line, 0.0), divided_difference(times), strict=True))


def summed(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """The sum of tensors, each times its weight.

    weights: one a tensor.
    tensors: of one shape, at least one.
    """
    return sum((w * x for w, x in zip(weights[1:], tensors[1:])), weights[0] * tensors[0])


def _rows(x: Tensor, images: Sequence[int]) -> Tensor:
    return x if list(images) == list(range(len(x))) else x[list(images)]
