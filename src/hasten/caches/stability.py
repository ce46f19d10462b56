"""Looking back along the ODE: where extrapolation puts the next state, and whether the solver may be left to it.

Everything here reads `run.past`, the guided predictions that the solver was handed, image by image.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hasten.caching.forecasters import FORECASTERS, Forecaster
from hasten.caching.gates import GATES, Gate
from hasten.caching.history import History, Node
from hasten.core.errors import HastenError, one_of
from hasten.predictions import Prediction, common
from hasten.processes import Process, RectifiedFlow
from hasten.runtime.run import Run


@dataclass(frozen=True)
class Trail:
    """The last points of some images on their way, newest first, up to three, at distinct times.

    times: in the variable of the ODE, now: of the running query. slopes: dx/dt at the points, (images, ...),
    float32 or better. state: the newest point. noise: predicted there. alpha, sigma: at the running query.
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
        """What is seen behind a state of the running query's time, if that is the noise in it."""
        return (state - self.sigma * noise) / self.alpha

    @property
    def bend(self) -> Tensor:
        """The second difference of three slopes, positively scaled: its sign and direction are what counts."""
        return _sum(divided_difference(self.times), self.slopes)


def trail(run: Run, images: Sequence[int]) -> Trail | None:
    """What `run.past` knows of these images; None at the first step. Of a step only the first query counts."""
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
    """What the ODE is integrated over: for flows the noise level, so that dx/dt is what they predict; else the time."""
    return float(process.sigma(time)) if isinstance(process, RectifiedFlow) else float(time)


def slope(process: Process, time: float, prediction: Prediction) -> Tensor:
    """dx/dt = alpha' data + sigma' noise on the probability-flow ODE, at the prediction's state.

    In variance-preserving processes that is beta/2 (noise / sigma - x); in flows, noise - data.
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
    """The weights of slopes at `times` (distinct, newest first, one to three) in the change of the state until now.

    The integral of the straight line through the two newest, and `curvature` times what the parabola through
    all three adds to that. With 1 that is Adams-Bashforth of third order on any grid; whatever it is, the
    error of a step falls with the third power of its size.
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


class Scheme(ABC):
    """A way to extrapolate a trail to the running query."""

    @abstractmethod
    def score(self, trail: Trail, state: Tensor) -> Tensor:
        """For each element of the solver's state, (images, ...); unstable where positive. Needs three points."""

    @abstractmethod
    def data(self, trail: Trail, state: Tensor) -> Tensor:
        """The data prediction that stands in for the network's at the solver's state."""


class Multistep(Scheme):
    """`step_weights`: the extrapolated state, and the noise of the newest point in it."""

    def __init__(self, curvature: float) -> None:
        self.curvature = curvature

    def reached(self, trail: Trail) -> Tensor:
        """The extrapolated state."""
        return trail.state + _sum(step_weights(trail.times, trail.now, self.curvature), trail.slopes)

    def score(self, trail: Trail, state: Tensor) -> Tensor:
        return (state - self.reached(trail)) * trail.bend

    def data(self, trail: Trail, state: Tensor) -> Tensor:
        return trail.data(self.reached(trail), trail.noise)


class Official(Multistep):
    """What the authors' code computes.

    The weights 5/8, 3/4, -3/8, which are consistent to first order only, over a step of one thousandth of the
    time, whatever the grid: the extrapolated state is almost the old one. On flows, a straight line through the
    two newest velocities, and the second difference alone as the score.
    """

    WEIGHTS = (5 / 8, 3 / 4, -3 / 8)

    def __init__(self) -> None:
        super().__init__(1.0)

    def reached(self, trail: Trail) -> Tensor:
        if len(trail.slopes) < 3:
            return super().reached(trail)
        step = 1e-3 * trail.process.t_max
        return trail.state - _sum([step * w for w in self.WEIGHTS], trail.slopes)

    def score(self, trail: Trail, state: Tensor) -> Tensor:
        a, b, c = trail.slopes
        bend = a - 2 * b + c
        if not isinstance(trail.process, RectifiedFlow):
            return (state - self.reached(trail)) * bend
        noticed = bend.abs() > 1e-6 * a.abs().mean()  # a line that was extrapolated is straight but for rounding
        return torch.where(noticed, -bend, 0.0)

    def data(self, trail: Trail, state: Tensor) -> Tensor:
        if not isinstance(trail.process, RectifiedFlow):
            return super().data(trail, state)
        newest, before = (*trail.slopes[:2], trail.slopes[0])[:2]
        return state - trail.sigma * (2 * newest - before)


SCHEMES: dict[str, Scheme] = {
    "paper": Multistep(-8 / 5), "adams": Multistep(1.0), "linear": Multistep(0.0), "official": Official(),
}  # fmt: skip


