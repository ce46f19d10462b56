"""`bench`: other packages at their own best settings, and recipes of hasten, on the same samples in the same run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hasten.bench.contest import Contest
from hasten.bench.final import Final
from hasten.bench.ladders import Scheduler, schedulers, step_numbers
from hasten.bench.outcome import OURS, Entry
from hasten.bench.peers import Peer, chosen
from hasten.bench.peers import pythons as interpreters
from hasten.bench.race import Race, Racer
from hasten.bench.remote import Remote
from hasten.bench.result import BenchResult
from hasten.bench.scout import Scout
from hasten.bench.setting import Setting
from hasten.core.console import Display
from hasten.core.errors import HastenError
from hasten.evaluate import facts
from hasten.evaluate.budget import Budget
from hasten.evaluate.confirmation import SPLIT, baseline, judged, redraw, speed_ups
from hasten.evaluate.inputs import candidates, check_numbers, writable
from hasten.evaluate.references import References
from hasten.evaluate.results import Baseline, Candidate, Drawn
from hasten.evaluate.samples import SPLITS, Prompts, choose, known_prompts
from hasten.measure import Drift, Estimate
from hasten.recipe import Recipe

REPEATS = 10  # rounds of the final timing
GOOD = 2  # schedulers of diffusers that methods on the network are tried with, besides the pipeline's own
SCHEDULERS = 0.4  # of the time, at most, for them
SAME = 2  # samples on which a peer elsewhere must draw the same default


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

    pipe: a diffusers text-to-image pipeline; it is left as it is.
    against: names of peers (`hasten.bench.peers`), as a list or a text with commas.
    recipes: as in `compare`; none measures the peers alone.
    prompts: a list, which is divided, or {"search": [...], "confirm": [...]}; the model's own captions or everyday
        prompts if None.
    budget: see `Budget.of`.
    minutes: for finding the peers' settings, above 0; measuring them again comes on top.
    seed: of the samples.
    out: a folder for bench.json, bench.md and bench.png; nothing is written if None.
    pythons: peer -> the interpreter of an environment of its own. A peer that cannot run is reported in the result's
        `missing`, with the error.
    samples: how many images to choose settings on and to measure them again with, at least 2 each.
    batch: how many run at once, at least 1.
    finalists: how many settings of each peer are measured again, at most.
    call: what every call of the pipeline gets besides; num_inference_steps=... makes another default.
    progress: whether bars are shown; None shows them where stderr is a terminal.
    command: what the page says was typed.

    Raises HastenError for impossible input, before anything is run.
    """
    limit, peers, elsewhere = Budget.of(budget), chosen(against), interpreters(pythons)
    given = candidates(recipes)
    check_numbers(samples, minutes, finalists=finalists)
    drawn = choose(known_prompts(pipe) if prompts is None else prompts, dict(zip(SPLITS, samples)), seed)
    contest = Contest(pipe, drawn, batch=batch, call=call)
    for candidate in given:
        with contest.running(candidate.way):
            pass
    folder = writable(out)
    names = [[one.name for one in some] for some in (peers, given)]
    typed = command or f"hasten.bench.bench(pipe, {names[0]}, {names[1]}, seed={seed})"
    with Bench(contest, peers, elsewhere, limit, minutes * 60, finalists, Display(progress)) as job:
        result = job.run(given, seed, typed)
    if folder is not None:
        result.save(folder)
    return result


