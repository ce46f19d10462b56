"""PFGM++: data as charges in D extra dimensions; the noise is a Student t of D degrees of freedom."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hasten.core.errors import HastenError
from hasten.processes.base import Array
from hasten.processes.gaussian import VarianceExploding


@dataclass(frozen=True)
class PFGMPlusPlus(VarianceExploding):
    """alpha = 1 and sigma = t with heavy-tailed noise.

    The ODE, the grids and the network's conditioning are EDM's, with r = sigma sqrt(D): only the noise that
    data are trained with and runs start from differs, `noise`. (D(x) - x) / sigma^2 is not the gradient of the
    log density here, so stochastic solvers and likelihoods do not hold for finite D.

    sigma_min, sigma_max: the range the network was trained on.
    extra: the paper's D, above 0; inf is VarianceExploding.

    Source: Xu et al. 2023, arXiv 2302.04265, sections 3 and 4.
    """

    extra: float = 2048.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.extra > 0:
            raise HastenError(f"extra: {self.extra} dimensions are not possible; give a number above 0, or inf")

    def noise(self, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
        """Noise of unit scale, whose variance is D / (D - 2). Times `start_scale`: start states.

        z sqrt(D / chi^2_D) with one chi^2 a row: the paper's Beta draw of the radius, without its clipping.

        shape: (rows, ...).
        generator: what chance is drawn from.
        """
        normal = generator.standard_normal(shape)
        if math.isinf(self.extra):
            return normal
        stretch = np.sqrt(self.extra / generator.chisquare(self.extra, shape[0]))
        return normal * stretch.reshape(-1, *[1] * (len(shape) - 1))

    def log_kernel(self, square: ArrayLike, t: ArrayLike, dimensions: int) -> Array:
        """log p_t(x | y), but for a constant.

        square: |x - y|^2.
        t: the time; broadcasts with the squares.
        dimensions: of x.
        """
        ratio = np.asarray(square, float) / np.square(self.sigma(t))
        if math.isinf(self.extra):
            return -0.5 * ratio
        return -0.5 * (self.extra + dimensions) * np.log1p(ratio / self.extra)
