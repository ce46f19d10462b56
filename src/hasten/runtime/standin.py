"""What stands in for the parts of a pipeline while something is applied to it: a scheduler with a run, and views."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hasten.core.errors import HastenError
from hasten.processes import RectifiedFlow
from hasten.runtime.anatomy import states_name
from hasten.runtime.inside import standing_network
from hasten.runtime.run import Run
from hasten.runtime.seeds import Seeds
from hasten.runtime.stages import SEVERAL, Stage
from hasten.runtime.tracking import tracked_copy
from hasten.runtime.view import forget, keep_compiled, unchanged, view

SAID = ("timesteps", "sigmas", "eta")  # arguments of pipelines that win over a recipe where the caller passes them


@dataclass
class Standin:
    """Of one stage.

    scheduler: keeps a run.
    run: that of the scheduler.
    views: of the networks, by the attribute that holds each.
    before: what is changed of the run, as it was.
    made: whether the host has made the scheduler, in place of one of the pipeline's own.
    untracked: why the run does not know where a generation is, if it does not; then no part can be applied.
    """

    scheduler: Any
    run: Run
    views: dict[str, nn.Module]
    before: dict[str, Any]
    made: bool
    untracked: HastenError | None = None

    @classmethod
    def of(cls, stage: Stage, host: Any) -> Standin:
        """What stands in for the parts of a stage.

        stage: of a pipeline that holds its own parts.
        host: its `schedule` makes the scheduler, if there is one, and it is told what the views' methods change.
        """
        own = stage.pipe.scheduler
        scheduler = host.schedule(own) if host.schedule else own
        if host.schedule:
            scheduler.whole_steps = stage.whole_steps
            if scheduler.order > 1:
                stage.check(SEVERAL)
        untracked = None
        if not isinstance(getattr(scheduler, "run", None), Run):
            try:
                scheduler = tracked_copy(scheduler)
            except HastenError as error:  # of no matter as long as no part asks where a generation is
                untracked = error
        run: Run = scheduler.run if untracked is None else Run(RectifiedFlow())
        views = {name: _view(network, run, host) for name, network in stage.networks.items()}
        before = {
            "edits": [*run.edits],
            **{name: getattr(run, name) for name in ("conditional_last", "needs_all_rows")},
        }
        run.conditional_last, run.needs_all_rows = stage.conditional_last, stage.needs_all_rows
        return cls(scheduler, run, views, before, host.schedule is not None, untracked)

    @contextmanager
    def told(self, given: Mapping[str, Any], own_call: bool) -> Iterator[None]:
        """Meanwhile, a scheduler that was made knows what the caller of the pipeline has passed.

        One of the pipeline's own does what it does without hasten.

        given: by name.
        own_call: whether it is the stage's own pipeline that is called, not one that holds it.
        Raises HastenError for what a solver cannot honour.
        """
        scheduler, generators = self.scheduler, given.get("generator")
        before = {}
        if self.made:
            scheduler.check_call(given)
            before = {name: getattr(scheduler, name) for name in ("given", "generator")}
            scheduler.given = frozenset(name for name in SAID if given.get(name) is not None)
            scheduler.generator = generators  # flow pipelines do not hand theirs on to the scheduler
        self.run.seeds = Seeds(generators) if isinstance(generators, list) and generators and own_call else None
        try:
            yield
        finally:
            self.run.seeds = None
            for name, value in before.items():
                setattr(scheduler, name, value)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """On exit, the views and the edits of the run are as before."""
        with ExitStack() as stack:
            stack.callback(setattr, self.run, "edits", [*self.run.edits])
            for network in self.views.values():
                stack.enter_context(unchanged(network))
            yield

    def keep_compiled(self, stage: Stage) -> None:
        """Let the views run what the caller has compiled of the networks; a warning names what they cannot use."""
        for name, network in self.views.items():
            lost = keep_compiled(network, stage.networks[name])
            if lost:
                warnings.warn(
                    f"compile: what you compiled of {name} ({', '.join(lost[:3])}{', …' if lost[3:] else ''}) does "
                    'not run while its inside is accelerated; let the recipe compile ("compile": "torch-compile")',
                    stacklevel=5,
                )

    def leave(self) -> None:
        """What stood in is needed no more; a scheduler of the pipeline's own that keeps a run is as it was."""
        for name, value in self.before.items():
            setattr(self.run, name, value)
        for network in self.views.values():
            forget(network)


def _view(network: nn.Module, run: Run, host: Any) -> nn.Module:
    """A view of a network whose calls are counted in the run, and whose methods change the network itself."""
    graft, name = view(network), states_name(network)

    def ask(_: nn.Module, args: Any, kwargs: Any) -> None:
        states = args[0] if args else kwargs.get(name)
        run.asked(len(states) if isinstance(states, Tensor | list) else 0)

    def count(*_: Any) -> None:
        run.called()

    graft.register_forward_pre_hook(ask, with_kwargs=True)
    graft.register_forward_hook(count)
    standing_network(graft, network, host)
    return graft
