"""The search: Optuna proposes recipes, each is drawn on the search samples, scored and remembered."""

from __future__ import annotations

import itertools
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from hasten.core.errors import HastenError
from hasten.evaluate.budget import Budget, Score
from hasten.recipe import Recipe
from hasten.search.judge import MARGIN, WORTH, Judge
from hasten.search.near import near, simpler
from hasten.search.space import Space, is_plain

STARTUP = 10  # trials before the sampler learns from them
LEAST = 3  # trials that are made however little time there is
STUDY = "study.db"


@dataclass(frozen=True)
class Trial:
    """One recipe as the search saw it. params: what the sampler chose."""

    number: int
    recipe: Recipe
    score: Score
    calls: int
    params: Mapping[str, Any] = field(default_factory=dict)


Watch = Callable[[list[Trial]], None]


class Search:
    """A study of recipes: an SQLite file in `folder`, or in memory without one.

    Ends at a time or a number of trials; goes on where it was left with `resume`. The same seed proposes the
    same first recipes. Raises HastenError if the folder holds a search and `resume` is not set, or holds one
    for another budget or seed.
    """

    def __init__(self, space: Space, budget: Budget, seed: int = 0, folder: Path | None = None, resume: bool = False):
        self._open(space, budget, seed, folder, resume)
        with _quiet():
            self._begin()

    @classmethod
    def join(cls, space: Space, budget: Budget, seed: int, folder: Path, number: int) -> Search:
        """The search that somebody else has begun in a folder and is at. number: which helper this is, from 1."""
        search = cls.__new__(cls)
        search._open(space, budget, seed, folder, resume=True, number=number)
        return search

    def _open(
        self, space: Space, budget: Budget, seed: int, folder: Path | None, resume: bool, number: int = 0
    ) -> None:
        from optuna.samplers import TPESampler

        self.space, self.budget, self.seed = space, budget, seed
        with _quiet():
            self.study = _opened(folder, {"budget": str(budget), "seed": seed}, resume)
            before = len(self.study.get_trials(deepcopy=False))
            self.study.sampler = TPESampler(
                multivariate=True, group=True, n_startup_trials=STARTUP, constant_liar=True,
                seed=seed + 1_000_003 * before + 10_007 * number,
            )  # fmt: skip

    @property
    def trials(self) -> list[Trial]:
        """Every recipe that was scored on all samples, once, in the order of the trials."""
        found: dict[str, Trial] = {}
        for trial in self.study.trials:
            if trial.user_attrs.get("complete") and trial.state.is_finished():
                found.setdefault(json.dumps(trial.user_attrs["recipe"]), _trial(trial))
        return list(found.values())

    @property
    def tried(self) -> int:
        """How many proposals were finished, the failed and repeated ones included."""
        return sum("recipe" in t.user_attrs or "error" in t.user_attrs for t in self.study.trials)

    @property
    def begun(self) -> int:
        """How many proposals are finished or being tried, by whomever."""
        from optuna.trial import TrialState

        return self.tried + len(self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]))

    def run(self, judge: Judge, until: float, most: int | None = None, watch: Watch | None = None) -> bool:
        """Try recipes until `time.monotonic()` says so, or `most` proposals are finished in all.

        watch(trials) is called after each. Returns False if Ctrl-C ended it: what is finished is kept, and the
        trial it hit is tried again by whoever resumes. Raises HastenError if no recipe could be run at all.
        """
        from optuna.trial import TrialState

        with _quiet():
            while (self.tried < LEAST or time.monotonic() < until) and (most is None or self.begun < most):
                trial = self._asked(judge)
                try:
                    self._try(trial, judge)
                except KeyboardInterrupt:
                    return False
                except Exception as error:  # one recipe that cannot run must not end the search
                    trial.set_user_attr("error", f"{type(error).__name__}: {error}")
                    self.study.tell(trial, state=TrialState.FAIL)
                if watch is not None:
                    watch(self.trials)
        if not self.trials:
            errors = [t.user_attrs["error"] for t in self.study.trials if "error" in t.user_attrs]
            raise HastenError(f"search: no recipe could be run; the last one failed with {errors[-1]}")
        return True

    def simplify(self, trials: Sequence[Trial], judge: Judge, until: float, watch: Watch | None = None) -> bool:
        """Try the recipes of some trials without each of their accelerations. The rest is as in `run`."""
        return self._also([(fewer, {}) for trial in trials for fewer in simpler(trial.params)], judge, until, watch)

    def refine(
        self, trials: Sequence[Trial], runs: Sequence[str], judge: Judge, until: float, watch: Watch | None = None
    ) -> bool:
        """Try the recipes of some trials with each way to run the network's code (labels of `space.RUNS`).

        The rest is as in `run`.
        """
        asked = [(dict(trial.params), {"run": run}) for trial, run in itertools.product(trials, runs)]
        return self._also(asked, judge, until, watch)

    def _also(
        self, asked: Sequence[tuple[dict[str, Any], dict[str, Any]]], judge: Judge, until: float, watch: Watch | None
    ) -> bool:
        """Try recipes of given parameters and attributes."""
        with _quiet():
            for params, attributes in asked:
                self.study.enqueue_trial(params, user_attrs=attributes)
        return self.run(judge, until, self.tried + len(asked), watch)

    def _asked(self, judge: Judge) -> Any:
        """The next proposal: what is waiting; else in turns one of the sampler, and one of the best so far, changed."""
        from optuna.trial import TrialState

        known, before = self.trials, self.study.get_trials(deepcopy=False)
        if len(before) % 2 and known and not any(trial.state == TrialState.WAITING for trial in before):
            random = Random(f"{self.seed} {len(before)}")
            best = random.choice(finalists(known, self.budget, judge.default, judge.margin))
            self.study.enqueue_trial(near(best.params, before[best.number].distributions, random))
        return self.study.ask()

    def _try(self, trial: Any, judge: Judge) -> None:
        proposed = self.space.suggest(trial)
        asked = _text(proposed)
        known = self._known(asked)
        if known is None:
            plain = proposed.model_copy(update={"compile": None})
            drawn = self._known(_text(plain)) if plain != proposed else None
            if drawn is not None:  # compiling changes the time alone
                recipe = Recipe(**drawn["recipe"]).model_copy(update={"compile": proposed.compile})
                verdict = judge.again(recipe, Score(**drawn["score"]))
            else:
                recipe = judge.fitted(proposed)
                verdict = judge(recipe)
            known = {"asked": asked, "recipe": recipe.to_dict(), **asdict(verdict)}
        for name, value in known.items():
            trial.set_user_attr(name, value)
        score = Score(**known["score"])
        for name, excess in self.budget.excess(score, judge.default, judge.margin).items():
            trial.set_constraint(name, excess)
        self.study.tell(trial, objectives(score, self.budget, judge.margin))

    def _known(self, asked: str) -> dict[str, Any] | None:
        """What was found out about a recipe that was asked for before."""
        return next((t.user_attrs for t in self.study.trials if t.user_attrs.get("asked") == asked), None)

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
                self.study.enqueue_trial(trial.params, {k: v for k, v in trial.user_attrs.items() if k == "run"})


