"""Faster Diffusion: the encoder of a U-Net is computed on key steps and held in between; the decoder always runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from torch import Tensor, nn

from hasten.caches.ahead import Ahead, Foreseen
from hasten.caching.cache import CACHES, Cache, Rule
from hasten.caching.gates import Every, Gate, Listed
from hasten.caching.unet import UNetEncoder
from hasten.core.errors import HastenError, natural, one_of, positive_int, unit_interval
from hasten.core.frozen import set_fields
from hasten.core.registry import Paper, Span
from hasten.runtime.acceleration import Acceleration, Phase
from hasten.runtime.run import Run

NAMED: Mapping[str, Gate] = {
    "50ls": Listed((0, 1, 2, 3, 5, 10, 15, 25, 35), of=50),
    "pro": Listed(tuple(n * (n + 3) // 2 for n in range(150))),  # where 9 + 8 step is a square
}
"""The key steps of the authors' code: nine of fifty, dense at first, scaled to other runs; and 0, 2, 5, 9, 14, ..."""


@CACHES.add
@dataclass(frozen=True)
class FasterDiffusion(Cache):
    """Compute the way down and the middle of a U-Net on key steps, and hold them on the others.

    ControlNets run, and have their effect, at every step. keys=1 with injection=0 is off.

    keys: the key steps, step 0 always among them: "50ls" or "pro" (see `NAMED`), a number m for every m-th step, or the
        steps themselves.
    injection: how much of the start noise (of unit variance) is added to the state before each late step, image by
        image, at least 0, which adds none. In image-to-image the state it starts from stands for the start noise.
    below: which steps are late: where the time that the network is shown is below this share of its range, 0 to 1.
    parallel: how many steps' decoders share a call at most, at least 1. Above 1, the decoders of a key step and of the
        steps after it run together: the same images with fewer, larger calls, for a GPU with memory to spare. It needs
        a scheduler that asks once a step, no other cache or guidance method can be applied, and residuals of
        ControlNets are those of key steps.

    Source: Li et al. 2023, sections 3.2 to 3.4, and the authors' code.
    """

    keys: str | int | tuple[int, ...] = "50ls"
    injection: float = 0.003
    below: float = 0.5
    parallel: int = 1

    name = "faster-diffusion"
    search_space: ClassVar[Mapping[str, Any]] = {"keys": Span(2, 4), "injection": (0.0,)}
    paper = Paper(
        "Faster Diffusion: Rethinking the Role of the Encoder for Diffusion Model Inference", 2023, "2312.09608"
    )
    after = (*UNetEncoder.within, "cache")  # a "cache" may be of the deep part as well
    off: ClassVar[Mapping[str, Any]] = {"keys": 1, "injection": 0.0}

    def __post_init__(self) -> None:
        if isinstance(self.keys, str):
            one_of("keys", self.keys, NAMED)
        elif isinstance(self.keys, tuple | list):
            set_fields(self, keys=tuple(natural("keys", key) for key in self.keys))
        else:
            positive_int("keys", self.keys)
        if not 0 <= self.injection < float("inf"):
            raise HastenError(f"injection: {self.injection!r} is not possible; give a number of at least 0 (0 is off)")
        unit_interval("below", self.below)
        positive_int("parallel", self.parallel)

    @property
    def gate(self) -> Gate:
        """On which steps the encoder is computed."""
        if isinstance(self.keys, str):
            return NAMED[self.keys]
        return Every(self.keys) if isinstance(self.keys, int) else Listed(self.keys)

    def refuses(self, other: Acceleration) -> bool:
        return self.parallel > 1 and other.name != self.name and other.phase <= Phase.CACHE

    def rules(self, network: nn.Module) -> Sequence[Rule]:
        if self.parallel == 1:
            return [Rule(UNetEncoder(), self.gate)]
        return [Rule(Ahead(self.gate, self.parallel), self.gate, Foreseen())]

    def attach(self, network: nn.Module, run: Run) -> None:
        super().attach(network, run)
        if self.injection:
            run.edits.append(_Injection(self.injection, self.below))


class _Injection:
    """Adds a share of what a generation started from to the states of its late steps."""

    def __init__(self, share: float, below: float) -> None:
        self.share, self.below = share, below
        self._started: WeakKeyDictionary[Run, tuple[int, Tensor]] = WeakKeyDictionary()

    def __call__(self, run: Run, x: Tensor) -> Tensor:
        noise = self._start(run)
        shown, range_ = run.process.network_time(np.array([run.time, run.process.t_max]))
        if noise is None or run.stage or shown >= self.below * range_:
            return x
        run.act(FasterDiffusion.name)
        return x + self.share * noise.to(x)

    def _start(self, run: Run) -> Tensor | None:
        """The state of the first step, scaled to unit variance."""
        first = run.past[0]
        if first.step == 0 and first.stage == 0:
            level = float(np.hypot(run.process.alpha(first.time), run.process.sigma(first.time)))
            self._started[run] = run.number, first.prediction.x / level
        number, noise = self._started.get(run, (None, None))
        return noise if number == run.number else None
