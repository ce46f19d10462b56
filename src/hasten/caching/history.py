"""The history of one row of a request: what was computed for it and when, and what its gate noted."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor


class Node(NamedTuple):
    """What was computed at one step.

    step: which, from 0.
    time: of the query.
    tensor: one that holds the row, or all the rows in question once they are gathered.
    index: which row of the tensor it is.
    """

    step: int
    time: float
    tensor: Tensor
    index: int = 0


@dataclass
class History:
    """One row of a request, in one call of its queries. Gates read it, and may keep `notes` in it.

    image: which image of the request.
    branch: of guidance, 0 for the last (conditional) one.
    nodes: what was computed, by tensor, newest last.
    step: of the latest decision, -1 before the first.
    open: whether that decision was to compute.
    skipped: how many steps in a row were not computed, up to now.
    seen: what the gate's indicator is to be compared with.
    notes: of gates, by their names.
    """

    image: int = 0
    branch: int = 0
    nodes: dict[Hashable, list[Node]] = field(default_factory=dict)
    step: int = -1
    open: bool = True
    skipped: int = 0
    seen: Node | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def settle(self, step: int, opens: bool) -> bool:
        """Whether the row is computed; it always is if there is nothing to forecast from.

        step: which this is decided for.
        opens: what the gate says.
        """
        opens = opens or not self.nodes
        if step != self.step:
            self.skipped = 0 if opens else self.skipped + 1
        self.step, self.open = step, opens
        return opens

    def remember(self, key: Hashable, node: Node, reach: int) -> None:
        """Keep the newest `reach` nodes, and of one step only the last.

        key: which tensor it is.
        node: what was computed.
        reach: how many nodes are kept, at least 1.
        """
        kept = self.nodes.setdefault(key, [])
        if kept and kept[-1].step == node.step:
            kept.pop()
        kept.append(node)
        del kept[:-reach]
