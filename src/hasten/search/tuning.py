"""`tune` and `compare`: from a pipeline to a recipe with proof, step by step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hasten.core.errors import HastenError, positive_int
from hasten.evaluate.budget import Budget
from hasten.evaluate.samples import Prompts, loadable
from hasten.search.workers import Starter, helped, starter

if TYPE_CHECKING:
    from hasten.core.console import Display
    from hasten.evaluate.problem import Problem
    from hasten.evaluate.references import Yardstick
    from hasten.evaluate.results import Finalist, TuneResult
    from hasten.search.judge import Judge
    from hasten.search.study import Search, Trial

REPEATS = 10  # rounds of the final timing
PARTS_REPEATS = 5  # and of the timing of its ingredients and parts
LEAST_SHARE = 1 / 3  # of the time that goes to the search even where the rest takes longer than planned
COMPILING = 8 * 60  # seconds from which a search is long enough to compile the network for
RUNNING = (0.05, 0.25)  # shares of the time to try ways to run the network's code, without and with compiling


def tune(
    pipe: Any,
    prompts: Prompts | None = None,
    budget: Budget | str | float = "1.0x",
    minutes: float = 5.0,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    *,
    trials: int | None = None,
    samples: tuple[int, int] = (16, 32),
    batch: int = 8,
    finalists: int = 5,
    call: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    command: str | None = None,
    workers: int = 1,
    cluster: str | None = None,
) -> TuneResult:
    """Find the fastest recipe whose results stay within a budget, and measure it again on unseen samples.

    pipe: a diffusers text-to-image pipeline; it is left as it is. prompts: a list, which is divided, or
    {"search": [...], "confirm": [...]}; the model's own captions or everyday prompts if None. budget: see
    `Budget.of`. minutes: for everything, above 0; the search gets at least a third of them and tries at least
    three recipes, so a slow model takes longer. seed: of the search and of the samples. out: a folder for
    recipe.json, front.json, report.html, report.md and the search itself; nothing is written if None. resume: go
    on with the search in `out`.
    trials: at most so many proposals in all. samples: how many images to search and to confirm with. batch: how
    many run at once; solvers are fitted on twice as many, in one batch. finalists: how many recipes are confirmed,
    and up to two that are made of them with more steps.
    call: what every call of the pipeline gets besides (height=..., num_inference_steps=... for another default).
    progress: bars; None is where stderr is a terminal. command: what the report says was typed. workers: processes
    that search side by side, with the cores shared out; more than one needs `out` and a pipeline that was loaded from
    a name or folder. cluster: "local" or the address of a Ray cluster that sees `out`, for all workers but this one.

    Ctrl-C ends the search and goes on to confirm what it found; a second one ends that too, and what is finished
    stays in `out`. Raises HastenError for impossible input, before anything is run.
    """
    from hasten.evaluate.problem import Problem
    from hasten.evaluate.samples import SPLITS, choose, known_prompts, to_fit
    from hasten.search.fitter import SPLIT

    limit = Budget.of(budget)
    _check(minutes, trials, finalists, samples)
    chosen = choose(known_prompts(pipe) if prompts is None else prompts, dict(zip(SPLITS, samples)), seed)
    chosen[SPLIT] = to_fit(chosen["search"], 2 * batch)
    problem = Problem(pipe, chosen, batch=batch, call=call)
    folder = None if out is None else _writable(Path(out))
    typed = command or f'hasten.tune(pipe, budget="{limit}", minutes={minutes:g}, seed={seed})'
    start = _starter(workers, cluster, folder, pipe)
    job = _Job(
        problem, limit, minutes * 60, seed, folder, resume, trials, finalists, progress, typed, workers - 1, start
    )
    return job.run()


def compare(
    pipe: Any,
    recipes: Mapping[str, Any] | Sequence[Any],
    prompts: Prompts | None = None,
    budget: Budget | str | float = "1.0x",
    seed: int = 0,
    out: str | Path | None = None,
    *,
    samples: int = 32,
    batch: int = 8,
    call: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    command: str | None = None,
) -> TuneResult:
    """Measure given recipes against the default as `tune` measures its finalists, with the same report.

    recipes: by name, or a list (then they are called A, B, ...); each a Recipe, mapping, path or JSON text. The
    rest is as in `tune`. Raises HastenError for a recipe that is wrong or does not suit the model, before
    anything is run.
    """
    from hasten.core.console import Display
    from hasten.evaluate import facts
    from hasten.evaluate.problem import Problem
    from hasten.evaluate.references import Yardstick
    from hasten.evaluate.samples import choose, known_prompts

    limit = Budget.of(budget)
    given = named(recipes)
    if not given:
        raise HastenError("recipes: there are none; give at least one")
    _check(1.0, None, 1, (2, samples))
    chosen = choose(known_prompts(pipe) if prompts is None else prompts, {"confirm": samples}, seed)
    problem = Problem(pipe, chosen, batch=batch, call=call)
    for finalist in given:
        with problem.running(finalist.recipe):
            pass
    folder = None if out is None else _writable(Path(out))
    yardstick = Yardstick(problem)
    typed = command or f"hasten.search.compare(pipe, {[one.name for one in given]}, seed={seed})"
    result = _confirmed(problem, yardstick, given, limit, Display(progress))
    result.facts = facts.gather(problem, yardstick, seed, typed)
    if folder is not None:
        result.save(folder)
    return result


class _Job:
    """One tuning, in its stages: yardstick, search, confirmation; each saves what it finished."""

    def __init__(
        self, problem: Problem, budget: Budget, seconds: float, seed: int, folder: Path | None, resume: bool,
        trials: int | None, finalists: int, progress: bool | None, command: str, helpers: int, start: Starter,
    ) -> None:  # fmt: skip
        from hasten.core.console import Display
        from hasten.evaluate.references import YARDSTICK, Yardstick
        from hasten.search.space import Space
        from hasten.search.study import Search

        self.started = time.monotonic()
        self.problem, self.budget, self.seconds, self.seed = problem, budget, seconds, seed
        self.folder, self.most, self.count, self.command = folder, trials, finalists, command
        self.helpers, self.start, self.failures = helpers, start, list[str]()
        self.display: Display = Display(progress)
        self.space = Space.of(problem)
        self.yardstick = Yardstick(problem, None if folder is None else folder / YARDSTICK)
        self.search: Search = Search(self.space, budget, seed, folder, resume)

    def run(self) -> TuneResult:
        from hasten.evaluate import facts
        from hasten.evaluate.results import Finalist
        from hasten.search.study import finalists

        judge = self._judge()
        complete = self._search(judge) and self._refine(judge)
        found = self.search.trials
        if not found:
            raise KeyboardInterrupt
        best = finalists(found, self.budget, judge.default, judge.margin, self.count)
        chosen = [Finalist(_letter(i), trial.recipe, trial.score) for i, trial in enumerate(best)]
        slower = self._slower(judge, {finalist.name: trial for finalist, trial in zip(chosen, best)})
        result = _confirmed(self.problem, self.yardstick, chosen, self.budget, self.display, slower)
        result.trials = found
        result.facts = {
            **facts.gather(self.problem, self.yardstick, self.seed, self.command),
            **facts.searched(self.search, self.space, judge, complete),
            "workers": self.helpers + 1,
            "failures": self.failures,
            "minutes": round((time.monotonic() - self.started) / 60, 2),
        }
        if self.folder is not None:
            result.save(self.folder)
        return result

    def _judge(self) -> Judge:
        """Default and reference on the search samples, the clock, and the trajectory that solvers are fitted to."""
        from hasten.search.judge import Judge

        with self.display.stage("default and reference", 2 * len(self.problem.samples["search"])) as advance:
            self.yardstick.default("search", advance)
            self.yardstick.reference("search", advance)
            judge = Judge(self.problem, self.yardstick, self.budget)
        with self.display.stage("a trajectory to fit solvers to", 1) as advance:
            judge.fitted.trajectory  # noqa: B018 (before any helper wants it)
            advance(1)
        return judge

    def _search(self, judge: Judge) -> bool:
        """Search until what is left of the time is needed to confirm; False if Ctrl-C ended it."""
        begin = time.monotonic()
        until = max(self.started + self.seconds - self._reserve(judge), begin + LEAST_SHARE * self.seconds)
        with self.display.stage("search", max(1.0, until - begin)) as advance:

            def watch(trials: list[Any]) -> None:
                advance(to=time.monotonic() - begin, text=f"search: {len(trials)} recipes{self._best(judge, trials)}")
                self._save_front(trials)

            if not self.helpers:
                return self.search.run(judge, until, self.most, watch)
            assert self.folder is not None
            with helped(
                self.problem, str(self.budget), self.seed, self.folder, self.helpers, until, self.most, self.start
            ) as self.failures:
                return self.search.run(judge, until, self.most, watch)

    def _refine(self, judge: Judge) -> bool:
        """Try the best recipes without what may add nothing, and with the ways to run the network's code that pay here.

        False if Ctrl-C ended it.
        """
        from hasten.search.study import finalists

        if self.most is not None and self.search.tried >= self.most:
            return True
        until = max(self.started + self.seconds - self._confirming(judge), time.monotonic() + self._running)
        try:
            with self.display.stage("ways to run the network", len(self._runs())) as advance:
                runs = []
                for run in self._runs():
                    runs += [run] if judge.pays(run) else []
                    advance(1)
        except KeyboardInterrupt:
            return False
        with self.display.stage("the best recipes, simplified", self.count) as advance:
            best = finalists(self.search.trials, self.budget, judge.default, judge.margin, self.count)
            if not self.search.simplify(best, judge, until, lambda trials: advance(1)):
                return False
        chosen = finalists(self.search.trials, self.budget, judge.default, judge.margin, self.count)
        left = [trial for trial in chosen if trial.recipe.compile is None and trial.recipe.quantize is None]
        with self.display.stage("the best recipes, run so", max(1, len(left) * len(runs))) as advance:
            return self.search.refine(left, runs, judge, until, lambda trials: advance(1))

    def _runs(self) -> list[str]:
        """What is tried of the ways to run the network's code: compiling only where there is time for it."""
        from hasten.recipe import Recipe
        from hasten.search.space import RUNS

        compilers = {run: Recipe(**RUNS[run]).compile for run in self.space.runs}
        return [run for run, by in compilers.items() if self.seconds >= COMPILING or not (by and by.prepares)]

    def _slower(self, judge: Judge, trials: dict[str, Trial]) -> Callable[[Finalist, int], Finalist]:
        """Makes finalists out of others, with more steps and fitted anew. trials: where the others came from."""
        from optuna.trial import FixedTrial

        from hasten.evaluate.results import Finalist

        def made(finalist: Finalist, steps: int) -> Finalist:
            name, trial = _letter(len(trials)), trials[finalist.name]
            calls = steps * trial.recipe.solver.evaluations if trial.recipe.solver else steps
            proposed = self.space.suggest(FixedTrial({**trial.params, "calls": calls}))
            how = {"compile": trial.recipe.compile, "quantize": trial.recipe.quantize}
            trials[name] = trial
            return Finalist(name, judge.fitted(proposed.model_copy(update=how)))

        return made

    def _reserve(self, judge: Judge) -> float:
        """Seconds that are kept for ways to run the network, and for confirming."""
        return self._running + self._confirming(judge)

    @property
    def _running(self) -> float:
        """Seconds that are kept for ways to run the network."""
        return RUNNING[self.seconds >= COMPILING] * self.seconds if self.space.runs else 0.0

    def _confirming(self, judge: Judge) -> float:
        """Seconds that confirming will take."""
        from hasten.evaluate.confirmation import LOOKS

        sizes = {split: len(samples) for split, samples in self.problem.samples.items()}
        one = judge.clock.seconds
        default = self.yardstick.seconds.get("default", 0.6 * one * sizes["search"])
        reference = self.yardstick.seconds.get("reference", default)
        drawing = sizes["confirm"] / sizes["search"] * (default + reference + (self.count + LOOKS) * default / 3)
        explaining = 2 * sizes["confirm"] / sizes["search"] * default + 7 * (PARTS_REPEATS + 1) * one
        return 1.15 * (drawing + explaining + (REPEATS + 2) * one * (1 + self.count / 3))

    def _best(self, judge: Judge, trials: list[Any]) -> str:
        within = [t.score for t in trials if self.budget.within(t.score, judge.default)]
        if not within:
            return ", none within the budget yet"
        best = max(within, key=lambda s: s.speed if self.budget.seeks_speed else -s.drift)
        return f", best so far {best.speed:.1f}x faster at {best.drift:.2f}x drift"

    def _save_front(self, trials: list[Any]) -> None:
        """What the search has so far, so that nothing is lost whatever happens."""
        if self.folder is None:
            return
        from hasten.evaluate.results import Finalist, TuneResult
        from hasten.search.study import front

        found = [Finalist(f"trial {t.number}", t.recipe, t.score) for t in front(trials)]
        TuneResult(found, None, self.budget).save(self.folder)


