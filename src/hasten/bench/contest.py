"""A problem in which peers take part: runs are made by recipes or by settings of peers, here or in another Python."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hasten.bench.remote import Remote
from hasten.bench.setting import Setting
from hasten.bench.worker import deepcached, scheduler_of
from hasten.evaluate.problem import Cost, Pictures, Problem, Runner, Way
from hasten.evaluate.samples import Samples
from hasten.measure import Estimate, bootstrap
from hasten.recipe import Recipe, accelerate
from hasten.runtime.view import view


class Contest(Problem):
    """A Problem whose ways to run are recipes, settings of peers, or None for the default.

    `remotes` holds the processes of the peers that run elsewhere, by name.
    """

    remotes: Mapping[str, Remote] = {}

    @contextmanager
    def running(self, way: Way | None) -> Iterator[Any]:
        """A Runner of one way, set up once; None is the pipeline as shipped."""
        if not isinstance(way, Setting):
            with super().running(way) as run:
                yield run
        elif way.peer in self.remotes:
            yield self._elsewhere(self.remotes[way.peer], way)
        else:
            with self._here(way) as run:
                yield run

    def cost(self, way: Way | None) -> Cost:
        """What one image costs, counted and not timed."""
        if isinstance(way, Setting) and way.peer in self.remotes:
            return self.remotes[way.peer].cost(way, self.single)
        return super().cost(way)

    def remote(self, way: Way) -> Remote | None:
        """The process that runs a way; None if that is this one."""
        return self.remotes.get(way.peer) if isinstance(way, Setting) else None

    def speed_up(self, setting: Setting, repeats: int) -> Estimate:
        """How many times faster than the default a setting is, in the process of its peer.

        setting: of a peer that runs elsewhere.
        repeats: rounds of timing, at least 1.
        """
        ratios = self.remotes[setting.peer].ratios(setting, self.single, repeats, self.steps)
        return bootstrap(ratios).named("speed-up", "x")

    def _elsewhere(self, remote: Remote, setting: Setting) -> Callable[..., Pictures]:
        def run(samples: Samples, steps: int | None = None, output: str = "pt") -> Pictures:
            return remote.draw(setting, samples, self.batch)

        return run

    @contextmanager
    def _here(self, setting: Setting) -> Iterator[Runner]:
        twin = copy.copy(self.pipe)
        twin.set_progress_bar_config(disable=True)
        twin.scheduler = scheduler_of(self.pipe.scheduler, setting.scheduler)
        call = self.call if setting.steps is None else {**self.call, "num_inference_steps": setting.steps}
        method = setting.method
        if method is None:
            yield Runner(twin, call)
        elif method["name"] == "deepcache":  # the package, which patches what it is given and cannot be nested
            twin.unet = view(twin.unet)
            yield Runner(deepcached(twin, method["interval"], method["branch"]), call)
        else:
            with accelerate(twin, Recipe(caches=[dict(method)])) as fast:
                yield Runner(fast, call)
