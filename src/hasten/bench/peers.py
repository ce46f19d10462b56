"""Other packages that make pipelines faster, each with a fair set of settings, and how they are run and raced."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hasten.bench import ladders
from hasten.bench.ladders import Ladder, Scheduler
from hasten.core.errors import HastenError
from hasten.evaluate.problem import Problem


@dataclass(frozen=True)
class Peer:
    """A package to be measured against.

    name: what it is called.
    package: what is imported.
    schedulers: makes the ladders of its own schedulers; None if it has none.
    methods: makes what it puts on a network, to be tried with good schedulers of diffusers; None if it has nothing.
    here: whether it can run in hasten's process.
    elsewhere: whether it can run in another Python.
    """

    name: str
    package: str
    schedulers: Callable[[Problem, str], list[Ladder]] | None = None
    methods: Callable[[Problem], list[dict[str, Any]]] | None = None
    here: bool = True
    elsewhere: bool = True

    def ladders(self, problem: Problem, good: Sequence[Scheduler | None], remote: bool) -> list[Ladder]:
        """Everything it is tried with.

        problem: whose pipeline.
        good: schedulers of diffusers that its methods are tried with.
        remote: whether it runs in another Python.

        Raises HastenError if it has nothing for this model.
        """
        some = [] if self.schedulers is None else self.schedulers(problem, self.name)
        if self.methods is not None and not (remote and self.schedulers):
            some += ladders.upon(self.name, self.methods(problem), good, in_turn=remote)
        if not some:
            raise HastenError(f"{self.name}: has nothing for {type(problem.pipe).__name__}")
        return some

    def import_here(self) -> None:
        """Import it.

        Raises HastenError, with the reason, if it cannot be imported.
        """
        try:
            importlib.import_module(self.package)
        except Exception as error:  # a broken installation raises anything
            raise HastenError(f"{self.name}: {type(error).__name__}: {' '.join(str(error).split())}") from None


PEERS = {
    peer.name: peer
    for peer in (
        Peer("diffusers", "diffusers", ladders.schedulers, ladders.diffusers_caches),
        Peer("deepcache", "DeepCache", methods=ladders.deepcaches),
        Peer("cache-dit", "cache_dit", methods=ladders.dbcaches, elsewhere=False),
        Peer("pruna", "pruna", methods=ladders.smashes, here=False),
        Peer("skrample", "skrample", ladders.skramples, here=False),
    )
}
DEFAULT = ("diffusers", "deepcache", "cache-dit", "pruna")


def chosen(against: str | Iterable[str]) -> list[Peer]:
    """The peers that are asked for.

    against: their names, as a list or a text with commas.

    Raises HastenError for a name nobody knows.
    """
    names = against.split(",") if isinstance(against, str) else against
    named = list(dict.fromkeys(name.strip() for name in names if name.strip()))
    for name in named:
        if name not in PEERS:
            raise HastenError(f"against: {name!r} is not known; choose some of: {', '.join(PEERS)}")
    if not named:
        raise HastenError(f"against: there is nobody; choose some of: {', '.join(PEERS)}")
    return [PEERS[name] for name in named]


def pythons(given: Mapping[str, str] | Iterable[str]) -> dict[str, str]:
    """Peer -> the Python that it runs under, from a mapping or texts like "pruna=/path/to/bin/python".

    Raises HastenError for another form, an unknown peer, or one that only runs in hasten's own process.
    """
    pairs = given.items() if isinstance(given, Mapping) else (text.partition("=")[::2] for text in given)
    paths = {name.strip(): path.strip() for name, path in pairs}
    for name, path in paths.items():
        if name not in PEERS or not path:
            raise HastenError(
                f"python: {f'{name}={path}'!r} is not understood; give PEER=/path/to/bin/python, "
                f"where PEER is one of: {', '.join(PEERS)}"
            )
        if not PEERS[name].elsewhere:
            raise HastenError(f"python: {name} runs in hasten's own process only; leave it out")
    return paths
