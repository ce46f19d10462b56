"""Whether the network may be skipped because extrapolation along the ODE meets the solver, and what stands in for it.

Everything here reads `run.past`, the guided predictions that the solver was handed, image by image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hasten.caches.trail import Trail, step_weights, summed, trail
from hasten.caching.forecasters import FORECASTERS, Forecaster
from hasten.caching.gates import GATES, Gate
from hasten.caching.history import History, Node
from hasten.core.errors import HastenError, one_of
from hasten.predictions import common
from hasten.processes import RectifiedFlow
from hasten.runtime.run import Run


class Scheme(ABC):
    """A way to extrapolate a trail to the running query."""

    @abstractmethod
    def score(self, trail: Trail, state: Tensor) -> Tensor:
        """For each element of the solver's state, (images, ...), a number that is positive where it is unstable.

        trail: of the images, with three points.
        state: of the solver, (images, ...).
        """

    @abstractmethod
    def data(self, trail: Trail, state: Tensor) -> Tensor:
        """The data prediction that stands in for the network's, (images, ...).

        trail: of the images.
        state: of the solver, (images, ...).
        """


class Multistep(Scheme):
    """`step_weights`: the extrapolated state, and the noise of the newest point in it."""

    def __init__(self, curvature: float) -> None:
        self.curvature = curvature

    def reached(self, trail: Trail) -> Tensor:
        """The extrapolated state."""
        return trail.state + summed(step_weights(trail.times, trail.now, self.curvature), trail.slopes)

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
        return trail.state - summed([step * w for w in self.WEIGHTS], trail.slopes)

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

    It is the guided one for every branch, so that guidance gives it back. What else is predicted is held. With a past
    too short for a scheme, it is of the highest order possible.

    scheme: "paper", whose weights on a uniform grid are 5/6, 5/6, -2/3 (see `Stable`); "adams" or "linear", the exact
        integral of the parabola or the line through the last slopes; "official", what the paper's code does.

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
    """Whether an image was computed at a step.

    step: which.
    computed: whether it was.
    skips: how many steps in a row it was not, with this one.
    """

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

    scheme: as in `Extrapolated`.
    most: how many steps in a row may be skipped, at least 0, which is "never stable" and so off.
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
    """The score of each element of the images' states, (images, ...); None without three points to go by.

    run: the request.
    images: which of its images.
    scheme: of the score, of `SCHEMES`.
    """
    path = trail(run, images)
    if path is None or len(path.times) < 3:
        return None
    return SCHEMES[scheme].score(path, shown_state(run, images, path.state))


def shown_state(run: Run, images: Sequence[int], like: Tensor) -> Tensor:
    """The states of some images at the running query, in the network's own process, (images, ...).

    run: the request.
    images: which of its images.
    like: a state whose channels, size and dtype they get.
    """
    shown = torch.cat([run.shown[image] for image in images])
    state = shown if run.reading is None else run.reading.state(shown, run.time)
    return common(state, like)[0].to(like.dtype)
