"""TeaCache: the polynomial from changes of the modulated input to changes of the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from hasten.caches.stacks import TeaCache
from hasten.caching.gates import Gate
from hasten.caching.indicators import Indicator, Modulated, Watcher
from hasten.core.errors import HastenError
from hasten.core.fitters import fitters
from hasten.fit.observing import asked_for, watched
from hasten.runtime.samples import Samples
from hasten.runtime.view import wrap


@fitters.of(TeaCache)
def fit(
    cache: TeaCache, pipe: Any, samples: Samples | Sequence[str] | None = None, *, steps: int | None = None,
    degree: int = 4, **call: Any,
) -> TeaCache:  # fmt: skip
    """`TeaCache().fit(pipe, samples)`: with the polynomial of this model, by least squares over full runs.

    Every image, branch of guidance and step but the first is a point.

    pipe: a diffusers pipeline with a transformer; left as it was.
    samples: which images are drawn for it, or prompts alone, one image each.
    steps: of each run; None for the pipeline's default.
    degree: of the polynomial.
    call: further arguments of the pipeline.

    Raises HastenError for fewer points than coefficients, UnsupportedModel for other networks.
    Source: Liu et al. 2024, section 3.3.
    """
    relative = Gate().measure
    places = [(Modulated(), relative), (_Output(), relative)]
    inputs, outputs = watched(cache, pipe, places, call | asked_for(samples, steps))
    given, wanted = ([changes[at] for at in sorted(inputs)] for changes in (inputs, outputs))
    if len(set(given)) <= degree:
        raise HastenError(
            f"degree: {degree} needs more than {degree} changes to be fitted to, and {len(set(given))} were seen; "
            "give more steps or prompts"
        )
    return replace(cache, coefficients=tuple(np.polyfit(given, wanted, degree).tolist()))


class _Output(Indicator):
    """What the network gives out; too late for a gate."""

    name = "output"

    def check(self, network: nn.Module) -> None:
        pass

    def attach(self, network: nn.Module, watcher: Watcher) -> None:
        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            result = inner(*args, **kwargs)
            watcher.decide(result[0])
            return result

        wrap(network, forward)
