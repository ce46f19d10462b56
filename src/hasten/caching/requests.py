"""Whose rows a network call holds, and the history of each: what a cache knows of many requests at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from hasten.caching.history import History
from hasten.runtime.run import Row, Run


@dataclass
class Request:
    """What is remembered of one request.

    stamp: generation, picture size, dtype and device it was remembered for.
    rows: how many the latest call of a query had, by the number of the call.
    histories: by number of the call, and place of the row.
    """

    stamp: Any = None
    rows: dict[int, int] = field(default_factory=dict)
    histories: dict[tuple[int, int], History] = field(default_factory=dict)


class Requests:
    """The histories of every row that was ever seen, by request.

    Rows are known by request, call of the query (guidance in two calls has two histories) and place, so a batch may
    shrink to its conditional branch and grow back. What belongs to another generation, picture size, dtype or device is
    forgotten; so is everything of a call whose rows change in any other way.

    run: what the network is doing.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._requests: WeakKeyDictionary[Run, Request] = WeakKeyDictionary()

    def of(self, x: Tensor) -> tuple[list[Row], list[History]]:
        """Whose the rows of a batch of states are, and their histories, in the order of the batch."""
        rows = self.run.rows(len(x))
        if rows is None:  # nobody knows whose they are
            nobody = Run(self.run.process)
            rows = [Row(nobody, place) for place in range(len(x))]
        counts: dict[Run, int] = {}
        for row in rows:
            counts[row.part] = counts.get(row.part, 0) + 1
        shape = (x.shape[1:], x.dtype, x.device)
        requests = {part: self._request(part, count, shape) for part, count in counts.items()}
        return rows, [self._history(requests[row.part], row) for row in rows]

    def _request(self, part: Run, count: int, shape: Any) -> Request:
        """What is remembered of this request, if it still holds for `count` rows of it."""
        if not part.number or part.step >= part.steps:  # outside a generation nothing is kept
            return Request()
        request = self._requests.get(part)
        stamp = (part.number, *shape)
        if request is None or request.stamp != stamp:
            request = self._requests[part] = Request(stamp)
        if self.run.narrowed_to is not None:  # a cache around this one says which rows flow
            return request
        before = request.rows.get(part.call, count)
        request.rows[part.call] = count
        whole = part.images and count % part.images == 0 and before % part.images == 0
        if before != count and not whole:
            request.histories = {at: kept for at, kept in request.histories.items() if at[0] != part.call}
        return request

    @staticmethod
    def _history(request: Request, row: Row) -> History:
        history = request.histories.setdefault((row.part.call, row.place), History())
        history.image, history.branch = row.image, row.branch
        return history
