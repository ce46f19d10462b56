"""The classical Runge-Kutta method."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

State = tuple["Tensor", ...]  # what moves along together
Rate = Callable[[float, State], State]  # where, state -> the derivative of every part of the state


def runge_kutta(rate: Rate, state: State, start: float, end: float) -> State:
    """The state at `end` of d state / dr = rate(r, state), by one step of fourth order that calls the rate four times.

    rate: r and a state -> the derivatives, shaped like the state.
    state: at `start`; left as it is.
    start, end: of the step; either may be the larger one.
    """
    h, middle = end - start, (start + end) / 2
    first = rate(start, state)
    second = rate(middle, _moved(state, first, h / 2))
    third = rate(middle, _moved(state, second, h / 2))
    fourth = rate(end, _moved(state, third, h))
    slopes = zip(first, second, third, fourth)
    return _moved(state, tuple(a + 2 * b + 2 * c + d for a, b, c, d in slopes), h / 6)


def _moved(state: State, slope: State, h: float) -> State:
    return tuple(part + h * rise for part, rise in zip(state, slope, strict=True))
