"""What a cache says a tensor is when it was not computed."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Forecaster(Protocol):
    """The course of one tensor over one generation, as far as it was computed. Each starts empty."""

    def remember(self, step: int, tensor: Tensor) -> None:
        """`tensor` was computed at `step`, not earlier than the one before it."""
        ...

    def forecast(self, step: int) -> Tensor:
        """What it is at `step`; something has been remembered. The caller does not write into the result."""
        ...


class Hold(Forecaster):
    """The tensor stays what it was last."""

    def __init__(self) -> None:
        self._last: Tensor | None = None

    def remember(self, step: int, tensor: Tensor) -> None:
        self._last = tensor

    def forecast(self, step: int) -> Tensor:
        assert self._last is not None
        return self._last
