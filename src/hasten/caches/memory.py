"""What a cache remembers: of one generation only, for each call of a query, for the rows it was computed on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from hasten.acceleration import Run, batch_of, wrap
from hasten.caches.forecasters import Forecaster
from hasten.caches.gates import Gate


@dataclass
class Slot:
    """What is remembered for one network call of a query: `rows` rows, and a forecaster for each tensor."""

    rows: int = 0
    courses: dict[Any, Forecaster] = field(default_factory=dict)


class Memory:
    """Decides for each network call whether to skip, and keeps what skipping needs.

    A site asks `skips` while the call runs, and then either computes and calls `remember`, or calls `recall`.
    What is remembered is keyed by the call of the query (guidance in two calls has two courses) and forgotten
    when a generation, a picture size, a dtype or a device begins that it does not belong to. A batch that has
    shrunk to the conditional branch, which pipelines keep last, goes on with its own rows; any other change
    of the rows is computed in full.
    """

    def __init__(self, run: Run, gate: Gate, forecaster: Callable[[], Forecaster]) -> None:
        self.run, self.gate, self.forecaster = run, gate, forecaster
        self.skips = False
        self.rows = 0  # of the call that runs
        self._slots: dict[int, Slot] = {}
        self._slot = Slot()
        self._stamp: Any = None

    def watch(self, network: nn.Module) -> None:
        """Decide at the beginning of every call of this network."""
        batch = batch_of(network)

        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self._begin(batch(args, kwargs))
            return inner(*args, **kwargs)

        wrap(network, forward)

    def _begin(self, x: Tensor) -> None:
        run = self.run
        stamp = (run.number, x.shape[1:], x.dtype, x.device)
        if stamp != self._stamp:
            self._slots, self._stamp = {}, stamp
        self.rows = len(x)
        slot = self._slots.get(run.call, Slot())
        self.skips = not self.gate.opens(run) and self._covers(slot)
        if not self.skips and slot.rows != self.rows:
            slot = Slot()
            if run.number and run.step < run.steps:  # outside a generation nothing is kept
                self._slots[run.call] = slot
        self._slot = slot

    def _covers(self, slot: Slot) -> bool:
        return bool(slot.courses) and (
            slot.rows == self.rows or (slot.rows > self.rows == self.run.images and slot.rows % self.rows == 0)
        )

    def remember(self, key: Any, tensor: Tensor) -> None:
        """The tensor that the site calls `key` has been computed."""
        if key not in self._slot.courses:
            self._slot.courses[key] = self.forecaster()
        self._slot.courses[key].remember(self.run.step, tensor)
        self._slot.rows = self.rows

    def recall(self, key: Any) -> Tensor:
        """What the tensor `key` is taken to be for this call."""
        return self.fitted(self._slot.courses[key].forecast(self.run.step))

    def fitted(self, tensor: Tensor) -> Tensor:
        """The rows, of a tensor that belongs to the remembered batch, that the running call has."""
        if self._slot.rows == self.rows:
            return tensor
        return tensor[-(len(tensor) * self.rows // self._slot.rows) :]
