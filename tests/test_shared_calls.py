"""Requests that share a network call fare as they would alone, under every acceleration that others brought."""

import pytest
import torch
from pipelines import make
from tiny import randn

from hasten.caches import CACHES
from hasten.denoisers import Denoiser
from hasten.guidance import GUIDANCES, GuidanceInterval
from hasten.processes import VariancePreserving
from hasten.runtime.following import AcceleratedDenoiser
from hasten.sampling import sample, sample_many

METHODS = [
    ("sd", GUIDANCES, {"name": "reuse", "interval": 3}),
    ("sd", GUIDANCES, {"name": "reuse-frequencies", "interval": 3, "below": None}),
    ("sd", GUIDANCES, {"name": "scale-schedule"}),
    ("sd", CACHES, {"name": "tome"}),
    ("sd", CACHES, {"name": "diffusers-pab", "low": -1.0, "high": 1001.0}),
    ("sd", CACHES, {"name": "diffusers-taylorseer", "interval": 3, "warmup": 1, "modules": [r".*resnets\.\d"]}),
    ("pixart", CACHES, {"name": "diffusers-first-block", "threshold": 0.5}),
    ("pixart", CACHES, {"name": "diffusers-magcache", "ratios": [1.0, 1.1, 0.9], "threshold": 0.5, "retain": 0.0}),
    ("pixart", CACHES, {"name": "diffusers-fastercache", "attention_below": 1001.0, "unconditional_below": 1001.0}),
]


def denoiser(kind: str, methods) -> AcceleratedDenoiser:
    pipe = make(kind)
    network = pipe.unet if kind == "sd" else pipe.transformer
    process = VariancePreserving()
    text = randn(1, 5, 8, seed=7)

    def made(net):
        def guided(x, t):
            rows = len(x)
            prompts = torch.cat([0 * text.expand(rows, -1, -1), text.expand(rows, -1, -1)])
            times = torch.as_tensor(t, dtype=torch.float32).reshape(-1).expand(rows).repeat(2)
            batch = torch.cat([x, x])
            if kind == "sd":
                out = net(batch, times, encoder_hidden_states=prompts).sample
            else:
                out = net(batch, timestep=times, encoder_hidden_states=prompts,
                          added_cond_kwargs={"resolution": None, "aspect_ratio": None}).sample  # fmt: skip
            low, high = out[:, :4].chunk(2)
            return low + 3.0 * (high - low)

        return Denoiser(guided, process)

    return AcceleratedDenoiser(network, made, methods)


def walks() -> list[dict]:
    return [  # one of them takes two calls a step, so that steps differ within a call
        {"noise": randn(1, 4, 8, 8, seed=1), "solver": "ddim", "steps": 6},
        {"noise": randn(2, 4, 8, 8, seed=2), "solver": "dpm++", "steps": 9},
        {"noise": randn(1, 4, 8, 8, seed=3), "solver": "heun", "steps": 4},
        {"noise": randn(1, 4, 6, 10, seed=4), "solver": "ddim", "steps": 5},
    ]


@pytest.mark.parametrize(("kind", "family", "spec"), METHODS, ids=[spec["name"] for _, _, spec in METHODS])
@torch.no_grad()
@pytest.mark.slow
def test_walks_at_different_steps_fare_as_alone(kind, family, spec):
    method = family.build(spec)
    fast, plain = denoiser(kind, [method]), denoiser(kind, [])
    runs = walks()
    together = sample_many(fast, runs)
    again = sample_many(fast, runs)
    for run, got, second in zip(runs, together, again, strict=True):
        assert torch.equal(got, second)
        alone = sample(denoiser(kind, [method]), **run)
        assert (got - alone).abs().max() <= 2e-5 * alone.abs().max()
        assert (sample(plain, **run) - alone).abs().max() > 1e-4 * alone.abs().max(), "the example must do something"


@torch.no_grad()
def test_a_walk_inside_of_a_guidance_interval_beside_one_outside():
    """Rows of one branch and of two in one call: each walk's differences are its own."""
    methods = [GuidanceInterval(low=0.5), GUIDANCES.build({"name": "reuse", "interval": 3})]
    runs = walks()[:3]
    for run, got in zip(runs, sample_many(denoiser("sd", methods), runs), strict=True):
        alone = sample(denoiser("sd", methods), **run)
        assert (got - alone).abs().max() <= 2e-5 * alone.abs().max()
