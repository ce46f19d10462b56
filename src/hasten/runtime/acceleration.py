"""What an acceleration is: a context manager that changes a pipeline and leaves it, bit for bit, as it was.

Nothing is ever patched on the caller's own objects. While accelerated, the pipeline holds a *view* of its network
(`runtime.view`) and a scheduler that keeps a `Run`, the record of what the generation is doing right now.

A new one is a frozen dataclass of settings with a `name`, a `check` and an `attach`, listed in the registry of its
kind. Its `phase`, which it has from the base class of its kind, decides where it stands among others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, ClassVar, Self

from torch import nn

from hasten.core.errors import HastenError, UnsupportedModel
from hasten.core.fitters import fitters
from hasten.core.registry import Paper
from hasten.runtime.anatomy import needs_batch
from hasten.runtime.host import hosted
from hasten.runtime.run import Run
from hasten.runtime.view import APPLIED


class Phase(IntEnum):
    """The order in which accelerations are applied, outermost first: each sees the network as those before left it.

    Guidance decides which rows there are, caches which parts run, pruning which parts exist, quantization in which
    numbers they compute, and compilation takes what is left.
    """

    GUIDANCE = 1
    CACHE = 2
    PRUNE = 3
    QUANTIZE = 4
    COMPILE = 5


class Acceleration(ABC):
    """A change to how a pipeline runs. Subclasses are frozen dataclasses of settings.

    name: under which it is listed, and known in recipes.
    paper: where it comes from.
    label: what it is called among the ways to execute a network; empty for its name.
    phase: of its kind; set by the base class of the kind.
    after: names of accelerations of the same phase that must be applied before this one if both are.
    conflicts: names of those that cannot be in the same recipe.
    off: settings that change nothing at all.
    tells: whether it tells the run when it changes something, so that a generation in which it did not can be told.
    narrows: whether it lets only some of a call's rows run; pipelines that count on all of them refuse it.
    search_space: what a search tries for each setting (a Span, a sequence, or a registry of parts); {} tries it as
        it is, None leaves the method out.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]
    label: ClassVar[str] = ""
    phase: ClassVar[Phase]
    after: ClassVar[tuple[str, ...]] = ()
    conflicts: ClassVar[tuple[str, ...]] = ()
    off: ClassVar[Mapping[str, Any]] = {}
    tells: ClassVar[bool] = False
    narrows: ClassVar[bool] = False
    search_space: ClassVar[Mapping[str, Any] | None] = None

    @abstractmethod
    def check(self, network: nn.Module) -> None:
        """Raise UnsupportedModel, saying what is missing, if this network cannot be accelerated so."""

    @abstractmethod
    def attach(self, network: nn.Module, run: Run) -> None:
        """Change `network`, a view nobody else holds, so that it is accelerated during `run`."""

    @property
    def needs_fit(self) -> bool:
        """Whether its numbers are still those of no model: `fit` it before it is used."""
        return False

    def fit(self, pipe: Any, samples: Any = None, **call: Any) -> Self:
        """The same with the numbers of this model; the function that finds them is in `hasten.fit`.

        pipe: a diffusers pipeline; left as it was.
        samples: a `runtime.samples.Samples`, or a list of prompts; one image each.
        call: further arguments of the pipeline.
        Raises HastenError where there is nothing to find.
        """
        return fitters(self, pipe, samples, **call)

    @contextmanager
    def applied(self, pipe: Any) -> Iterator[Any]:
        """The pipeline, accelerated; as it was on exit, also after an exception.

        Raises UnsupportedModel, or HastenError if it cannot join what is applied already, before anything
        is changed.
        """
        with hosted(pipe) as host, host.holding(self):
            yield pipe

    def join(self, network: nn.Module, run: Run) -> None:
        """Change a view of a network for good, inside of what has been applied to it.

        Raises UnsupportedModel, or HastenError if it cannot join that, before anything is changed.
        """
        self.admit(network)
        self.attach(network, run)
        network.__dict__[APPLIED] = (*network.__dict__[APPLIED], self)

    def admit(self, network: nn.Module, stage: Any = None) -> None:
        """Raise UnsupportedModel or HastenError if it cannot join what is applied to a network.

        network: a network, or a view of one.
        stage: the `runtime.stages.Stage` whose network it is; None outside of pipelines.
        """
        for other in network.__dict__.get(APPLIED, ()):
            if other.name == self.name:
                raise HastenError(f"{self.name}: is applied to this pipeline already; leave that context first")
            if self.refuses(other) or other.refuses(self):
                raise HastenError(f"{self.name}: cannot work together with {other.name!r}; keep one of them")
            if other.waits_for(self):
                raise HastenError(f"{self.name}: must be applied before {other.name!r}; swap the two")
        if stage is not None:
            stage.check(self.phase.name.lower())
        if self.phase < Phase.COMPILE:  # compilation asks nothing of rows
            needs_batch(network)
        if self.narrows and stage is not None and stage.needs_all_rows:
            raise UnsupportedModel(
                f"{self.name}: {type(stage.pipe).__name__} needs every branch of guidance in each call of its network, "
                "and this method leaves some out; use another"
            )
        self.check(network)

    def refuses(self, other: Acceleration) -> bool:
        """Whether it cannot be in one recipe with the other; asked both ways round."""
        return other.name in self.conflicts

    def waits_for(self, other: Acceleration) -> bool:
        """Whether the other must be applied before (outside of) this one."""
        return other.phase < self.phase or other.name in self.after


def ordered(accelerations: Sequence[Acceleration]) -> list[Acceleration]:
    """The order in which to apply accelerations; those that may stand either way keep theirs.

    Raises HastenError for pairs that cannot work together, and for one that is there twice.
    """
    for i, one in enumerate(accelerations):
        for other in accelerations[:i]:
            if one.name == other.name:
                raise HastenError(f"recipe: {one.name!r} is there twice; keep one of them")
            if one.refuses(other) or other.refuses(one):
                raise HastenError(f"recipe: {one.name!r} and {other.name!r} cannot work together; keep one of them")
    rest, result = list(accelerations), []
    while rest:
        ready = next((a for a in rest if not any(a.waits_for(b) for b in rest if b is not a)), None)
        if ready is None:
            names = sorted(a.name for a in rest)
            raise HastenError(f"recipe: {', '.join(names)} each want to come first; keep one of them")
        result.append(ready)
        rest.remove(ready)
    return result
