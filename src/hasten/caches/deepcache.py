"""DeepCache: the deep part of a U-Net is computed on every N-th step and held in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from hasten.caching.cache import CACHES, Cache, Rule
from hasten.caching.gates import Every, Gate
from hasten.caching.planned import Centered
from hasten.caching.unet import UNetDeep
from hasten.core.errors import HastenError, one_of, positive_int
from hasten.core.registry import Paper, Span


@CACHES.add
@dataclass(frozen=True)
class DeepCache(Cache):
    """Compute the deep part of a U-Net on ceil(steps / interval) steps, and hold its output on the others.

    On the other steps the input convolution, the first `branch` units of the way down and the last `branch + 1` of the
    way up still run. A unit is a residual block with its attention, or a downsampler.

    interval: of how many steps the deep part is computed on one, at least 1, which is off.
    branch: how much still runs on the other steps, at least 0, which is the fastest.
    schedule: of the full steps: "uniform", or dense around step `center`: "official" or "signed" (see
        `planned.centered_steps`).
    center: the step around which full steps are dense, unless uniform.
    power: how much denser they are there, above 1.

    Source: Ma et al. 2023, section 3; `branch` is the `cache_branch_id` of the authors' package.
    """

    interval: int = 3
    branch: int = 0
    schedule: str = "uniform"
    center: int = 15
    power: float = 1.4

    name = "deepcache"
    search_space: ClassVar[Mapping[str, Any]] = {"interval": Span(2, 5), "branch": Span(0, 5)}
    paper = Paper("DeepCache: Accelerating Diffusion Models for Free", 2023, "2312.00858")
    off: ClassVar[Mapping[str, Any]] = {"interval": 1}

    def __post_init__(self) -> None:
        positive_int("interval", self.interval)
        one_of("schedule", self.schedule, ("uniform", "official", "signed"))
        for field in ("branch", "center"):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise HastenError(f"{field}: {value!r} is not possible; give a whole number of at least 0")
        if not 1 < self.power < float("inf"):
            raise HastenError(f"power: {self.power!r} is not possible; give a number above 1")

    @property
    def gate(self) -> Gate:
        """On which steps the deep part is computed."""
        if self.schedule == "uniform":
            return Every(self.interval)
        return Centered(self.interval, self.center, self.power, signed=self.schedule == "signed")

    def rules(self, network: nn.Module) -> Sequence[Rule]:
        return [Rule(UNetDeep(self.branch), self.gate)]
