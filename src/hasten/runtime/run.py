"""What a generation is doing right now, and what it did just before: the record that accelerations read."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from hasten.core.errors import HastenError
from hasten.predictions import Prediction, Reading
from hasten.processes import Process
from hasten.runtime.seeds import Seeds
from hasten.solvers import Query

SURE = 0.01  # share of the way between two branches within which the pipeline is taken to be at one of them
PAST = 4  # for how many steps answers are kept


@dataclass(frozen=True)
class Answer:
    """A query that has been answered.

    step: of the query.
    stage: of the query.
    time: of the query.
    prediction: the guided one that the solver was handed, one row an image, without the branches of guidance. Its x is
        the state in the network's own process (Euler-like schedulers of diffusers, which keep theirs divided by alpha,
        are converted).
    """

    step: int
    stage: int
    time: float
    prediction: Prediction


class Row(NamedTuple):
    """Whose row of a network batch it is.

    With n images, places 0 .. n - 1 are the last branch of guidance (in pipelines the conditional one), the next n the
    branch before it: a batch that shrinks to its last branch keeps its places.

    part: the request.
    place: where in the request it is, counted from the end.
    """

    part: Run
    place: int

    @property
    def branch(self) -> int:
        """Which branch of guidance: 0 is the conditional one, as while the number of images is unknown."""
        branch = self.place // self.part.images if self.part.images else 0
        return 1 - branch if self.part.flipped else branch

    @property
    def conditional(self) -> Row:
        """The row of the same image in the conditional branch."""
        images = self.part.images or 1
        return Row(self.part, self.place % images + (images if self.part.flipped else 0))

    @property
    def image(self) -> int:
        """Which image of the request."""
        images = self.part.images
        return images - 1 - self.place % images if images else self.place


@dataclass(eq=False)
class Run:
    """What a generation is doing right now. The scheduler writes it, accelerations read it.

    A network call may hold rows of several requests, each at a step of its own (`sample_many`): they are the `parts`,
    and the run itself only holds them together. Whatever depends on the step must read `part.step` of the rows it
    decides for (see `rows`), never `run.step`.

    process: of the scheduler.
    reading: what the network's output means; None if unknown.
    number: which generation this is; everything remembered from another number is stale.
    step: of the query being answered, from 0 at the first executed step.
    steps: how many there are.
    stage: of the query being answered, see `Query`.
    time: of the query being answered.
    times: of the steps, where each asks the network once at a time that is known beforehand; else empty.
    call: how many times the network has been called for this query (guidance in two calls makes two).
    images: rows of the state, without the branches of guidance; None until known.
    expected: how many images a generation will have, where whoever starts it says so.
    past: the answers of the last `PAST` steps, oldest first.
    edits: what accelerations do to the states that the network is about to be asked for, one row an image, at all
        queries but the first; the solver goes on from what they return. States are those of an `Answer`.
    shown: what the network is shown in the running call, by image, (1, ...) each; written by caches.
    notes: what gates and forecasters keep of this generation.
    conditional_last: whether a batch of two branches of guidance ends with the conditional one; None until known.
    needs_all_rows: whether the pipeline counts on all branches being there in each call of the network.
    context: what the pipeline says that its calls of the network are for just now ("cond", "uncond", ...), if it does.
    seeds: the generators that the pipeline was given, if a list.
    acted: by name of an acceleration that tells, whether it has changed anything in this generation.
    """

    process: Process = field(repr=False)
    reading: Reading | None = field(default=None, repr=False)
    number: int = 0
    step: int = 0
    steps: int = 0
    stage: int = 0
    time: float = 0.0
    times: tuple[float, ...] = ()
    call: int = 0
    images: int | None = None
    expected: int | None = None
    past: list[Answer] = field(default_factory=list, repr=False)
    edits: list[Callable[[Run, Tensor], Tensor]] = field(default_factory=list, repr=False)
    shown: dict[int, Tensor] = field(default_factory=dict, repr=False)
    notes: dict[Hashable, Any] = field(default_factory=dict, repr=False)
    conditional_last: bool | None = True
    needs_all_rows: bool = False
    context: str | None = None
    acted: dict[str, bool] = field(default_factory=dict, repr=False)
    seeds: Seeds | None = field(default=None, repr=False)
    _asked: list[int] = field(default_factory=list, repr=False)  # rows of the calls for this query
    _branches: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    _paths: dict[str, dict[int, dict[int, bool]]] = field(default_factory=dict, repr=False)
    _parts: tuple[Run, ...] = field(default=(), repr=False)
    _narrowed: list[Row] | None = field(default=None, repr=False)

    def begin(self, steps: int) -> None:
        """A new generation of `steps` steps starts."""
        self.number += 1
        self.steps, self.times, self.images, self.expected = steps, (), self.expected, None
        for kept in (self.past, self.shown, self.notes, self.acted, self._paths):
            kept.clear()
        self.ask(0, self.process.t_max)

    def expect(self, images: int) -> None:
        """The generation that is about to begin, or has just begun, has this many images."""
        self.count(images, exact=True)
        self.expected = images

    def count(self, images: int, exact: bool = False) -> None:
        """The scheduler steps this many images. Raises HastenError unless each draws from a generator of its own."""
        if self.seeds is not None:
            self.seeds.check(images, exact)
        self.images = images

    def ask(self, step: int, time: float, stage: int = 0) -> None:
        """The network is asked.

        step: of the query.
        time: of the query.
        stage: of the query, see `Query`.
        """
        self.step, self.time, self.stage, self.call = step, float(time), stage, 0
        self._asked.clear()
        if step:
            self.expected = None  # what was said of this generation does not hold for the next

    def follow(self, query: Query) -> None:
        """The network is asked this query."""
        self.steps = query.steps
        self.ask(query.step, query.t, query.stage)

    def answer(self, prediction: Prediction) -> None:
        """The query has been answered so, guidance included."""
        self.past = [old for old in self.past if old.step > self.step - PAST]
        self.past.append(Answer(self.step, self.stage, self.time, prediction))
        if self._branches is not None:
            self._learn_order(prediction.output)

    def edited(self, part: Run, x: Tensor) -> Tensor:
        """A state as the edits leave it.

        part: the request, at its query.
        x: its state, (images, ...).
        """
        for edit in self.edits if part.past else ():
            x = edit(part, x)
        return x

    def record(self, cache: str, image: int, computed: bool) -> None:
        """Note whether a cache had something computed for an image at this step.

        cache: its name.
        image: which image.
        computed: whether anything was.
        """
        steps = self._paths.setdefault(cache, {}).setdefault(image, {})
        steps[self.step] = steps.get(self.step, False) or computed

    def skipped(self, cache: str) -> list[list[int]]:
        """For each image of this generation (or the last one), the steps at which the cache had nothing computed.

        cache: its `name`. A generation in which it was not applied has no images.
        """
        paths = self._paths.get(cache, {})
        return [[step for step, computed in paths[image].items() if not computed] for image in sorted(paths)]

    @property
    def parts(self) -> tuple[Run, ...]:
        """The requests whose rows the network call holds, in order; a pipeline's batch is one request."""
        return self._parts or (self,)

    @contextmanager
    def holding(self, parts: Sequence[Run]) -> Iterator[None]:
        """Meanwhile, network calls hold rows of these requests, each with its `images` known."""
        before = self._parts, self.images
        self._parts, self.images = tuple(parts), sum(part.images or 0 for part in parts)
        try:
            yield
        finally:
            self._parts, self.images = before

    def asked(self, rows: int) -> None:
        """The network is called with a batch of so many rows."""
        self._asked[self.call :] = [rows]

    def called(self) -> None:
        """The network has been called for the query (once more)."""
        for part in self.parts:
            part.call += 1

    def branches(self, rows: int) -> int:
        """How many branches of guidance a network batch of `rows` rows holds; 1 while that is unknown."""
        return rows // self.images if self.images and rows % self.images == 0 else 1

    @property
    def flipped(self) -> bool:
        """Whether the running call holds two branches, the conditional one first."""
        return self.conditional_last is False and bool(self._asked) and self._asked[-1] == 2 * (self.images or 0)

    def alone(self, count: int) -> int | None:
        """Which branch of guidance the running call is, of `count` rows: 0 is the conditional one.

        Pipelines that call the network for each branch begin with the conditional one, or say which it is.
        None for calls that hold several branches, or something else than a branch.
        """
        if len(self.parts) > 1 or count != self.images or self._narrowed is not None:
            return None
        if self.context is not None:
            return {"cond": 0, "uncond": 1}.get(self.context)
        return self.call if self.call < 2 and all(rows == count for rows in self._asked[: self.call]) else None

    def guided(self, first: Tensor, last: Tensor) -> None:
        """What the network has answered for the first and for the last branch, where the order is not known yet."""
        self._branches = (first, last)

    def _learn_order(self, output: Tensor) -> None:
        """See from what the pipeline made of two branches which one it moves towards: the conditional one."""
        (first, last), self._branches = self._branches or (output, output), None
        if first.shape == output.shape:
            apart = (last - first).double()
            along = float(((output - first).double() * apart).sum() / apart.square().sum().clamp(min=1e-30))
            if not SURE < along < 1 - SURE:  # in between, either may be the one that a scale below 1 moves towards
                self.conditional_last = along > 0.5

    def act(self, name: str, changed: bool = True) -> None:
        """The acceleration of this name has changed something, or might have and did not."""
        for part in self.parts:
            part.acted[name] = part.acted.get(name, False) or changed

    def rows(self, count: int) -> list[Row] | None:
        """Whose the rows of a network batch are, branch by branch, in each the parts in order.

        None if that cannot be told: several requests, and a number of rows that is not a multiple of theirs.
        """
        if self._narrowed is not None:
            return self._narrowed if len(self._narrowed) == count else None
        parts = self.parts
        if len(parts) == 1:
            beyond = count * (self.alone(count) or 0)
            return [Row(parts[0], beyond + place) for place in range(count - 1, -1, -1)]
        images = [part.images or 0 for part in parts]
        if not sum(images) or count % sum(images):
            return None
        return [
            Row(part, branch * own + image)
            for branch in range(count // sum(images) - 1, -1, -1)
            for part, own in zip(parts, images)
            for image in range(own - 1, -1, -1)
        ]

    @property
    def narrowed_to(self) -> list[Row] | None:
        """The only rows that flow, or None if all do."""
        return self._narrowed

    @contextmanager
    def narrowed(self, rows: list[Row]) -> Iterator[None]:
        """Meanwhile, only these rows flow through the network, or through the part of it that runs."""
        if self.needs_all_rows and len(rows) < self._asked[-1]:
            raise HastenError(
                "rows: this pipeline needs all rows in each call of its network; use a cache that decides for all alike"
            )
        before, self._narrowed = self._narrowed, rows
        try:
            yield
        finally:
            self._narrowed = before
