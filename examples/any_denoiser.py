"""Solvers on a torch network of your own, and on a mixture whose exact answers are known. No diffusers is imported."""

import torch

import hasten
from hasten.denoisers import Denoiser, GaussianMixture
from hasten.processes import RectifiedFlow
from hasten.solvers import DDIM, DPMSolverPP, UniPC

# a mixture of three Gaussians in the plane, in a rectified flow: its denoiser is exact
exact = GaussianMixture([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]], 0.3, None, RectifiedFlow())
noise = torch.randn(512, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
reference = hasten.sample(exact, noise, UniPC(order=3), steps=200)

for solver in (DDIM(), DPMSolverPP(order=2), UniPC(order=3)):
    results = {steps: hasten.sample(exact, noise, solver, steps) for steps in (5, 10, 20)}
    errors = {steps: (result - reference).square().mean().sqrt() for steps, result in results.items()}
    print(f"{solver.name:6}", *(f"{steps} steps: {error:.4f}" for steps, error in errors.items()), sep="  ")


def network(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """Yours: any function of states and one time a row. It may predict epsilon, the data, v, the flow or the score."""
    return exact(x, time.numpy() / 1000).velocity  # as in diffusers, flow models are shown times up to 1,000


wrapped = hasten.sample(Denoiser(network, RectifiedFlow(), "flow_prediction"), noise, UniPC(order=3), steps=20)
difference = (wrapped - hasten.sample(exact, noise, UniPC(order=3), steps=20)).abs().max()
print(f"the same as a plain network: largest difference {difference:.0e}")
assert difference < 1e-3
