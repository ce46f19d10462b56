"""How far from the reference a recipe may be, or how fast it must be: read from text, held against scores."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hasten.core.errors import HastenError

AT_MOST = ("drift", "rmse", "latent_rmse", "effnet")
AT_LEAST = ("psnr", "ssim", "speed")
EXAMPLES = "1.0x (no further from the reference than the default), ssim>=0.95, latent_rmse<=0.1 or speed>=3"
MB = 1_000_000
ROUNDING = 1e-9  # of a limit, by which a score may pass it

_FORM = re.compile(r"(?:(?P<metric>[a-z_]+)\s*(?P<sign><=|>=)\s*)?(?P<limit>[^\s<>=]+?)\s*x?")
_MEMORY = re.compile(r"memory\s*<=\s*(?P<amount>[^\s<>=]+?)\s*(?P<unit>mb|gb)")


@dataclass(frozen=True)
class Score:
    """What a budget looks at, of one way to run over one set of samples.

    drift: median latent RMSE against the reference, over the default's: 1 is as far away as the default.
    flips: share of samples that landed nearer to another reference, from 0 to 1.
    speed: the default's time over this one's; above 1 is faster.
    medians: metric of `hasten.measure.drift` -> its median over the samples.
    memory: bytes of the pipeline's weights and of one image's tensors; 0 if not measured.
    interval: the bounds of the drift, or None if it has none.
    """

    drift: float
    flips: float
    speed: float
    medians: Mapping[str, float]
    memory: int = 0
    interval: Sequence[float] | None = None


@dataclass(frozen=True)
class Budget:
    """A limit on one quantity, and one on memory if wanted.

    A drift budget of N also limits flips, to N times the default's share.

    metric: "drift" (over the default's), "speed", or a metric of `hasten.measure.drift`, whose median is limited.
    limit: the highest value allowed, for "speed", "ssim" and "psnr" the lowest; above 0.
    memory: bytes, or None for no limit.
    """

    metric: str = "drift"
    limit: float = 1.0
    memory: int | None = None

    @classmethod
    def of(cls, budget: Budget | str | float) -> Budget:
        """A budget from text.

        budget: "1.0x" or a plain number (drift over the default's), "ssim>=0.95", "psnr>=30", "latent_rmse<=0.1" or
            "speed>=3", each followed by ", memory<=500MB" if memory is limited too; a Budget is passed through.

        Raises HastenError for anything else, and for limits that are not above 0.
        """
        if isinstance(budget, Budget):
            return budget
        text, comma, rest = (part.strip() for part in str(budget).lower().partition(","))
        match = _FORM.fullmatch(text)
        metric, sign = (match["metric"] or "drift", match["sign"] or "<=") if match else ("", "")
        if match is None or metric not in (AT_LEAST if sign == ">=" else AT_MOST):
            raise HastenError(f"budget: {text!r} is not understood; give for example {EXAMPLES}")
        limit = _limit(text, match["limit"], 1.0 if metric == "ssim" else math.inf)
        return cls(metric, limit, _memory(rest) if comma else None)

    @property
    def seeks_speed(self) -> bool:
        """Whether the best is the fastest within the budget. If not (a speed budget), it is the most faithful."""
        return self.metric != "speed"

    def excess(self, score: Score, default: Score, margin: float = 0.0) -> dict[str, float]:
        """By how much each limit is passed, relative to the limit; 0 or less is within the budget.

        score: what is held against the limits.
        default: the default's score on the same samples.
        margin: a fraction of the limit by which it is drawn tighter, from 0 to 1, for scores of few samples.
        """
        passed = self._excess(score, default, margin)
        return passed if self.memory is None else passed | {"memory": score.memory / self.memory - 1}

    def _excess(self, score: Score, default: Score, margin: float) -> dict[str, float]:
        if self.metric == "drift":
            return {
                "drift": score.drift / self.limit - (1 - margin),
                "flips": score.flips - self.limit * default.flips,
            }
        if self.metric == "ssim":
            allowed = max(1 - self.limit, ROUNDING)
            return {"ssim": (1 - score.medians["ssim"]) / allowed - (1 - margin)}
        value = score.speed if self.metric == "speed" else score.medians[self.metric]
        if self.metric in AT_LEAST:
            return {self.metric: (1 + margin / 2) - value / self.limit}
        return {self.metric: value / self.limit - (1 - margin)}

    def within(self, score: Score, default: Score, margin: float = 0.0) -> bool:
        """Whether no limit is passed; the parameters are those of `excess`."""
        return all(passed <= ROUNDING for passed in self.excess(score, default, margin).values())

    def __str__(self) -> str:
        memory = "" if self.memory is None else f", memory<={self.memory / MB:g}MB"
        if self.metric == "drift":
            return f"{self.limit:g}x{memory}"
        return f"{self.metric}{'>=' if self.metric in AT_LEAST else '<='}{self.limit:g}{memory}"

    @property
    def sentence(self) -> str:
        """The budget in words."""
        memory = "" if self.memory is None else f", in at most {self.memory / MB:g} MB"
        return self._quality + memory

    @property
    def _quality(self) -> str:
        if self.metric == "drift" and self.limit == 1:
            return "no further from the reference than the default (median latent RMSE), and no more flips"
        if self.metric == "drift":
            times = f"{self.limit:g} times"
            return (
                f"at most {times} as far from the reference as the default (median latent RMSE), and {times} its flips"
            )
        if self.metric == "speed":
            return f"at least {self.limit:g} times faster than the default, as faithful as possible"
        return f"median {self.metric} against the reference {'≥' if self.metric in AT_LEAST else '≤'} {self.limit:g}"


def _limit(text: str, number: str, highest: float) -> float:
    try:
        limit = float(number)
    except ValueError:
        raise HastenError(f"budget: {text!r} is not understood; give for example {EXAMPLES}") from None
    if not (0 < limit < math.inf and limit <= highest):
        raise HastenError(f"budget: {text!r} is not possible; the limit must be a number above 0, such as 1.0x")
    return limit


def _memory(text: str) -> int:
    """Bytes of "memory<=500MB"."""
    match = _MEMORY.fullmatch(text)
    if match is None:
        raise HastenError(f"budget: {text!r} is not understood; write memory<=500MB, or GB")
    return round(_limit(text, match["amount"], math.inf) * MB * (1000 if match["unit"] == "gb" else 1))