def _confirmed(
    problem: Problem, yardstick: Yardstick, given: list[Finalist], budget: Budget, display: Display,
    slower: Callable[[Finalist, int], Finalist] | None = None,
) -> TuneResult:  # fmt: skip
    """The given finalists measured on the confirm samples; what is claimed comes from here alone.

    slower: as of `confirm.steadied`, if there may be more finalists than those.
    """
    from hasten.evaluate.confirmation import LOOKS, SPLIT, baseline, judged, redraw, speed_ups, steadied
    from hasten.evaluate.explain import explain
    from hasten.evaluate.results import TuneResult

    samples = problem.samples[SPLIT]
    with display.stage("confirm on unseen samples", (2 + len(given)) * len(samples)) as advance:
        base, default = baseline(problem, yardstick, advance)
        drawn = redraw(problem, base, given, advance)
    if slower is not None:
        with display.stage("between those that keep the budget", LOOKS * len(samples)) as advance:
            drawn |= steadied(problem, base, default, drawn, budget, slower, advance)
    speeds = speed_ups(problem, [finalist for finalist, _ in drawn.values()], REPEATS, display.shown)
    measured = judged(problem, base, default, drawn, speeds, budget)
    result = TuneResult(measured, base, budget, samples=samples)
    explain(result, problem, default, PARTS_REPEATS, display)
    return result


