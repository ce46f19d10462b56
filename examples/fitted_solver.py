"""Fit a solver to a model: with few steps it goes furthest."""

import torch

import hasten
from hasten.denoisers import GaussianMixture
from hasten.processes import VariancePreserving
from hasten.solvers import BNS, DPMSolverPP, UniPC

STEPS, GRID = 6, "karras"

means = torch.randn(10, 16, generator=torch.Generator().manual_seed(1))
denoiser = GaussianMixture(means.numpy(), 0.3, None, VariancePreserving())  # in place of your network
noises, others = torch.randn(2, 64, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

fitted = BNS().fit(denoiser, noises, steps=STEPS, grid=GRID)  # no gradients: least squares, step by step

reference = hasten.sample(denoiser, others, UniPC(order=2), steps=200, grid=GRID)
for solver in (fitted, UniPC(order=3), DPMSolverPP(order=2)):
    result = hasten.sample(denoiser, others, solver, STEPS, GRID)
    distance = (result - reference).square().mean(1).sqrt().median()
    print(f"{solver.name:6} in {STEPS} steps: median RMSE {distance:.4f} on noises that the fit never saw")

hasten.Recipe(solver=fitted, steps=STEPS, grid=GRID).save("fitted")  # the numbers belong to this model and these steps
