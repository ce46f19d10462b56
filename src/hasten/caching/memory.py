"""What a cache remembers: of each row of each request, for each call of a query, what was computed when."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hasten.caching.forecasters import Forecaster
from hasten.caching.gates import Gate
from hasten.caching.history import History, Node
from hasten.caching.requests import Requests
from hasten.core.errors import HastenError
from hasten.runtime.anatomy import batch_of
from hasten.runtime.rows import mapped, pick, picked
from hasten.runtime.run import Row, Run
from hasten.runtime.view import wrap


class RowSplit(NamedTuple):
    """Which of the rows that flow are computed, and which are forecast.

    computed: their positions among the flowing rows.
    forecast: the positions of the others.
    """

    computed: list[int]
    forecast: list[int]

    @property
    def all(self) -> bool:
        """Whether every row is computed."""
        return not self.forecast

    @property
    def none(self) -> bool:
        """Whether no row is computed."""
        return not self.computed


class Memory:
    """Decides for the rows of each network call which are computed, and keeps what the others need.

    A site asks for `split(key)` while the call runs, computes the rows that are to be computed (`compute`
    runs a module on them alone), and hands what came out to `settle`, which remembers it and fills in the
    other rows. A row that has nothing to be forecast from is computed, whatever the gate says.

    Whose rows they are, and what is forgotten when, is said in `requests`.

    run: what the generation is doing.
    gate: which rows are computed.
    forecaster: what stands in for the others.
    name: under which the steps that are skipped are written down in the run of each request.
    """

    def __init__(self, run: Run, gate: Gate, forecaster: Forecaster, name: str = "") -> None:
        self.run, self.gate, self.forecaster, self.name = run, gate, forecaster, name
        self.shape: Any = None  # of the states in the running call, with dtype and device
        self.turn = 0  # number of the running call
        self._requests = Requests(run)
        self._rows: dict[Row, int] = {}
        self._order: list[Row] = []
        self._histories: list[History] = []
        self._open: list[bool] | None = None  # None while a gate with an indicator has not seen anything yet
        self._splits: dict[Any, RowSplit] = {}

    def watch(self, network: nn.Module) -> None:
        """Begin at every call of this network, a view that the site has not been attached to yet."""
        batch = batch_of(network)

        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self._begin(batch(args, kwargs))
            return inner(*args, **kwargs)

        wrap(network, forward)
        if self.gate.indicator is not None:
            self.gate.indicator.attach(network, self)

    # what sites call

    @property
    def flowing(self) -> list[int]:
        """The positions, in the network's batch, of the rows that flow through what runs now."""
        rows = self.run.narrowed_to
        if rows is None or len(rows) == len(self._histories):
            return list(range(len(self._histories)))
        return [self._rows[row] for row in rows]

    @property
    def owners(self) -> list[Row]:
        """Whose the rows that flow are."""
        return [self._order[at] for at in self.flowing]

    def split(self, key: Hashable) -> RowSplit:
        """Which flowing rows of a tensor, or of all tensors of a part of the network, are computed or else forecast.

        key: of the tensor or of the part.

        Raises HastenError if the gate has not yet seen what it decides by.
        """
        if key not in self._splits:
            if self._open is None:
                raise HastenError(
                    f"gate: {type(self.gate).__name__} looks at a part of the network that runs after the site begins; "
                    "let the site begin later, or the gate look earlier"
                )
            flowing = self.flowing
            computed = [i for i, at in enumerate(flowing) if self._open[at] or key not in self._histories[at].nodes]
            chosen = set(computed)
            self._splits[key] = RowSplit(computed, [i for i in range(len(flowing)) if i not in chosen])
        return self._splits[key]

    def compute(self, split: RowSplit, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a forward on the rows that are computed; in what comes out the others are zeros.

        split: which rows those are.
        inner: the forward.
        args: its arguments, with all flowing rows.
        kwargs: its named arguments, with all flowing rows.
        """
        if split.all:
            return inner(*args, **kwargs)
        rows = len(split.computed) + len(split.forecast)
        with self.only(split.computed):
            result = inner(*picked(args, rows, split.computed), **picked(kwargs, rows, split.computed))
        return mapped(result, lambda x: _spread(x, split.computed, rows))

    def only(self, which: Sequence[int]) -> AbstractContextManager[None]:
        """A context in which only some of the flowing rows flow.

        which: their positions among the flowing rows.
        """
        owners = self.owners
        return self.run.narrowed([owners[i] for i in which])

    def revise(self, key: Hashable, tensor: Tensor, which: Sequence[int]) -> None:
        """Remember a tensor for some of the flowing rows as if it had been computed.

        key: of the tensor.
        tensor: all flowing rows.
        which: the positions of those that are remembered.
        """
        self._remember(key, tensor, which)

    def settle(self, key: Hashable, computed: Tensor | None, base: Tensor | None = None) -> Tensor:
        """A tensor for all flowing rows: as computed, which is remembered, or else as forecast.

        The caller does not write into the result.

        key: of the tensor.
        computed: all flowing rows, those that were not computed being anything; None if none were.
        base: what the tensor is an increment on, all flowing rows, for sites that remember increments; else None.
        """
        split = self.split(key)
        if computed is not None:
            self._remember(key, computed if base is None else computed - base, split.computed)
            if split.all:
                return computed
        forecast = self._recall(key, split.forecast)
        if base is not None:
            forecast = pick(base, len(base), split.forecast) + forecast
        if split.none or computed is None:
            return forecast
        return computed.index_copy(0, torch.tensor(split.forecast, device=computed.device), forecast)

    def decide(self, indicator: Tensor) -> None:
        """Decide which rows of the call are computed, by what the gate's indicator sees in the flowing rows.

        Only the first time in a call counts. Rows are measured against what was seen when they were last computed, or
        at the step before for gates that add changes up.

        indicator: what is seen, (rows, ...).
        """
        if self._open is not None or len(indicator) != len(self._histories):
            return
        seen = [history.seen for history in self._histories]
        scores: list[float | None] = [None] * len(seen)
        old = [i for i, node in enumerate(seen) if node is not None]
        if old:
            before = _gather([node for node in seen if node is not None])
            measured = self.gate.measure(pick(indicator, len(indicator), old), before).tolist()
            scores = [measured[old.index(i)] if i in old else None for i in range(len(seen))]
        self._open = self._decided(scores)
        for i, (history, row) in enumerate(zip(self._histories, self._order)):
            if self._open[i] or self.gate.follows:
                history.seen = Node(row.part.step, row.part.time, indicator, i)

    def stretches(self) -> list[tuple[Run, slice]]:
        """The requests whose rows flow, in order, each with the rows that follow one another."""
        parts = [row.part for row in self.owners]
        cuts = [0, *(i for i in range(1, len(parts)) if parts[i] is not parts[i - 1]), len(parts)]
        return [(parts[a], slice(a, b)) for a, b in itertools.pairwise(cuts)]

    # what happens at the beginning of a call

    def _begin(self, x: Tensor) -> None:
        self.turn += 1
        self.shape = (x.shape[1:], x.dtype, x.device)
        self._order, self._histories = self._requests.of(x)
        self._rows = {row: i for i, row in enumerate(self._order)}
        self._splits = {}
        for i, row in enumerate(self._order):
            row.part.shown[row.image] = x[i : i + 1]
        self._open = self._decided([None] * len(x)) if self.gate.indicator is None else None

    def _decided(self, scores: Sequence[float | None]) -> list[bool]:
        """Which rows are computed. All queries of a step share what was decided at its first."""
        mine: dict[Run, list[int]] = {}
        for i, row in enumerate(self._order):
            mine.setdefault(row.part, []).append(i)
        opens = [True] * len(self._histories)
        for part, where in mine.items():
            histories = [self._histories[i] for i in where]
            if all(history.step == part.step and history.nodes for history in histories):
                answers = [history.open for history in histories]
            else:
                answers = self.gate.decide(part, histories, [scores[i] for i in where])
            for i, history, answer in zip(where, histories, answers, strict=True):
                opens[i] = history.settle(part.step, bool(answer))
                if part.number and part.step < part.steps:
                    part.record(self.name, history.image, opens[i])
                    part.act(self.name, not opens[i])
        return opens

    # tensors

    def _remember(self, key: Hashable, tensor: Tensor, which: Sequence[int]) -> None:
        rows, flowing = self._order, self.flowing
        for i in which:
            part, history = rows[flowing[i]].part, self._histories[flowing[i]]
            history.remember(key, Node(part.step, part.time, tensor, i), self.forecaster.reach)

    def _recall(self, key: Hashable, which: Sequence[int]) -> Tensor:
        rows, flowing = self._order, self.flowing
        groups: dict[Any, list[int]] = {}
        for i in which:
            alike = self.forecaster.alike(rows[flowing[i]].part, self._histories[flowing[i]].nodes[key])
            groups.setdefault(alike, []).append(i)
        pieces = []
        for members in groups.values():
            histories = [self._histories[flowing[i]] for i in members]
            lines = zip(*(history.nodes[key] for history in histories))
            nodes = [Node(line[0].step, line[0].time, _gather(line), 0) for line in lines]
            images = [history.image for history in histories]
            pieces.append(self.forecaster.forecast(rows[flowing[members[0]]].part, nodes, images))
        if len(pieces) == 1:
            return pieces[0]
        order = [i for members in groups.values() for i in members]
        back = sorted(range(len(order)), key=order.__getitem__)
        return torch.cat(pieces)[back]


def _gather(nodes: Sequence[Node]) -> Tensor:
    """The rows that the nodes stand for, in order; a view where one tensor holds them one after the other."""
    first = nodes[0]
    if all(node.tensor is first.tensor for node in nodes):
        return pick(first.tensor, len(first.tensor), [node.index for node in nodes])
    return torch.cat([node.tensor[node.index : node.index + 1] for node in nodes])


def _spread(x: Tensor, where: Sequence[int], rows: int) -> Tensor:
    """A tensor of `rows` rows that are those of x at `where`, and zeros elsewhere."""
    if not x.ndim or len(x) != len(where):
        return x
    return x.new_zeros(rows, *x.shape[1:]).index_copy(0, torch.tensor(where, device=x.device), x)
