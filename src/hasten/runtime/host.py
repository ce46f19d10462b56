"""A pipeline while accelerations are applied to it: what is its own, what stands in for it, and what may happen inside.

The pipeline holds a view of each network and a scheduler that keeps a `Run`. Both are made from its own parts and
from what is applied, so they can be made anew: whatever the user changes meanwhile (an adapter, a dtype, another
scheduler) is changed on the pipeline's own parts, and then what stands in for them is made again (`changing`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from hasten.core.errors import HastenError, NothingChanged
from hasten.runtime.anatomy import networks_of
from hasten.runtime.inside import HOST, standing
from hasten.runtime.run import Run
from hasten.runtime.stages import LATENTS, Stage, stages_of
from hasten.runtime.standin import Standin
from hasten.runtime.view import APPLIED

Schedule = Callable[[Any], Any]  # from a stage's own scheduler to the one that stands in for it


class Host:
    """The pipeline that things are applied to.

    pipe: a diffusers pipeline.
    schedule: makes the schedulers that stand in; None keeps the pipeline's own, as copies that keep a Run.
    parts: the accelerations that are applied, outermost first.
    made: how often the stand-ins have been made anew.
    """

    def __init__(self, pipe: Any, schedule: Schedule | None = None) -> None:
        self.pipe, self.schedule = pipe, schedule
        self.stages = stages_of(pipe)
        self.parts: list[Any] = []
        self.made = 0
        self.calls = 0  # of the pipeline that are running: one in another, for pipelines made of pipelines
        self._standins: list[Standin] = []
        self._own: list[tuple[Any, str, Any]] = []  # what is taken back on leaving
        self._out = False  # whether the pipeline's own parts are in place meanwhile

    @property
    def busy(self) -> bool:
        """Whether the pipeline is running, or its own parts are in place: then nothing is sent on."""
        return self._out or bool(self.calls)

    @property
    def runs(self) -> list[Run]:
        """The runs of all stages."""
        return [standin.run for standin in self._standins]

    def _standing(self) -> Iterator[tuple[Stage, Standin]]:
        """The stages and what stands in for each; none where the recipe is no longer applied."""
        return zip(self.stages, self._standins)

    # what is applied

    @contextmanager
    def holding(self, part: Any) -> Iterator[None]:
        """Meanwhile, `part` is applied, inside of what is. Raises HastenError before anything is changed."""
        admitted = self._admitted(part)
        with ExitStack() as stack:
            for standin in self._standins:
                stack.enter_context(standin.unchanged())
            self._attach(part, admitted)
            self.parts.append(part)
            made, undo = self.made, stack.pop_all()
        try:
            yield
        finally:
            self.parts = [one for one in self.parts if one is not part]
            if self.made == made:
                undo.close()
            elif self.parts:
                self._put_back()
                self._remake()

    def _admitted(self, part: Any) -> list[bool]:
        """For each stage, whether the part can be applied to it. Raises what the first says if none can."""
        refusals: list[HastenError | None] = []
        for stage, standin in self._standing():
            try:
                if standin.untracked is not None:
                    raise standin.untracked
                for network in standin.views.values():
                    part.admit(network, stage)
                refusals.append(None)
            except HastenError as error:
                refusals.append(error)
        if not refusals:
            raise HastenError(f"{part.name}: the recipe of this pipeline is no longer applied; restore it first")
        if all(refusals):
            raise next(error for error in refusals if error)
        for stage, error in zip(self.stages, refusals, strict=True):
            if error:
                warnings.warn(f"{part.name} is not applied to {stage.name}: {error}", NothingChanged, stacklevel=2)
        return [error is None for error in refusals]

    def _attach(self, part: Any, admitted: list[bool]) -> None:
        for standin, wanted in zip(self._standins, admitted, strict=True):
            for network in standin.views.values() if wanted else ():
                part.attach(network, standin.run)
                network.__dict__[APPLIED] = (*network.__dict__[APPLIED], part)

    # standing in

    def enter(self) -> None:
        """Let the stand-ins take the places of the pipeline's own parts.

        Raises HastenError, before anything is changed, if it is accelerated already, or one inside of it.
        """
        if any(HOST in vars(pipe) for pipe in self._pipes):
            raise HastenError("model: this pipeline, or one inside of it, is accelerated already; restore that first")
        for stage in self.stages if self.schedule else ():
            stage.check("solver")
        self._make()
        for pipe in self._pipes:
            standing(pipe, self)

    def leave(self) -> None:
        """Put the pipeline's own parts back in their places."""
        for pipe in self._pipes:
            standing(pipe, None)
        self._put_back()

    @property
    def _pipes(self) -> list[Any]:
        """The pipeline and those inside of it that run a stage."""
        return list({id(pipe): pipe for pipe in (self.pipe, *(stage.pipe for stage in self.stages))}.values())

    @contextmanager
    def own_parts(self) -> Iterator[None]:
        """Meanwhile, the pipeline holds its own parts. During a call of the pipeline nothing is swapped."""
        if self.busy:
            yield
            return
        mine = [(pipe, name, getattr(pipe, name)) for pipe, name, _ in self._own]
        self._out = True
        self._place(self._own)
        try:
            yield
        finally:
            self._place(mine)
            self._out = False

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Meanwhile, the pipeline holds its own parts; then what stands in for them is made anew.

        Parts that cannot be applied any more are left out from then on, with a warning.
        """
        if self.busy:
            yield
            return
        self._put_back()
        self._out = True
        try:
            yield
        finally:
            self._out = False
            self._remake()

    def _remake(self) -> None:
        parts, self.parts = self.parts, []
        try:
            self.stages = [Stage(stage.pipe, stage.name, networks_of(stage.pipe)) for stage in self.stages]
            self._make()
        except HastenError as error:  # from now on the pipeline is what the user has made of it
            lost = "the recipe is no longer applied, since the pipeline was changed"
            raise HastenError(f"model: {lost}: {error}") from error
        for part in parts:
            try:
                admitted = self._admitted(part)
            except HastenError as error:
                lost = f"{part.name} is no longer applied, since the pipeline was changed: {error}"
                warnings.warn(lost, stacklevel=4)
                continue
            self._attach(part, admitted)
            self.parts.append(part)
        self.settle()

    def settle(self) -> None:
        """Everything has been attached: let views run what the caller has compiled, wherever that is still right."""
        for stage, standin in self._standing():
            standin.keep_compiled(stage)

    def _make(self) -> None:
        self.made += 1
        standins = [Standin.of(stage, self) for stage in self.stages]
        places = [
            (stage.pipe, name, part)
            for stage, standin in zip(self.stages, standins, strict=True)
            for name, part in {"scheduler": standin.scheduler, **standin.views}.items()
        ]
        self._standins, self._own = standins, [(pipe, name, getattr(pipe, name)) for pipe, name, _ in places]
        self._place(places)

    def _put_back(self) -> None:
        """The pipeline's own parts are in their places, and nothing stands in."""
        self._place(self._own)
        for standin in self._standins:
            standin.leave()
        self._standins, self._own = [], []

    @staticmethod
    def _place(held: list[tuple[Any, str, Any]]) -> None:
        for pipe, name, value in held:
            object.__setattr__(pipe, name, value)  # a pipeline's own __setattr__ would rewrite its config

    # what the pipeline tells while it runs

    @contextmanager
    def calling(self, pipe: Any, given: Mapping[str, Any]) -> Iterator[None]:
        """A pipeline is called with these arguments."""
        before = [(run, run.number) for run in self.runs]
        with ExitStack() as stack:
            for stage, standin in self._standing():
                if stage.pipe is pipe or not self.calls:
                    stack.enter_context(standin.told(given, own_call=stage.pipe is pipe))
            self.calls += 1
            try:
                yield
            finally:
                self.calls -= 1
        if not self.calls:
            self._say_what_did_nothing(before)

    def _say_what_did_nothing(self, before: list[tuple[Run, int]]) -> None:
        ran = [run for run, number in before if run.number != number]
        for part in self.parts if ran else ():
            if part.tells and not any(run.acted.get(part.name) for run in ran):
                warnings.warn(f"{part.name}: changed nothing in this generation", NothingChanged, stacklevel=5)
        if self.schedule and before and not ran:
            nothing = "solver: changed nothing in this generation; the pipeline did not ask its scheduler"
            warnings.warn(nothing, NothingChanged, stacklevel=5)

    @contextmanager
    def context(self, network: nn.Module, name: str) -> Iterator[None]:
        """The pipeline says what the next calls of this view are for: "cond", "uncond" or others."""
        run = next((s.run for s in self._standins if any(v is network for v in s.views.values())), None)
        if run is None:
            yield
            return
        before, run.context = run.context, name
        try:
            yield
        finally:
            run.context = before

    def again(self, twin: Any) -> Any:
        """Another pipeline, accelerated in the same way, for good."""
        host = Host(twin, self.schedule)
        host.enter()
        for part in self.parts:
            host._attach(part, host._admitted(part))
            host.parts.append(part)
        host.settle()
        return twin

    def prepared(self, pipe: Any, latents: Any) -> None:
        """A pipeline has prepared these latents, so the number of images is known."""
        kind = next((k.__name__ for k in type(pipe).__mro__ if k.__name__ in LATENTS), None)
        states = latents[LATENTS.get(kind or "", 0)] if isinstance(latents, tuple) else latents
        for stage, standin in self._standing():
            if stage.pipe is pipe and isinstance(states, Tensor):
                standin.run.expect(len(states))


def host_of(pipe: Any) -> Host | None:
    """The host of a pipeline that something is applied to."""
    return getattr(pipe, "__dict__", {}).get(HOST)


@contextmanager
def hosted(pipe: Any, schedule: Schedule | None = None) -> Iterator[Host]:
    """The host of a pipeline: the one that it has, or one for the time.

    Raises UnsupportedModel if the pipeline has no network or scheduler, before anything is changed.
    """
    host = host_of(pipe)
    if host is not None:
        if schedule is not None:
            raise HastenError("model: this pipeline is accelerated already; put all of it into one recipe")
        yield host
        return
    host = Host(pipe, schedule)
    host.enter()
    try:
        yield host
    finally:
        host.leave()
