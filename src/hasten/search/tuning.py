"""`tune`: from a pipeline to a recipe with proof, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hasten.core.console import Display
from hasten.evaluate import facts
from hasten.evaluate.budget import Budget
from hasten.evaluate.inputs import check_numbers, letter, writable
from hasten.evaluate.problem import Problem
from hasten.evaluate.references import REFERENCES_FILE, References
from hasten.evaluate.results import Candidate, Trial
from hasten.evaluate.samples import SPLITS, Prompts, choose, known_prompts, to_fit
from hasten.recipe import Recipe
from hasten.search.confirming import confirm
from hasten.search.executions import execution_of, prepares, worth_timing
from hasten.search.finalists import finalists as worth_confirming
from hasten.search.fitter import SPLIT
from hasten.search.judge import WORTH, Judge
from hasten.search.planning import Plan
from hasten.search.result import TuneResult, save_front
from hasten.search.space import Space
from hasten.search.study import Search
from hasten.search.workers import Helpers


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

    pipe: a diffusers text-to-image pipeline; it is left as it is.
    prompts: a list, which is divided, or {"search": [...], "confirm": [...]}; the model's own captions or everyday
        prompts if None.
    budget: see `Budget.of`.
    minutes: for everything, above 0. The search gets at least a third and tries at least three recipes, so a slow
        model takes longer.
    seed: of the search and of the samples.
    out: a folder for recipe.json, front.json, report.html, report.md and the search itself; nothing is written if None.
    resume: go on with the search in `out`.
    trials: at most so many proposals in all; None sets no limit.
    samples: how many images to search with and to confirm with, at least 2 each.
    batch: how many run at once, at least 1; solvers are fitted on twice as many, in one batch.
    finalists: how many recipes are confirmed, at least 1, and up to two that are made of them with more steps.
    call: what every call of the pipeline gets besides (height=...); num_inference_steps=... makes another default.
    progress: whether bars are shown; None shows them where stderr is a terminal.
    command: what the report says was typed.
    workers: processes that search side by side, at least 1, with the cores shared out; more than one needs `out` and a
        pipeline that was loaded from a name or folder.
    cluster: "local" or the address of a Ray cluster that sees `out`, for all workers but this one.

    Ctrl-C ends the search and goes on to confirm what it found; a second one ends that too, and what is finished
    stays in `out`. Raises HastenError for impossible input, before anything is run.
    """
    limit = Budget.of(budget)
    check_numbers(samples, minutes, trials, finalists)
    chosen = choose(known_prompts(pipe) if prompts is None else prompts, dict(zip(SPLITS, samples)), seed)
    chosen[SPLIT] = to_fit(chosen["search"], 2 * batch)
    problem = Problem(pipe, chosen, batch=batch, call=call)
    folder = writable(out)
    typed = command or f'hasten.tune(pipe, budget="{limit}", minutes={minutes:g}, seed={seed})'
    helpers = Helpers.of(problem, limit, seed, folder, trials, workers, cluster)
    space = Space.of(problem)
    references = References(problem, None if folder is None else folder / REFERENCES_FILE)
    plan = Plan(problem, references, minutes * 60, finalists, bool(space.executions))
    search = Search(space, limit, seed, folder, resume, shared=cluster is not None)
    return Tuning(problem, references, plan, search, helpers, folder, trials, Display(progress)).run(typed)


