"""`bench`: other packages at their own best settings, and recipes of hasten, on the same samples in the same run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hasten.core.errors import HastenError
from hasten.evaluate.budget import Budget
from hasten.evaluate.samples import Prompts

if TYPE_CHECKING:
    from hasten.bench.ladders import Scheduler
    from hasten.bench.peers import Peer
    from hasten.bench.race import Race, Racer
    from hasten.bench.result import BenchResult
    from hasten.evaluate.results import Baseline, Finalist
    from hasten.measure import Drift, Estimate

REPEATS = 10  # rounds of the final timing
GOOD = 2  # schedulers of diffusers that methods on the network are tried with, besides the pipeline's own
SCHEDULERS = 0.4  # of the time, at most, for them


def bench(
    pipe: Any,
    against: str | Iterable[str] = ("diffusers", "deepcache", "cache-dit", "pruna"),
    recipes: Mapping[str, Any] | Sequence[Any] = (),
    prompts: Prompts | None = None,
    budget: Budget | str | float = "1.0x",
    minutes: float = 20.0,
    seed: int = 0,
    out: str | Path | None = None,
    *,
    pythons: Mapping[str, str] | Iterable[str] = (),
    samples: tuple[int, int] = (16, 32),
    batch: int = 8,
    finalists: int = 8,
    call: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    command: str | None = None,
) -> BenchResult:
    """Measure the best settings of other packages beside recipes of hasten.

    pipe: a diffusers text-to-image pipeline; it is left as it is. against: names of peers (`hasten.bench.peers`).
    recipes: as in `compare`; none measures the peers alone. minutes: for finding the peers' settings, above 0;
    measuring them again comes on top. pythons: peer -> the interpreter of an environment of its own; a peer
    that has none it can run in is reported in the result's `missing`, with the error. samples: how many images
    to choose settings on and to measure them again with. finalists: at most so many settings of each peer are
    measured again. The rest is as in `tune`.
    Raises HastenError for impossible input, before anything is run.
    """
    from hasten.bench.contest import Contest
    from hasten.bench.peers import chosen
    from hasten.bench.peers import pythons as read
    from hasten.evaluate.samples import SPLITS, choose, known_prompts
    from hasten.search.tuning import _check, _writable, named

    limit, peers, elsewhere = Budget.of(budget), chosen(against), read(pythons)
    given = named(recipes)
    _check(minutes, None, finalists, samples)
    drawn = choose(known_prompts(pipe) if prompts is None else prompts, dict(zip(SPLITS, samples)), seed)
    contest = Contest(pipe, drawn, batch=batch, call=call)
    for finalist in given:
        with contest.running(finalist.recipe):
            pass
    folder = None if out is None else _writable(Path(out))
    names = [[one.name for one in some] for some in (peers, given)]
    typed = command or f"hasten.search.bench(pipe, {names[0]}, {names[1]}, seed={seed})"
    job = _Bench(contest, peers, elsewhere, limit, minutes * 60, finalists, progress)
    with job:
        result = job.run(given, seed, typed)
    if folder is not None:
        result.save(folder)
    return result


class _Bench:
    """One comparison: who takes part, the races, and the measuring again."""

    def __init__(
        self, contest: Any, peers: Sequence[Peer], pythons: Mapping[str, str], budget: Budget, seconds: float,
        finalists: int, progress: bool | None,
    ) -> None:  # fmt: skip
        from hasten.core.console import Display
        from hasten.evaluate.references import Yardstick

        self.contest, self.peers, self.pythons = contest, peers, pythons
        self.budget, self.seconds, self.count = budget, seconds, finalists
        self.display = Display(progress)
        self.yardstick = Yardstick(contest)
        self.missing: dict[str, str] = {}
        self.races: dict[str, Race] = {}
        self.elsewhere: dict[str, str] = {}

    def __enter__(self) -> _Bench:
        self._open = ExitStack()
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def run(self, given: list[Finalist], seed: int, command: str) -> BenchResult:
        from hasten.bench.ladders import ladder
        from hasten.bench.race import Racer, Scout
        from hasten.bench.result import BenchResult
        from hasten.evaluate import facts

        begin = time.monotonic()
        with self.display.stage("default and reference", 2 * len(self.contest.samples["search"])) as advance:
            self.yardstick.default("search", advance)
            self.yardstick.reference("search", advance)
            scout = Scout(self.contest, self.yardstick, self.budget)
        ready = self._gather()
        racer = Racer(scout, self.budget, ladder(self.contest))
        self._race(racer, ready)
        front, base = self._confirm(racer, given)
        found = {
            **facts.gather(self.contest, self.yardstick, seed, command),
            "elsewhere": self.elsewhere,
            "minutes": round((time.monotonic() - begin) / 60, 2),
        }
        return BenchResult(front, base, self.budget, self.races, self.missing, found)

    def _gather(self) -> list[Peer]:
        """The peers that can run, those elsewhere with their process started."""
        ready = []
        for peer in self.peers:
            try:
                self._start(peer)
            except HastenError as error:
                self.missing[peer.name] = _reason(peer.name, error)
            else:
                ready.append(peer)
        return ready

    def _start(self, peer: Peer) -> None:
        import sys

        from hasten.bench.remote import Remote

        if peer.here and peer.name not in self.pythons:
            peer.import_here()
            return
        python = self.pythons.get(peer.name, sys.executable)
        remote = self._open.enter_context(Remote(peer.name, peer.package, python))
        remote.load(self.contest)
        first = self.contest.samples["search"][:2]
        far = remote.differs(self.contest, first, self.yardstick.default("search")[:2])
        versions = ", ".join(f"{name} {version}" for name, version in remote.versions.items())
        self.elsewhere[peer.name] = f"{versions}; its default differs from ours by latent RMSE {far:.2g}"
        self.contest.remotes = {**self.contest.remotes, peer.name: remote}

    def _race(self, racer: Racer, ready: Sequence[Peer]) -> None:
        """Schedulers first: methods on the network are tried with the best of them."""
        from hasten.bench.race import Race

        begin = time.monotonic()
        with self.display.stage("peers", max(1.0, self.seconds)) as advance:
            whose = ["schedulers of diffusers", 0]

            def watch(setting: str) -> None:
                whose[1] += 1  # type: ignore[operator]
                advance(to=time.monotonic() - begin, text=f"{whose[0]}: {whose[1]} settings")

            racer.watch = watch
            shared = Race()
            needed = any(peer.methods is not None for peer in ready)
            good = self._good(racer, shared, begin) if needed else []
            share = (self.seconds - (time.monotonic() - begin)) / max(1, len(ready))
            for number, peer in enumerate(ready):
                whose[:] = [peer.name, 0]
                until = max(time.monotonic(), begin + self.seconds - share * (len(ready) - 1 - number))
                try:
                    self._enter(racer, peer, good, shared, until)
                except HastenError as error:
                    self.missing[peer.name] = _reason(peer.name, error)

    def _good(self, racer: Racer, shared: Race, begin: float) -> list[Scheduler | None]:
        """The schedulers of diffusers whose settings won; `shared` is what was tried for that."""
        from hasten.bench.ladders import schedulers

        until = begin + SCHEDULERS * self.seconds
        ranked = racer.ranked(schedulers(self.contest, "diffusers"), shared, (begin + until) / 2)
        racer.run(ranked, shared, until)
        ordered = [*racer.within(shared), *sorted(shared.trials, key=lambda t: t.score.drift)]
        found: list[Any] = []
        for trial in ordered:
            if trial.recipe.scheduler not in found:  # type: ignore[attr-defined]
                found.append(trial.recipe.scheduler)  # type: ignore[attr-defined]
        return found[:GOOD]

    def _enter(self, racer: Racer, peer: Peer, good: Sequence[Scheduler | None], shared: Race, until: float) -> None:
        from hasten.bench.race import Race

        remote = peer.name in self.contest.remotes
        families = peer.families(self.contest, good, remote)
        race = Race()
        if peer.name == "diffusers" and not remote:
            race = shared
            families = [family for family in families if family.method is not None]  # the others were raced before
        self.races[peer.name] = race
        alone, upon = ([f for f in families if (f.method is None) == plain] for plain in (True, False))
        racer.run([*racer.ranked(alone, race, (time.monotonic() + until) / 2), *upon], race, until)
        if not race.trials:
            del self.races[peer.name]
            why = next(iter(race.refused.values()), "every setting drifts too far on the first samples")
            raise HastenError(why)

    def _confirm(self, racer: Racer, given: list[Finalist]) -> tuple[list[Finalist], Baseline]:
        """The recipes and the best settings of each peer, measured on samples that nothing was chosen on."""
        from hasten.bench.final import Final
        from hasten.evaluate.confirmation import SPLIT, baseline, judged, redraw, speed_ups

        drawn: dict[str, tuple[Finalist, Drift]] = {}
        total = (2 + len(given) + self.count * len(self.races)) * len(self.contest.samples[SPLIT])
        with self.display.stage("measure again on unseen samples", total) as advance:
            base, default = baseline(self.contest, self.yardstick, advance)
            if given:
                drawn |= redraw(self.contest, base, given, advance)
            final = Final(racer, base, default, self.count, advance)
            for name, race in [*self.races.items()]:
                self._guarded(name, lambda name=name, race=race: drawn.update(final(name, race)))
        here = [f for f, _ in drawn.values() if self.contest.remote(f.recipe) is None]
        speeds = speed_ups(self.contest, here, REPEATS, self.display.shown) if here else {}
        front = []
        for name in ["", *self.races]:
            mine = {key: pair for key, pair in drawn.items() if _side(pair[0]) == name}
            self._guarded(name, lambda mine=mine: front.extend(self._judged(base, default, mine, speeds, judged)))
        return sorted(front, key=lambda f: -f.confirmed.speed.value), base  # type: ignore[union-attr]

    def _judged(
        self, base: Baseline, default: Drift, mine: dict[str, Any], speeds: Mapping[str, Estimate], judged: Any
    ) -> list[Finalist]:
        away = {
            key: self.contest.speed_up(f.recipe, REPEATS)
            for key, (f, _) in mine.items()
            if self.contest.remote(f.recipe) is not None
        }
        return judged(self.contest, base, default, mine, {**speeds, **away}, self.budget)

    def _guarded(self, name: str, work: Any) -> None:
        """Do a part of the work for a peer; where it fails the others go on."""
        try:
            work()
        except HastenError as error:
            if not name:
                raise
            self.missing[name] = _reason(name, error)
            self.races.pop(name, None)


def _side(finalist: Finalist) -> str:
    return getattr(finalist.recipe, "peer", "")


def _reason(name: str, error: Exception) -> str:
    return str(error).removeprefix(f"{name}: ")
