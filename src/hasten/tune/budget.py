"""How far from the reference a recipe may be, or how fast it must be: read from text, held against scores."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from hasten.errors import HastenError

AT_MOST = ("drift", "rmse", "latent_rmse", "effnet")
AT_LEAST = ("psnr", "ssim", "speed")
EXAMPLES = "1.0x (no further from the reference than the default), ssim>=0.95, latent_rmse<=0.1 or speed>=3"

_FORM = re.compile(r"(?:(?P<metric>[a-z_]+)\s*(?P<sign><=|>=)\s*)?(?P<limit>[^\s<>=]+?)\s*x?")


@dataclass(frozen=True)
class Score:
    """What a budget looks at, of one recipe over one set of samples.

    drift: median latent RMSE against the reference, relative to the default's (1 is as far away as the
    default). flips: share of samples that landed nearer to another reference. speed: the default's time over
    the recipe's. medians: metric -> median over the samples.
    """

    drift: float
    flips: float
    speed: float
    medians: Mapping[str, float]


@dataclass(frozen=True)
class Budget:
    """A limit on one quantity. A drift budget of N also limits flips to N times the default's share.

    metric: "drift" (relative to the default), "speed", or the median of a metric of `hasten.measure.drift`.
    """

    metric: str = "drift"
    limit: float = 1.0

    @classmethod
    def of(cls, budget: Budget | str | float) -> Budget:
        """Read "1.0x" (or a plain number), "ssim>=0.95", "psnr>=30", "latent_rmse<=0.1", "speed>=3".

        Raises HastenError for anything else, and for limits that are not above 0.
        """
        if isinstance(budget, Budget):
            return budget
        text = str(budget).strip().lower()
        found = _FORM.fullmatch(text)
        metric, sign = (found["metric"] or "drift", found["sign"] or "<=") if found else ("", "")
        if found is None or metric not in (AT_LEAST if sign == ">=" else AT_MOST):
            raise HastenError(f"budget: {text!r} is not understood; give for example {EXAMPLES}")
        return cls(metric, _limit(text, found["limit"], 1.0 if metric == "ssim" else math.inf))

    @property
    def seeks_speed(self) -> bool:
        """Whether the best recipe is the fastest one within the budget, not the most faithful."""
        return self.metric != "speed"

    def excess(self, score: Score, default: Score, caution: float = 0.0) -> dict[str, float]:
        """By how much each limit is passed, relative to the limit; 0 or less is within the budget.

        caution: a fraction by which the limit is drawn tighter, for scores from few samples.
        """
        if self.metric == "drift":
            return {
                "drift": score.drift / self.limit - (1 - caution),
                "flips": score.flips - self.limit * default.flips,
            }
        if self.metric == "ssim":
            allowed = max(1 - self.limit, 1e-9)
            return {"ssim": (1 - score.medians["ssim"]) / allowed - (1 - caution)}
        value = score.speed if self.metric == "speed" else score.medians[self.metric]
        if self.metric in AT_LEAST:
            return {self.metric: (1 + caution / 2) - value / self.limit}
        return {self.metric: value / self.limit - (1 - caution)}

    def within(self, score: Score, default: Score, caution: float = 0.0) -> bool:
        """Whether no limit is passed."""
        return all(passed <= 1e-9 for passed in self.excess(score, default, caution).values())

    def __str__(self) -> str:
        if self.metric == "drift":
            return f"{self.limit:g}x"
        return f"{self.metric}{'>=' if self.metric in AT_LEAST else '<='}{self.limit:g}"

    @property
    def sentence(self) -> str:
        """The budget in words."""
        if self.metric == "drift" and self.limit == 1:
            return "no further from the reference than the default (median latent RMSE), and no more flips"
        if self.metric == "drift":
            times = f"{self.limit:g} times"
            return (
                f"at most {times} as far from the reference as the default (median latent RMSE), and {times} its flips"
            )
        if self.metric == "speed":
            return f"at least {self.limit:g} times faster than the default, as faithful as possible"
        return f"median {self.metric} against the reference of {self}"


def _limit(text: str, number: str, highest: float) -> float:
    try:
        limit = float(number)
    except ValueError:
        raise HastenError(f"budget: {text!r} is not understood; give for example {EXAMPLES}") from None
    if not (0 < limit < math.inf and limit <= highest):
        raise HastenError(f"budget: {text!r} is not possible; the limit must be a number above 0, such as 1.0x")
    return limit