@FORECASTERS.add
@dataclass(frozen=True)
class Extrapolated(Forecaster):
    """The data prediction where the ODE, as the solver was seen to follow it, has come to; for `Whole("data")`.

    It is the guided one for every branch, so that guidance gives it back. What else is predicted is held. With
    a past too short for a scheme, of as high an order as there is.
    scheme: "paper", whose weights on a uniform grid are 5/6, 5/6, -2/3 (see `Stable`); "adams" or "linear", the
    exact integral of the parabola or the line through the last slopes; "official", what the paper's code does.
    Source: Jiang et al. 2025 (SADA), section 3.
    """

    scheme: str = "paper"

    name = "extrapolated"

    def __post_init__(self) -> None:
        one_of("scheme", self.scheme, SCHEMES)

    def alike(self, run: Run, nodes: Sequence[Node]) -> Run:
        return run

    def forecast(self, run: Run, nodes: Sequence[Node], images: Sequence[int]) -> Tensor:
        path, held = trail(run, images), nodes[-1].tensor
        if path is None:
            return held
        data = SCHEMES[self.scheme].data(path, shown_state(run, images, path.state)).to(held.dtype)
        return torch.cat([data, held[:, data.shape[1] :]], 1)


class Choice(NamedTuple):
    """At `step` an image was computed or not; `skips`: how many steps in a row were not, with this one."""

    step: int
    computed: bool
    skips: int


@GATES.add
@dataclass(frozen=True)
class Stable(Gate):
    """Not computed where the solver's state lies beyond its extrapolation, against the bend of the trajectory.

    With slopes y = dx/dt at the last three states, D = y_i - 2 y_(i-1) + y_(i-2), and x~ extrapolated to the
    time that the solver has brought its state x to: skip if mean((x - x~) D) <= 0, image by image. All calls of
    a query, and all branches in them, share what was decided in the first.

    On a grid of step h, x~ = x_i - h (3/2 y_i - 1/2 y_(i-1) + c D) has an error of order h^3 for any c; 5/12
    is the integral of the parabola through the slopes (Adams-Bashforth), the paper has c = -2/3, that is 5/6,
    5/6, -2/3. On other grids c stands for -8/5 of the parabola's part. As the exact state is x~ - (5/12 - c) h D
    + O(h^4), a negative score is what an accurate solver has; it turns positive where the solver's own error,
    or a turn in the trajectory, outweighs 13/12 h mean(D^2). With "adams" nothing but those would be left.

    scheme: as in `Extrapolated`. most: how many steps in a row may be skipped; 0 is "never stable", which is off.
    tail: how many last steps are computed.
    Source: Jiang et al. 2025 (SADA), section 3.
    """

    scheme: str = "paper"
    most: int = 4
    tail: int = 0

    name = "stable"

    def __post_init__(self) -> None:
        one_of("scheme", self.scheme, SCHEMES)
        for field in ("most", "tail"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise HastenError(f"{field}: {value!r} is not possible; give a whole number of at least 0")

    def decide(self, run: Run, histories: Sequence[History], scores: Sequence[float | None]) -> Sequence[bool]:
        verdicts: dict[int, Choice] = run.notes.setdefault(self, {})
        skips, new = {}, []
        for image in sorted({history.image for history in histories}):
            before = verdicts.get(image)
            if before is None or before.step != run.step:
                skips[image] = before.skips if before is not None and before.step == run.step - 1 else 0
                new.append(image)
        may = [image for image in new if skips[image] < self.most and run.step < run.steps - self.tail]
        stable = self._stable(run, may) if may else set()
        for image in new:
            computed = image not in stable
            verdicts[image] = Choice(run.step, computed, 0 if computed else skips[image] + 1)
        return [verdicts[history.image].computed for history in histories]

    def _stable(self, run: Run, images: Sequence[int]) -> set[int]:
        """Those of the images that pass the test; none without three points to go by."""
        scores = scores_of(run, images, self.scheme)
        means = [] if scores is None else scores.flatten(1).mean(1).tolist()
        return {image for image, mean in zip(images, means) if mean <= 0}  # NaN is not


def scores_of(run: Run, images: Sequence[int], scheme: str) -> Tensor | None:
    """The score of each element of the images' states, (images, ...); None without three points to go by."""
    path = trail(run, images)
    if path is None or len(path.times) < 3:
        return None
    return SCHEMES[scheme].score(path, shown_state(run, images, path.state))


def shown_state(run: Run, images: Sequence[int], like: Tensor) -> Tensor:
    """The states of these images at the running query, in the network's own process, without what else it is shown."""
    shown = torch.cat([run.shown[image] for image in images])
    state = shown if run.reading is None else run.reading.state(shown, run.time)
    return common(state, like)[0].to(like.dtype)


def _rows(x: Tensor, images: Sequence[int]) -> Tensor:
    return x if list(images) == list(range(len(x))) else x[list(images)]


def _sum(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    return sum((w * x for w, x in zip(weights[1:], tensors[1:])), weights[0] * tensors[0])
