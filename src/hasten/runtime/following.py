"""Accelerations without a pipeline: a denoiser whose network runs under them, for `sample` and `sample_many`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from hasten.denoisers import DenoiserLike, Times
from hasten.predictions import Prediction, Reading
from hasten.runtime.acceleration import Acceleration
from hasten.runtime.run import Run
from hasten.runtime.view import view
from hasten.sampling import Asked
from hasten.solvers.base import Walk


class AcceleratedDenoiser:
    """A denoiser that keeps, for each walk it answers, what its accelerations remember of it.

        fast = AcceleratedDenoiser(unet, lambda net: Denoiser(lambda x, t: net(x, t, text).sample, process),
                                   [DeepCache(interval=3)])
        sample_many(fast, [{"noise": a, "steps": 20}, {"noise": b, "steps": 50}])

    Rows of walks at different steps share a call, and each fares as it would alone. Called other than by `sample` or
    `sample_many`, which say whose rows come next, it answers in full.

    network: stays as it is; accelerations work on a view of it.
    make: view -> the denoiser around it. It may call the network once, with the branches of guidance one after the
        other in one batch (each branch holding the rows in order, the conditional branch last), or once for each
        branch.
    accelerations: outermost first.
    latest: an attribute; the runs of the walks that the latest call answered. Their `skipped` tells which steps a cache
        did without.

    Raises UnsupportedModel, or HastenError for accelerations that cannot work together or in this order.
    """

    def __init__(
        self, network: nn.Module, make: Callable[[nn.Module], DenoiserLike], accelerations: Sequence[Acceleration]
    ) -> None:
        self.network = view(network)
        self.inner = make(self.network)
        self.process = self.inner.process
        kind = getattr(self.inner, "kind", None)
        self.run = run = Run(self.process, None if kind is None else Reading(self.process, kind))
        self.network.register_forward_hook(lambda *_: run.called())
        for acceleration in accelerations:
            acceleration.join(self.network, self.run)
        self._runs: WeakKeyDictionary[Walk, Run] = WeakKeyDictionary()
        self._asked: Sequence[Asked] = ()
        self.latest: Sequence[Run] = ()

    def follow(self, asked: Sequence[Asked]) -> None:
        """The next call holds the rows of these queries, in this order."""
        self._asked = asked

    def __call__(self, x: Tensor, t: Times) -> Prediction:
        asked, self._asked = self._asked, ()
        if sum(one.rows for one in asked) != len(x):
            with self.run.holding([Run(self.process, images=len(x))]):
                return self.inner(x, t)
        self.latest = parts = [self._part(one) for one in asked]
        if self.run.edits:
            pieces = x.split([one.rows for one in asked])
            x = torch.cat([self.run.edited(part, piece) for part, piece in zip(parts, pieces)])
        with self.run.holding(parts):
            together = self.inner(x, t)
        stops = np.cumsum([one.rows for one in asked]).tolist()
        for one, part, stop in zip(asked, parts, stops):
            part.answer(together.rows(stop - one.rows, stop))
        return together

    def _part(self, asked: Asked) -> Run:
        """The run of a walk, at the query that it asks."""
        if asked.walk not in self._runs:
            run = self._runs[asked.walk] = Run(self.process, self.run.reading)
            run.begin(asked.query.steps)
        run = self._runs[asked.walk]
        run.images = asked.rows
        run.follow(asked.query)
        return run
