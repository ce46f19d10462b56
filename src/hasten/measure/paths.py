r"""What a denoiser's ODE does to densities and to directions on its way: likelihoods and intrinsic dimension.

In the coordinates y = x / (alpha + sigma), r = sigma / (alpha + sigma) of the velocity v = noise - data the
ODE is dy/dr = v(y, r), without a singularity at either end; it is solved by the classical Runge-Kutta method
through the times of a grid, from t_max to t_min or back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError, positive_int
from hasten.core.estimates import Estimate, bootstrap
from hasten.core.ode import Rate, State, runge_kutta
from hasten.denoisers import DenoiserLike
from hasten.grids import GridLike, schedule
from hasten.measure.fields import Function, differentiable, divergence, linearised
from hasten.processes import Array, Process


def log_likelihood(
    denoiser: DenoiserLike, x: Tensor, steps: int = 50, grid: GridLike = "logsnr",
    prior: Callable[[Tensor], Tensor] | None = None, probes: int | None = None, seed: int = 0,
) -> Tensor:  # fmt: skip
    """The log density of every row of x under the ODE's samples at the smallest time of the grid, (rows,) nats.

    denoiser: the network with its process; its rows do not depend on one another.
    x: states at t_min, (rows, ...); real data are off by the noise that t_min stands for.
    steps: of the solution, four network calls each with their vector-Jacobian products.
    grid: where the times lie, as of `hasten.sample`.
    prior: states at the start -> their log density, (rows,); if None a Gaussian of the process's start scale, which a
        process whose alpha does not reach 0 only comes near.
    probes: None for exact divergences, else how many random signs a row, the same along the whole path; unbiased.
    seed: of the signs.
    Source: Chen et al. 2018, eq. (8); Song et al. 2021, arXiv 2011.13456, eq. (39).
    """
    times = schedule(grid, denoiser.process, steps, "min")[::-1]
    scale, nodes = _coordinates(denoiser.process, times)

    def rate(r: float, state: State) -> State:
        velocity = _velocity(denoiser, r)
        return velocity(state[0]), divergence(velocity, state[0], probes, seed)

    gained = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    *_, (y, gained) = _solve(rate, (x / scale[0], gained), nodes)
    stretched = x[0].numel() * math.log(scale[-1] / scale[0])
    last = scale[-1] * y
    return (prior(last) if prior else _gaussian(last, denoiser.process.start_scale)) + gained + stretched


def bits_per_dimension(
    denoiser: DenoiserLike, x: Tensor, steps: int = 50, grid: GridLike = "logsnr", *, scale: float = 1.0,
    probes: int | None = None, seed: int = 0,
) -> Estimate:  # fmt: skip
    """Minus the mean log likelihood in bits a coordinate; see `log_likelihood`. The interval is over rows.

    denoiser: the network with its process; its rows do not depend on one another.
    x: states at t_min, (rows, ...).
    steps: of the solution.
    grid: where the times lie, as of `hasten.sample`.
    scale: how many units of the data's natural measure one unit of x is (127.5 for bytes shown as -1 to 1).
    probes: as of `log_likelihood`.
    seed: as of `log_likelihood`.
    """
    nats = log_likelihood(denoiser, x, steps, grid, probes=probes, seed=seed)
    bits = -nats.double().cpu().numpy() / (math.log(2) * x[0].numel()) + math.log2(scale)
    return bootstrap(bits, "mean").named("bits per dimension")


def tangent_spectrum(
    denoiser: DenoiserLike, x: Tensor, steps: int = 50, grid: GridLike = "logsnr",
    tangents: int | None = None, seed: int = 0,
) -> tuple[Array, Tensor]:  # fmt: skip
    """How far the ODE's way from x to data stretches small balls of start states around x.

    denoiser: the network with its process; its rows do not depend on one another.
    x: states at the first time, (rows, ...); use float64, because the values span the whole noise range.
    steps: of the solution, four network calls each.
    grid: where the times lie, as of `hasten.sample`.
    tangents: how many random orthonormal directions are carried along; None for all.
    seed: of the directions.
    Returns the times and the singular values, (times, rows, tangents), largest first, of the Jacobian of the state
    there with respect to x.
    Raises HastenError for more tangents than a state has dimensions.
    Source: Horvat and Pfister 2024, arXiv 2402.03845 (intrinsic dimension).
    """
    times = schedule(grid, denoiser.process, steps, "min")
    scale, nodes = _coordinates(denoiser.process, times)

    def rate(r: float, state: State) -> State:
        y, carried = state
        velocity = _velocity(denoiser, r)
        with differentiable():
            push, _ = linearised(velocity, y)
            pushed = [push(direction) for direction in carried]
        return velocity(y), torch.stack(pushed)

    states = _solve(rate, (x / scale[0], _directions(x, tangents, seed) / scale[0]), nodes)
    carried = [size * directions for size, (_, directions) in zip(scale, states, strict=True)]
    return times, torch.stack([torch.linalg.svdvals(d.flatten(2).transpose(0, 1)) for d in carried])


def intrinsic_dimension(
    denoiser: DenoiserLike, x: Tensor, steps: int = 50, grid: GridLike = "logsnr",
    tangents: int | None = None, seed: int = 0,
) -> Estimate:  # fmt: skip
    """The mean number of directions along which the data where x leads are spread.

    Such directions keep their length as noise falls; across the data manifold they shrink with sigma. Counted
    are those whose slope against log(sigma / alpha) is below 1/2 in the last step, so the grid should end
    where noise is larger than what thickens the manifold.

    denoiser: the network with its process; its rows do not depend on one another.
    x: states at the first time, (rows, ...); use float64.
    steps: of the solution, four network calls each.
    grid: where the times lie, as of `hasten.sample`.
    tangents: as of `tangent_spectrum`; no more than these can be counted.
    seed: as of `tangent_spectrum`.
    Source: Horvat and Pfister 2024, arXiv 2402.03845 (intrinsic dimension).
    """
    times, spectrum = tangent_spectrum(denoiser, x, steps, grid, tangents, seed)
    slope = (spectrum[-1].log() - spectrum[-2].log()) / float(np.subtract(*denoiser.process.lam(times[[-2, -1]])))
    return bootstrap((slope < 0.5).sum(-1).double().cpu().numpy(), "mean").named("intrinsic dimension")


def _coordinates(process: Process, times: Array) -> tuple[Array, Array]:
    """alpha + sigma and r at all times."""
    scale = process.alpha(times) + process.sigma(times)
    return scale, process.sigma(times) / scale


def _velocity(denoiser: DenoiserLike, r: float) -> Function:
    process = denoiser.process
    time = min(float(process.time(math.log1p(-r) - math.log(r))), process.t_max) if r < 1 else process.t_max
    scale = float(process.alpha(time) + process.sigma(time))
    return lambda y: denoiser(scale * y, time).velocity


def _solve(rate: Rate, state: State, nodes: Array) -> Iterator[State]:
    """The states at all nodes of d state / dr = rate(r, state), by the classical Runge-Kutta method."""

    def detached(r: float, state: State) -> State:
        return _detached(rate(r, state))

    state = _detached(state)
    yield state
    for r, following in pairwise(nodes.tolist()):
        state = runge_kutta(detached, state, r, following)
        yield state


def _detached(state: State) -> State:
    return tuple(part.detach() for part in state)


def _directions(x: Tensor, tangents: int | None, seed: int) -> Tensor:
    """(tangents, rows, ...): orthonormal directions, the same for every row."""
    n = x[0].numel()
    basis = torch.eye(n, dtype=x.dtype, device=x.device)
    if tangents is not None:
        if positive_int("tangents", tangents) > n:
            raise HastenError(f"tangents: {tangents} is more than the {n} dimensions of a state")
        generator = torch.Generator("cpu").manual_seed(seed)
        drawn = torch.randn(n, tangents, generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(drawn).Q.T.to(x)
    return basis[:, None].expand(-1, len(x), -1).reshape(len(basis), *x.shape)


def _gaussian(x: Tensor, std: float) -> Tensor:
    n = x[0].numel()
    return -0.5 * (x / std).flatten(1).square().sum(1) - n * math.log(std) - 0.5 * n * math.log(2 * math.pi)