def objectives(score: Score, budget: Budget, margin: float) -> list[float]:
    """What the search makes small: drift, and time over the default's.

    Twice as good as the budget asks for is good enough in what it limits, so that the search goes on to the other.
    """
    drift, time_share = score.drift, 1 / score.speed
    if budget.metric == "drift":
        drift = max(drift, budget.limit * (1 - margin) / 2)
    if budget.metric == "speed":
        time_share = max(time_share, 1 / (2 * budget.limit))
    return [drift, time_share]


def front(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that no other beats in both drift and speed, fastest first."""
    kept: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (-t.score.speed, t.score.drift)):
        if not kept or trial.score.drift < kept[-1].score.drift:
            kept.append(trial)
    return kept


def plain_front(trials: Sequence[Trial]) -> list[Trial]:
    """The front of those that change nothing but the solver and its times."""
    return front([trial for trial in trials if is_plain(trial.recipe)])


def finalists(
    trials: Sequence[Trial], budget: Budget, default: Score, margin: float = MARGIN, count: int = 5
) -> list[Trial]:
    """The trials worth measuring again, fastest first: from a hopeful one, by the search's estimate, to a safe one.

    One of the best within the budget with little margin, the best ones with the search's `margin`, one with twice
    that, and the one with the most margin. Where none is within the budget, those that come nearest to it. Each
    acceleration of a recipe has to earn its place: it counts as a little slower for it.
    """

    def within(margin: float) -> list[Trial]:
        kept = [t for t in trials if t not in chosen and budget.within(t.score, default, margin)]
        return sorted(kept, key=lambda t: -earned(t) if budget.seeks_speed else t.score.drift)

    def earned(trial: Trial) -> float:
        return trial.score.speed / WORTH ** len(trial.recipe.accelerations)

    def safety(trial: Trial) -> tuple[float, float]:
        limits = budget.excess(trial.score, default)
        return max(0.0, *limits.values()), next(iter(limits.values()))  # what passes no limit, by the main one

    chosen: list[Trial] = []
    for tight, until in ((MARGIN, 1), (margin, count - 2), (1 - (1 - margin) / 2, count - 1)):
        chosen += within(tight)[: max(0, until - len(chosen))]
    nearest = sorted((t for t in trials if t not in chosen), key=safety)
    return sorted([*chosen, *nearest[: max(0, count - len(chosen))]], key=lambda t: -t.score.speed)


def _trial(kept: Any) -> Trial:
    found = kept.user_attrs
    return Trial(kept.number, Recipe(**found["recipe"]), Score(**found["score"]), found["calls"], kept.params)


def _text(recipe: Recipe) -> str:
    return json.dumps(recipe.to_dict())


def _opened(folder: Path | None, settings: dict[str, Any], resume: bool) -> Any:
    import optuna

    if folder is None:
        return optuna.create_study(directions=["minimize", "minimize"])
    file = folder / STUDY
    if file.exists() and not resume:
        raise HastenError(f"out: {folder} already holds a search; go on with it by --resume or name another folder")
    patient = {"connect_args": {"timeout": 60}}  # where others write at the same time
    study = optuna.create_study(
        storage=optuna.storages.RDBStorage(f"sqlite:///{file}", engine_kwargs=patient),
        study_name="tune",
        directions=["minimize", "minimize"],
        load_if_exists=True,
    )
    before = study.user_attrs.get("settings", settings)
    for name, value in settings.items():
        if before.get(name) != value:
            raise HastenError(
                f"{name}: the search in {folder} was made for {before.get(name)}, not {value}; "
                "repeat that or name another folder"
            )
    study.set_user_attr("settings", settings)
    study.set_metric_names(["drift", "time"])
    return study


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's own log and warnings about experiments."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(level)