class Bench:
    """The stages of one comparison: who takes part, the races, and the measuring again. Use it as a context.

    contest: in which the peers take part.
    peers: that were asked for.
    pythons: peer -> the interpreter of an environment of its own.
    budget: to be kept.
    seconds: for the races, above 0.
    count: how many settings of each peer are measured again, at most.
    display: shows the progress.
    """

    def __init__(
        self, contest: Contest, peers: Sequence[Peer], pythons: Mapping[str, str], budget: Budget, seconds: float,
        count: int, display: Display,
    ) -> None:  # fmt: skip
        self.contest, self.peers, self.pythons = contest, peers, pythons
        self.budget, self.seconds, self.count, self.display = budget, seconds, count, display
        self.references = References(contest)
        self.missing: dict[str, str] = {}
        self.races: dict[str, Race] = {}
        self.elsewhere: dict[str, str] = {}
        self._processes = ExitStack()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exception: object) -> None:
        self._processes.close()

    def run(self, given: Sequence[Candidate[Recipe]], seed: int, command: str) -> BenchResult:
        """All stages.

        given: recipes of hasten.
        seed: of the samples.
        command: what the page says was typed.
        """
        begin = time.monotonic()
        with self.display.stage("default and reference", 2 * len(self.contest.samples["search"])) as advance:
            self.references.default("search", advance)
            self.references.reference("search", advance)
            scout = Scout(self.contest, self.references, self.budget)
        ready = self._gather()
        racer = Racer(scout, self.budget, step_numbers(self.contest))
        self._race(racer, ready)
        front, base = self._measure(racer, given)
        told = {
            **facts.gather(self.contest, self.references, seed, command),
            "elsewhere": self.elsewhere,
            "minutes": round((time.monotonic() - begin) / 60, 2),
        }
        return BenchResult(front, base, self.budget, self.races, self.missing, told)

    # Who takes part

    def _gather(self) -> list[Peer]:
        """The peers that can run, those elsewhere with their process started."""
        return [peer for peer in self.peers if self._guarded(peer.name, lambda peer=peer: self._start(peer))]

    def _start(self, peer: Peer) -> None:
        """Import a peer here, or start its process and see that it draws the same default."""
        if peer.here and peer.name not in self.pythons:
            peer.import_here()
            return
        python = self.pythons.get(peer.name, sys.executable)
        remote = self._processes.enter_context(Remote(peer.name, peer.package, python))
        remote.load(self.contest)
        first = self.contest.samples["search"][:SAME]
        far = remote.differs(self.contest, first, self.references.default("search")[:SAME])
        versions = ", ".join(f"{name} {version}" for name, version in remote.versions.items())
        self.elsewhere[peer.name] = f"{versions}; its default differs from ours by latent RMSE {far:.2g}"
        self.contest.remotes = {**self.contest.remotes, peer.name: remote}

    # The races

    def _race(self, racer: Racer, ready: Sequence[Peer]) -> None:
        """Schedulers first: methods on the network are tried with the best of them."""
        begin = time.monotonic()
        with self.display.stage("peers", max(1.0, self.seconds)) as advance:
            whose, count = "schedulers of diffusers", 0

            def watch(setting: str) -> None:
                nonlocal count
                count += 1
                advance(to=time.monotonic() - begin, text=f"{whose}: {count} settings")

            racer.watch = watch
            shared = Race()
            needed = any(peer.methods is not None for peer in ready)
            good = self._good(racer, shared, begin) if needed else []
            share = (self.seconds - (time.monotonic() - begin)) / max(1, len(ready))
            for number, peer in enumerate(ready):
                whose, count = peer.name, 0
                until = max(time.monotonic(), begin + self.seconds - share * (len(ready) - 1 - number))
                self._guarded(peer.name, lambda peer=peer, until=until: self._enter(racer, peer, good, shared, until))

    def _good(self, racer: Racer, shared: Race, begin: float) -> list[Scheduler | None]:
        """The schedulers of diffusers whose settings won; `shared` is what was tried for that."""
        until = begin + SCHEDULERS * self.seconds
        ranked = racer.ranked(schedulers(self.contest, "diffusers"), shared, (begin + until) / 2)
        racer.run(ranked, shared, until)
        good: list[Scheduler | None] = []
        for trial in [*racer.within(shared), *sorted(shared.trials, key=lambda t: t.score.drift)]:
            if trial.way.scheduler not in good:
                good.append(trial.way.scheduler)
        return good[:GOOD]

    def _enter(self, racer: Racer, peer: Peer, good: Sequence[Scheduler | None], shared: Race, until: float) -> None:
        """One peer's race. Raises HastenError if none of its settings could be scored."""
        remote = peer.name in self.contest.remotes
        ladders = peer.ladders(self.contest, good, remote)
        race = Race()
        if peer.name == "diffusers" and not remote:
            race = shared
            ladders = [ladder for ladder in ladders if ladder.method is not None]  # the others were raced before
        self.races[peer.name] = race
        alone, upon = ([one for one in ladders if (one.method is None) == plain] for plain in (True, False))
        racer.run([*racer.ranked(alone, race, (time.monotonic() + until) / 2), *upon], race, until)
        if not race.trials:
            raise HastenError(next(iter(race.refused.values()), "every setting drifts too far on the first samples"))

    # Measuring again

    def _measure(self, racer: Racer, given: Sequence[Candidate[Recipe]]) -> tuple[list[Entry], Baseline]:
        """The recipes and the best settings of each peer, measured on samples that nothing was chosen on."""
        drawn: dict[str, dict[str, Drawn[Recipe | Setting]]] = {}
        total = (2 + len(given) + self.count * len(self.races)) * len(self.contest.samples[SPLIT])
        with self.display.stage("measure again on unseen samples", total) as advance:
            base, default = baseline(self.contest, self.references, advance)
            drawn[OURS] = {**redraw(self.contest, base, given, advance)} if given else {}
            final = Final(racer, base, default, self.count, advance)
            for name, race in [*self.races.items()]:
                self._guarded(name, lambda name=name, race=race: drawn.update({name: {**final(name, race)}}))
        here = [one.candidate for some in drawn.values() for one in some.values() if not self._away(one)]
        speeds = speed_ups(self.contest, here, REPEATS, self.display.shown) if here else {}
        front = self._judged(base, default, drawn.pop(OURS), speeds)
        for name, some in drawn.items():
            self._guarded(name, lambda some=some: front.extend(self._judged(base, default, some, speeds)))
        return sorted(front, key=lambda entry: -entry.confirmed.speed.value), base

    def _judged(
        self, base: Baseline, default: Drift, drawn: Mapping[str, Drawn[Recipe | Setting]],
        speeds: Mapping[str, Estimate],
    ) -> list[Entry]:  # fmt: skip
        """The entries of one side; those that run elsewhere are timed there."""
        away = {
            name: self.contest.speed_up(one.candidate.way, REPEATS)
            for name, one in drawn.items()
            if isinstance(one.candidate.way, Setting) and self._away(one)
        }
        return judged(self.contest, base, default, drawn, {**speeds, **away}, self.budget)

    def _away(self, drawn: Drawn[Recipe | Setting]) -> bool:
        return self.contest.remote(drawn.candidate.way) is not None

    def _guarded(self, name: str, work: Callable[[], None]) -> bool:
        """Do a part of the work for a peer; where it fails the peer is missing, and the others go on."""
        try:
            work()
        except HastenError as error:
            self.missing[name] = str(error).removeprefix(f"{name}: ")
            self.races.pop(name, None)
            return False
        return True
