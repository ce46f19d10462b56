"""The search: recipes are proposed, fitted, drawn, scored and told to an Optuna study, one after the other."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from hasten.core.errors import HastenError
from hasten.evaluate.budget import Budget, Score
from hasten.evaluate.results import Trial
from hasten.recipe import Recipe
from hasten.search.finalists import finalists
from hasten.search.judge import Judge, Verdict
from hasten.search.near import near, simpler
from hasten.search.space import Space
from hasten.search.storage import kept, opened, quiet

STARTUP = 10  # trials before the sampler learns from them
LEAST = 3  # trials that are made however little time there is

Watch = Callable[[list[Trial[Recipe]]], None]
"""Called with the trials so far after each of them."""


class Search:
    """A study of recipes. The same seed proposes the same first recipes.

    space: what recipes may hold.
    budget: to be kept.
    seed: of the proposals.
    folder: where the study is kept; None keeps it in memory.
    resume: whether to go on with the study in the folder.
    shared: whether other machines search in the same folder.

    Raises HastenError if the folder holds a search and `resume` is not set, or holds one for another budget or seed.
    """

    def __init__(
        self, space: Space, budget: Budget, seed: int = 0, folder: Path | None = None, resume: bool = False,
        shared: bool = False,
    ) -> None:  # fmt: skip
        self._open(space, budget, seed, folder, resume, shared)
        with quiet():
            self._begin()

    @classmethod
    def join(cls, space: Space, budget: Budget, seed: int, folder: Path, number: int) -> Search:
        """The search that another process is at.

        space, budget, seed, folder: of that search.
        number: which helper this is, from 1; each proposes other recipes.
        """
        search = cls.__new__(cls)
        search._open(space, budget, seed, folder, resume=True, number=number)
        return search

    def _open(
        self, space: Space, budget: Budget, seed: int, folder: Path | None, resume: bool, shared: bool = False,
        number: int = 0,
    ) -> None:  # fmt: skip
        from optuna.samplers import TPESampler

        self.space, self.budget, self.seed, self.folder = space, budget, seed, folder
        with quiet():
            self.study = opened(folder, {"budget": str(budget), "seed": seed}, resume, shared)
            before = len(self.study.get_trials(deepcopy=False))
            self.study.sampler = TPESampler(
                multivariate=True, group=True, n_startup_trials=STARTUP, constant_liar=True,
                seed=seed + 1_000_003 * before + 10_007 * number,
            )  # fmt: skip

    def _begin(self) -> None:
        """Put recipes to begin with into a new study, and back into an old one what nobody finished."""
        from optuna.trial import TrialState

        before = self.study.get_trials(deepcopy=False)
        if not before:
            for start in self.space.starts():
                self.study.enqueue_trial(start)
        for trial in before:
            if trial.state == TrialState.RUNNING:  # whoever ran it was ended before it was finished
                self.study.tell(trial.number, state=TrialState.FAIL)
                self.study.enqueue_trial(trial.params, {k: v for k, v in trial.user_attrs.items() if k == "execution"})

    @property
    def trials(self) -> list[Trial[Recipe]]:
        """Every recipe that was scored on all samples, once, in the order of the trials."""
        by_recipe: dict[str, Trial[Recipe]] = {}
        for trial in self.study.trials:
            if trial.user_attrs.get("complete") and trial.state.is_finished():
                by_recipe.setdefault(json.dumps(trial.user_attrs["recipe"]), _trial(trial))
        return list(by_recipe.values())

    @property
    def proposals(self) -> int:
        """How many proposals were finished, the failed and repeated ones included."""
        return sum("recipe" in t.user_attrs or "error" in t.user_attrs for t in self.study.trials)

    @property
    def begun(self) -> int:
        """How many proposals are finished or being tried, by any process."""
        from optuna.trial import TrialState

        return self.proposals + len(self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]))

    def run(self, judge: Judge, until: float, most: int | None = None, watch: Watch | None = None) -> bool:
        """Try recipes. Returns False if Ctrl-C ended it: the trial that it hit is tried again by whoever resumes.

        judge: draws, scores and times them.
        until: the `time.monotonic()` at which it ends; at least three are tried.
        most: how many proposals are finished in all, at most; None sets no limit.
        watch: called after each trial.

        Raises HastenError if no recipe could be run at all, or the study can no longer be written.
        """
        with quiet(), kept(self.folder):
            while (self.proposals < LEAST or time.monotonic() < until) and (most is None or self.begun < most):
                if not self._try(judge):
                    return False
                if watch is not None:
                    watch(self.trials)
        if not self.trials:
            errors = [t.user_attrs["error"] for t in self.study.trials if "error" in t.user_attrs]
            raise HastenError(f"search: no recipe could be run; the last one failed with {errors[-1]}")
        return True

    def simplify(self, trials: Sequence[Trial[Recipe]], judge: Judge, until: float, watch: Watch | None = None) -> bool:
        """Try the recipes of some trials without each of their accelerations. The rest is as in `run`."""
        return self._also([(fewer, {}) for trial in trials for fewer in simpler(trial.params)], judge, until, watch)

    def refine(
        self, trials: Sequence[Trial[Recipe]], ways: Sequence[str], judge: Judge, until: float,
        watch: Watch | None = None,
    ) -> bool:  # fmt: skip
        """Try the recipes of some trials with each of some ways to execute the network's code.

        trials: whose recipes.
        ways: labels of the space's `executions`.
        judge, until, watch: as in `run`.
        """
        asked = [(dict(trial.params), {"execution": way}) for trial, way in itertools.product(trials, ways)]
        return self._also(asked, judge, until, watch)

    def _also(
        self, asked: Sequence[tuple[dict[str, Any], dict[str, Any]]], judge: Judge, until: float, watch: Watch | None
    ) -> bool:
        """Try recipes of given parameters and attributes."""
        with quiet():
            for params, attributes in asked:
                self.study.enqueue_trial(params, user_attrs=attributes)
        return self.run(judge, until, self.proposals + len(asked), watch)

    # One trial, from top to bottom

    def _try(self, judge: Judge) -> bool:
        """Propose a recipe, measure it unless it is known, and tell the study; False if Ctrl-C ended it."""
        from optuna.trial import TrialState

        trial = self._proposed(judge)
        try:
            asked = self.space.suggest(trial)
            known = self._known(asked)
            if known is None:
                recipe, verdict = self._measured(asked, judge)
                known = {"asked": _text(asked), "recipe": recipe.to_dict(), **asdict(verdict)}
            self._tell(trial, known, judge)
        except KeyboardInterrupt:
            return False
        except Exception as error:  # one recipe that cannot run must not end the search
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            self.study.tell(trial, state=TrialState.FAIL)
        return True

    def _proposed(self, judge: Judge) -> Any:
        """The next proposal: what is waiting; else in turns one of the sampler, and one of the best so far, changed."""
        from optuna.trial import TrialState

        known, before = self.trials, self.study.get_trials(deepcopy=False)
        if len(before) % 2 and known and not any(trial.state == TrialState.WAITING for trial in before):
            random = Random(f"{self.seed} {len(before)}")
            best = random.choice(finalists(known, self.budget, judge.default, judge.margin))
            self.study.enqueue_trial(near(best.params, before[best.number].distributions, random))
        return self.study.ask()

    def _known(self, asked: Recipe) -> dict[str, Any] | None:
        """What was found out about a recipe that was asked for before."""
        text = _text(asked)
        return next((t.user_attrs for t in self.study.trials if t.user_attrs.get("asked") == text), None)

    def _measured(self, asked: Recipe, judge: Judge) -> tuple[Recipe, Verdict]:
        """Fit, draw, score and time a recipe. Compiling changes the time alone: what was drawn before is only timed."""
        plain = asked.model_copy(update={"compile": None})
        before = self._known(plain) if plain != asked else None
        if before is not None:
            recipe = Recipe(**before["recipe"]).model_copy(update={"compile": asked.compile})
            return recipe, judge.time(recipe, Score(**before["score"]), before["complete"])
        recipe = judge.fitted(asked)
        pictures = judge.draw(recipe)
        score = judge.score(pictures)
        return recipe, judge.time(recipe, score, judge.complete(pictures))

    def _tell(self, trial: Any, known: Mapping[str, Any], judge: Judge) -> None:
        """Keep what is known of a recipe with its trial, and give the sampler its objectives and limits."""
        for name, value in known.items():
            trial.set_user_attr(name, value)
        score = Score(**known["score"])
        for name, excess in self.budget.excess(score, judge.default, judge.margin).items():
            trial.set_constraint(name, excess)
        self.study.tell(trial, objectives(score, self.budget, judge.margin))


def objectives(score: Score, budget: Budget, margin: float) -> list[float]:
    """What the search makes small: drift, and time over the default's.

    Twice as good as the budget asks for is good enough in what it limits, so that the search goes on to the other.

    score: of a recipe.
    budget: of the search.
    margin: the fraction by which the search stays below it, from 0 to 1.
    """
    drift, time_share = score.drift, 1 / score.speed
    if budget.metric == "drift":
        drift = max(drift, budget.limit * (1 - margin) / 2)
    if budget.metric == "speed":
        time_share = max(time_share, 1 / (2 * budget.limit))
    return [drift, time_share]


def _trial(kept: Any) -> Trial[Recipe]:
    known = kept.user_attrs
    return Trial(kept.number, Recipe(**known["recipe"]), Score(**known["score"]), known["calls"], kept.params)


def _text(recipe: Recipe) -> str:
    return json.dumps(recipe.to_dict())
