"""Picture -> noise -> picture, and how far the way back misses."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hasten.core.files import save_tensors
from hasten.edit.inversion import invert
from hasten.edit.pictures import denoiser_of, pictures_of, pixels_of, states_of
from hasten.grids import GridLike
from hasten.measure.pixels import psnr
from hasten.sampling import sample
from hasten.solvers import Solver


@dataclass(frozen=True)
class RoundTrip:
    """A picture that was inverted and drawn again.

    x0: its states, (1, ...).
    noise: what they were inverted to; with a reversible solver a Pair.
    back: the states that came back, (1, ...).
    original: the picture in [0, 1], (1, channels, height, width).
    copy: what the autoencoder makes of x0, the best that any inversion can do; as `original`.
    rebuilt: what it makes of the states that came back; as `original`.
    warnings: what the solver said.
    """

    x0: Tensor
    noise: Tensor
    back: Tensor
    original: Tensor
    copy: Tensor
    rebuilt: Tensor
    warnings: tuple[str, ...]

    @property
    def error(self) -> float:
        """The largest difference of a state that came back from what it was."""
        return float((self.back - self.x0).abs().max())

    def told(self) -> list[str]:
        """The round trip in lines a person reads."""
        inverted, coded = _psnr(self.rebuilt, self.copy), _psnr(self.copy, self.original)
        return [
            f"round trip: states differ by at most {self.error:.2g}, pictures by {inverted:.1f} dB PSNR",
            f"against the picture given: {_psnr(self.rebuilt, self.original):.1f} dB ({coded:.1f} dB without the trip)",
            f"noise: standard deviation {float(self.noise.std()):.2f} (1 is what the model starts from)",
            *(f"warning: {text}" for text in self.warnings),
        ]

    def save(self, out: Path) -> None:
        """Write the rebuilt picture, and the noise to a safetensors file beside it.

        out: the picture's file, ending in the suffix of a kind that PIL writes.
        """
        from PIL import Image

        levels = (self.rebuilt[0] * 255).round().byte().permute(1, 2, 0).squeeze(-1)
        Image.fromarray(levels.cpu().numpy()).save(out)
        save_tensors(out.with_suffix(".safetensors"), {"noise": self.noise})


def round_trip(
    pipe: Any, image: Any, prompt: str = "", guidance: float = 1.0,
    solver: Solver | str | Mapping[str, Any] = "edict", steps: int = 50, grid: GridLike = "logsnr",
) -> RoundTrip:  # fmt: skip
    """Invert a picture with a pipeline's network, and draw it again from the noise.

    pipe: a pipeline that `denoiser_of` takes.
    image: a PIL picture.
    prompt: what it shows.
    guidance: the scale of classifier-free guidance in both directions; 1 is none.
    solver: "edict" or "bdia" (exact), or another deterministic one (not exact).
    steps: how many in each direction.
    grid: where the times lie, as of `hasten.sample`.
    Raises HastenError as `hasten.invert` does, UnsupportedModel for other pipelines.
    """
    denoiser, x0 = denoiser_of(pipe, prompt, guidance), states_of(pipe, image)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        noise = invert(denoiser, x0, solver, steps, grid)
    back = sample(denoiser, noise, solver, steps, grid)
    said = tuple(str(w.message) for w in caught if w.category is RuntimeWarning)
    copy, rebuilt, original = pictures_of(pipe, x0), pictures_of(pipe, back), pixels_of(pipe, image)
    return RoundTrip(x0, noise, back, original.float().cpu() / 2 + 0.5, copy.cpu(), rebuilt.cpu(), said)


def _psnr(one: Tensor, other: Tensor) -> float:
    """Of one picture in [0, 1], in dB; inf if they are equal."""
    return float(psnr(one, other, ceiling=math.inf))