class Tuning:
    """The stages of one tuning: references, search, refinement, confirmation. Each saves what it finished.

    problem: that is tuned.
    references: of the problem.
    plan: of the time.
    search: that is gone on with.
    helpers: other processes that search.
    folder: for what is finished, or None.
    most: how many proposals there are in all, or None for no limit.
    display: shows the progress.
    """

    def __init__(
        self, problem: Problem, references: References, plan: Plan, search: Search, helpers: Helpers,
        folder: Path | None, most: int | None, display: Display,
    ) -> None:  # fmt: skip
        self.problem, self.references, self.plan, self.search = problem, references, plan, search
        self.helpers, self.folder, self.most, self.display = helpers, folder, most, display
        self.space, self.budget, self.count = search.space, search.budget, plan.finalists

    def run(self, command: str) -> TuneResult:
        """All stages.

        command: what the report says was typed.
        """
        judge = self._judge()
        complete = self._search(judge) and self._refine(judge)
        if not self.search.trials:
            raise KeyboardInterrupt
        result = self._confirm(judge)
        result.facts = {
            **facts.gather(self.problem, self.references, self.search.seed, command),
            "search": self._searched(judge, complete),
            "workers": self.helpers.count + 1,
            "failures": self.helpers.failures,
            "minutes": round(self.plan.minutes, 2),
        }
        if self.folder is not None:
            result.save(self.folder)
        return result

    def _judge(self) -> Judge:
        """Default and reference on the search samples, the clock, and the trajectory that solvers are fitted to."""
        with self.display.stage("default and reference", 2 * len(self.problem.samples["search"])) as advance:
            self.references.default("search", advance)
            self.references.reference("search", advance)
            judge = Judge(self.problem, self.references, self.budget)
        with self.display.stage("a trajectory to fit solvers to", 1) as advance:
            judge.fitted.trajectory  # noqa: B018 (before any helper wants it)
            advance(1)
        return judge

    def _search(self, judge: Judge) -> bool:
        """Search until what is left of the time is needed for the rest; False if Ctrl-C ended it."""
        begin, until = time.monotonic(), self.plan.search_until(judge.clock.seconds)
        with self.display.stage("search", max(1.0, until - begin)) as advance:

            def watch(trials: list[Trial[Recipe]]) -> None:
                advance(to=time.monotonic() - begin, text=f"search: {len(trials)} recipes{self._best(judge, trials)}")
                if self.folder is not None:
                    save_front(self.folder, self.budget, trials)

            with self.helpers.at_work(until):
                return self.search.run(judge, until, self.most, watch)

    def _refine(self, judge: Judge) -> bool:
        """Try the best recipes without what may add nothing, and with the ways to execute the network that pay here.

        False if Ctrl-C ended it.
        """
        if self.most is not None and self.search.proposals >= self.most:
            return True
        until = self.plan.refine_until(judge.clock.seconds)
        try:
            ways = self._paying(judge)
        except KeyboardInterrupt:
            return False
        with self.display.stage("the best recipes, simplified", self.count) as advance:
            if not self.search.simplify(self._finalists(judge), judge, until, lambda trials: advance(1)):
                return False
        left = [trial for trial in self._finalists(judge) if not any(execution_of(trial.way).values())]
        with self.display.stage("the best recipes, executed in other ways", max(1, len(left) * len(ways))) as advance:
            return self.search.refine(left, ways, judge, until, lambda trials: advance(1))

    def _paying(self, judge: Judge) -> list[str]:
        """Labels of the ways to execute the network that make the default faster; compiling only if there is time."""
        ways = {label: way for label, way in self.space.executions.items() if self.plan.compiles or not prepares(way)}
        speeds: dict[str, float] = {}
        with self.display.stage("ways to execute the network", len(ways)) as advance:
            for label, way in ways.items():
                if worth_timing(way, ways, speeds):
                    speeds[label] = judge.speed(way)
                advance(1)
        return [label for label, speed in speeds.items() if speed >= WORTH]

    def _confirm(self, judge: Judge) -> TuneResult:
        """The finalists on unseen samples, and some of them with more steps and fitted anew."""
        trials = {letter(i): trial for i, trial in enumerate(self._finalists(judge))}

        def slower(candidate: Candidate[Recipe], steps: int) -> Candidate[Recipe]:
            name, trial = letter(len(trials)), trials[candidate.name]
            evaluations = trial.way.solver.evaluations if trial.way.solver else 1
            trials[name] = trial
            return Candidate(name, judge.fitted(self.space.at(steps * evaluations, trial)))

        candidates = [Candidate(name, trial.way, trial.score) for name, trial in trials.items()]
        result = confirm(self.problem, self.references, candidates, self.budget, self.display, slower)
        result.trials = self.search.trials
        return result

    def _finalists(self, judge: Judge) -> list[Trial[Recipe]]:
        return worth_confirming(self.search.trials, self.budget, judge.default, judge.margin, self.count)

    def _searched(self, judge: Judge, complete: bool) -> dict[str, Any]:
        """How the search went, for the report."""
        return {
            "recipes": len(self.search.trials),
            "proposals": self.search.proposals,
            "space": self.space.describe(),
            "interrupted": not complete,
            "default": {"flips": judge.default.flips, **judge.default.medians},
        }

    def _best(self, judge: Judge, trials: list[Trial[Recipe]]) -> str:
        within = [t.score for t in trials if self.budget.within(t.score, judge.default)]
        if not within:
            return ", none within the budget yet"
        best = max(within, key=lambda s: s.speed if self.budget.seeks_speed else -s.drift)
        return f", best so far {best.speed:.1f}x faster at {best.drift:.2f}x drift"
