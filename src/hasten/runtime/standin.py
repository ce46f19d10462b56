"""What stands in for the parts of a pipeline while something is applied to it: a scheduler with a run, and views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hasten.runtime.anatomy import states_name
from hasten.runtime.inside import standing_network
from hasten.runtime.run import Run
from hasten.runtime.stages import Stage
from hasten.runtime.tracking import tracked_copy
from hasten.runtime.view import view

SAID = ("timesteps", "sigmas", "eta")  # arguments of pipelines that win over a recipe where the caller passes them


@dataclass
class Standin:
    """Of one stage.

    scheduler: keeps a run.
    run: that of the scheduler.
    views: of the networks, by the attribute that holds each.
    """

    scheduler: Any
    run: Run
    views: dict[str, nn.Module]

    @classmethod
    def of(cls, stage: Stage, host: Any) -> Standin:
        """What stands in for the parts of a stage.

        stage: of a pipeline that holds its own parts.
        host: its `schedule` makes the scheduler, if there is one, and it is told what the views' methods change.
        """
        own = stage.pipe.scheduler
        scheduler = host.schedule(own) if host.schedule else own
        if not isinstance(getattr(scheduler, "run", None), Run):
            scheduler = tracked_copy(scheduler)
        run: Run = scheduler.run
        run.conditional_last, run.needs_all_rows = stage.conditional_last, stage.needs_all_rows
        return cls(scheduler, run, {name: _view(network, run, host) for name, network in stage.networks.items()})

    def tell(self, given: Mapping[str, Any], own_call: bool) -> None:
        """Tell the scheduler what the caller of the pipeline has passed, where it wants to know.

        given: by name.
        own_call: whether it is the stage's own pipeline that is called, not one that holds it.
        """
        if hasattr(self.scheduler, "given"):
            self.scheduler.check_call(given)
            self.scheduler.given = frozenset(n for n in SAID if given.get(n) is not None)
        if hasattr(self.scheduler, "generator"):  # flow pipelines do not hand theirs on to the scheduler
            self.scheduler.generator = given.get("generator")
        seeds = given.get("generator")
        self.run.seeds = seeds if isinstance(seeds, list) and own_call else None


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
