r"""What the Jacobian of a denoiser says: is it a score field, of one density, that noise really produces?

All of it holds in the coordinates y = x / alpha, r = sigma / alpha of the noise prediction eps, where every
Gaussian path is dy = sqrt(2 r) dW in r, the score of y is -eps / r, and no derivative of alpha or sigma is needed.

probes: None forms every derivative exactly (one backward pass a dimension); a number draws that many random
signs a row instead (Hutchinson), unbiased.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from hasten.core.errors import HastenError, positive_int
from hasten.core.estimates import Estimate, bootstrap, bootstrap_ratio
from hasten.denoisers import DenoiserLike
from hasten.processes import Process

Function = Callable[[Tensor], Tensor]  # (rows, ...) -> the same shape, rows independent
LogDensity = Callable[[Tensor, float], Tensor]  # (rows, ...), time -> (rows,)
STEP = 1e-3  # of the difference quotient in log r; its error is STEP^4 times the fifth derivative


def probe(x: Tensor, probes: int | None, seed: int = 0) -> tuple[Iterator[Tensor], float]:
    """Directions v shaped like x, and the weight with which the sum of v . J v is the trace of J.

    x: states, (rows, ...).
    probes: None for all unit vectors, else how many random directions a row.
    seed: of the directions.
    """
    if probes is None:
        return _basis(x), 1.0
    positive_int("probes", probes)
    generator = torch.Generator("cpu").manual_seed(seed)
    signs = torch.randint(0, 2, (probes, *x.shape), generator=generator) * 2 - 1
    return iter(signs.to(x)), 1 / probes


def divergence(function: Function, x: Tensor, probes: int | None = None, seed: int = 0) -> Tensor:
    """The trace of a function's Jacobian at every row, (rows,).

    function: states -> the same shape, rows independent.
    x: states, (rows, ...).
    probes: None for exact derivatives, else how many random directions a row.
    seed: of the directions.
    """
    with differentiable():
        pull = torch.func.vjp(function, x)[1]
        directions, weight = probe(x, probes, seed)
        return weight * torch.stack([row_dot(v, pull(v)[0]) for v in directions]).sum(0)


def linearised(function: Function, x: Tensor) -> tuple[Function, Function]:
    """v -> J v and v -> J' v. J v is the derivative of J' u by u, because some layers have no forward derivative.

    function: states -> the same shape, rows independent.
    x: where, (rows, ...).
    """
    pull = torch.func.vjp(function, x)[1]
    push = torch.func.vjp(lambda u: pull(u)[0], torch.zeros_like(x))[1]
    return lambda v: push(v)[0].detach(), lambda v: pull(v)[0].detach()


def asymmetry(denoiser: DenoiserLike, x: Tensor, t: float, probes: int | None = None, seed: int = 0) -> Estimate:
    """|J - J'|^2 / |J|^2 for J the Jacobian of the score at states x and time t, summed over rows.

    0 for a conservative field, 4 for a purely rotating one. The interval is over rows.

    denoiser: the network with its process; its rows do not depend on one another.
    x: states at time t, (rows, ...).
    t: a time where alpha and sigma are above 0.
    probes: None for exact derivatives, else how many random directions a row.
    seed: of the directions.
    Source: Horvat and Pfister 2024, arXiv 2402.03845 (conservativity).
    """
    unlike = whole = torch.zeros(len(x), dtype=torch.float64)
    function = noise_field(denoiser, t)
    with differentiable():
        push, pull = linearised(function, x)
        for v in probe(x, probes, seed)[0]:
            along = push(v)
            unlike = unlike + row_dot(along - pull(v)).cpu()
            whole = whole + row_dot(along).cpu()
    return bootstrap_ratio(unlike.numpy(), whole.numpy(), "mean").named("asymmetry")


def noise_field(denoiser: DenoiserLike, t: float) -> Function:
    """The noise prediction, -sigma times the score, as a function of the state alone.

    denoiser: the network with its process.
    t: the time.
    """
    return lambda x: denoiser(x, t).noise


def fokker_planck_residual(
    denoiser: DenoiserLike, x: Tensor, t: float, probes: int | None = None, seed: int = 0
) -> Estimate:
    r"""Root mean square, a coordinate, of how far the score breaks the equation that every score obeys.

    With u = log(sigma / alpha), in units of the noise prediction,

        d eps / du - eps - r^2 grad(div eps) + r grad |eps|^2,

    which is 0 for all x and t when eps is the noise prediction of some density spread by the process, and
    bounds how far ODE and SDE samples may lie apart. With probes two independent sets are multiplied, so that
    probing adds no bias to the mean square. The interval is over rows.

    denoiser: the network with its process; its rows do not depend on one another.
    x: states at time t, (rows, ...).
    t: a time where alpha and sigma are above 0.
    probes: None for exact derivatives, else how many random directions a row.
    seed: of the directions.
    Raises HastenError for a time where alpha or sigma is 0.
    Source: Deveney et al. 2023, arXiv 2311.15996 (the gradient of their log-density residual).
    """
    one = _residual(denoiser, x, t, probes, 2 * seed)
    other = one if probes is None else _residual(denoiser, x, t, probes, 2 * seed + 1)
    return _rms(row_dot(one, other) / x[0].numel()).named("Fokker-Planck residual")


def density_residual(log_density: LogDensity, process: Process, x: Tensor, t: float) -> Tensor:
    r"""d phi / du - r^2 (laplacian phi + |grad phi|^2) in y, for a log density phi(x, t) of the states, (rows,).

    u = log(sigma / alpha) grows with time; multiply by du/dt for the residual a unit of time. A constant c(t)
    that is missing from phi adds dc/du.

    log_density: (x, t) -> phi, (rows,).
    process: what alpha and sigma are.
    x: states at time t, (rows, ...).
    t: a time where alpha and sigma are above 0.
    Source: Deveney et al. 2023, arXiv 2311.15996 (log-density residual).
    """
    r, n = _ratio(process, t), x[0].numel()

    def phi(y: Tensor, u: float) -> Tensor:
        time, alpha = _at(process, u)
        return log_density(alpha * y, time) + n * math.log(alpha)

    y, u = x / float(process.alpha(t)), math.log(r)
    slope = torch.func.grad(lambda z: phi(z, u).sum())
    gradient = slope(y)
    return _derivative(lambda v: phi(y, v), u) - r**2 * (divergence(slope, y) + row_dot(gradient))


def gauge_residual(
    denoiser: DenoiserLike, exact: DenoiserLike, x: Tensor, t: float, probes: int | None = None, seed: int = 0
) -> Estimate:
    """Root mean square of sigma^2 (div R + R . score) over rows, R the difference of the scores of the two.

    0 if the difference moves samples along the density without changing it, so that both have the same
    marginals.

    denoiser: the network with its process; its rows do not depend on one another.
    exact: knows the true score: a GaussianMixture.
    x: states at time t drawn from `exact`, (rows, ...).
    t: a time where sigma is above 0.
    probes: None for exact derivatives, else how many random directions a row.
    seed: of the directions.
    Source: Horvat and Pfister 2024, arXiv 2402.03845 (gauge condition).
    """
    sigma = float(exact.process.sigma(t))

    def remainder(z: Tensor) -> Tensor:
        return sigma * (denoiser(z, t).score - exact(z, t).score)

    flow = sigma * divergence(remainder, x, probes, seed) - row_dot(remainder(x), exact(x, t).noise)
    return _rms(flow.square()).named("gauge residual")


def conservative_part(function: Function, basis: Callable[[Tensor], Tensor], x: Tensor) -> Function:
    """The gradient field nearest to `function` in the mean square over the states x; the rest is a gauge freedom.

    Sampling with `function` is exact if and only if this part is the true score.

    function: states -> the same shape.
    basis: (rows, ...) -> (rows, m), functions whose sums the potential is sought among, by least squares; for few
        dimensions.
    x: states, (rows, ...).
    Source: Horvat and Pfister 2024, arXiv 2402.03845 (decomposition).
    """
    values, pull = torch.func.vjp(basis, x)[:2]
    units = torch.eye(values.shape[1], dtype=x.dtype, device=x.device)
    gradients = torch.stack([pull(unit.expand_as(values))[0].flatten() for unit in units], 1)
    weights = torch.linalg.lstsq(gradients, function(x).flatten()[:, None], driver="gelsd").solution
    return torch.func.grad(lambda z: (basis(z) @ weights).sum())


def _residual(denoiser: DenoiserLike, x: Tensor, t: float, probes: int | None, seed: int) -> Tensor:
    process, r = denoiser.process, _ratio(denoiser.process, t)
    y, u = x / float(process.alpha(t)), math.log(r)

    def noise(z: Tensor, at: float = u) -> Tensor:
        time, alpha = _at(process, at)
        return denoiser(alpha * z, time).noise

    def potential(z: Tensor) -> Tensor:
        return (r * row_dot(noise(z)) - r**2 * divergence(noise, z, probes, seed)).sum()

    with differentiable():
        gradient = torch.func.grad(potential)(y)
    return (_derivative(lambda v: noise(y, v), u) - noise(y) + gradient).detach()


def _derivative(function: Callable[[float], Tensor], u: float, h: float = STEP) -> Tensor:
    """The central difference of five points."""
    near, far = (function(u + k * h) - function(u - k * h) for k in (1, 2))
    return (8 * near - far) / (12 * h)


def _at(process: Process, u: float) -> tuple[float, float]:
    """The time where log(sigma / alpha) is u, and alpha there."""
    time = float(process.time(-u))
    return time, float(process.alpha(time))


def _ratio(process: Process, t: float) -> float:
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    if not (alpha > 0 and sigma > 0):
        raise HastenError(f"t: {t} has alpha {alpha:g} and sigma {sigma:g}; give a time where both are above 0")
    return sigma / alpha


def _rms(squares: Tensor) -> Estimate:
    """The root of a mean of squares, its interval through the root."""
    mean = bootstrap(squares.detach().double().cpu().numpy(), "mean")
    root = {name: math.sqrt(max(0.0, getattr(mean, name))) for name in ("value", "low", "high")}
    return replace(mean, **root)


def _basis(x: Tensor) -> Iterator[Tensor]:
    flat = torch.zeros(x[0].numel(), dtype=x.dtype, device=x.device)
    for k in range(len(flat)):
        unit = flat.clone()
        unit[k] = 1
        yield unit.reshape(x.shape[1:]).expand_as(x)


def row_dot(a: Tensor, b: Tensor | None = None) -> Tensor:
    """Inner product of each row, (rows,).

    a: (rows, ...).
    b: of the same shape; `a` itself if None.
    """
    return (a * (a if b is None else b)).flatten(1).sum(1)


def differentiable():
    """The attention kernel that has derivatives of every order and kind."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)