def _starter(workers: int, cluster: str | None, folder: Path | None, pipe: Any) -> Starter:
    """How helpers are started. Raises HastenError if there can be none."""
    if positive_int("workers", workers) > 1:
        loadable(pipe)
        if folder is None:
            raise HastenError("workers: several need a folder to meet in; give out")
    return starter(cluster)


def _check(minutes: float, trials: int | None, finalists: int, samples: Sequence[int]) -> None:
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes < math.inf:
        raise HastenError(f"minutes: {minutes!r} is not possible; give a number above 0")
    if trials is not None:
        positive_int("trials", trials)
    positive_int("finalists", finalists)
    for size in samples:
        if positive_int("samples", size) < 2:
            raise HastenError(f"samples: {size} is too few; give at least 2, so that flips can be seen")


def _writable(folder: Path) -> Path:
    """The folder, made if need be. Raises HastenError if nothing can be written there."""
    probe = folder / ".hasten"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise HastenError(f"out: cannot write to {folder}: {error.strerror or error}") from None
    return folder


def named(recipes: Mapping[str, Any] | Sequence[Any]) -> list[Finalist]:
    """Given recipes by their names, or by letters where they have none. Raises HastenError for one that is wrong."""
    from hasten.evaluate.results import Finalist
    from hasten.recipe import Recipe

    by_name = recipes if isinstance(recipes, Mapping) else {_letter(i): recipe for i, recipe in enumerate(recipes)}
    return [Finalist(name, Recipe.of(recipe)) for name, recipe in by_name.items()]


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"R{index + 1}"
