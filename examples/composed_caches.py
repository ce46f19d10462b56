"""Put caches together from parts, and see how near each stays to the image without a cache."""

import torch

import hasten

PROMPT, STEPS = "twemoji croissant", 12


def cache(site, forecaster, interval=2):
    gate = {"name": "every", "interval": interval}
    return {"caches": [{"name": "cache", "site": site, "gate": gate, "forecaster": forecaster}]}


pipe = hasten.load("emoji-flux")


def picture(recipe):
    with hasten.accelerate(pipe, recipe) as fast:
        return fast(PROMPT, num_inference_steps=STEPS, seed=0, output_type="pt").images[0].float()


full = picture({})
line = {"name": "taylor", "order": 1}
for what, recipe in {
    "whole network, held": cache("whole", "hold"),
    "whole network, a straight line": cache("whole", line),
    "all blocks but the first, held": cache({"name": "blocks", "first": 1}, "hold"),
    "all blocks but the first, a straight line": cache({"name": "blocks", "first": 1}, line),
    "whole network, a straight line, every third step": cache("whole", line, 3),
}.items():
    error = (picture(recipe) - full).square().mean()
    print(f"{what}: PSNR {-10 * torch.log10(error):.1f} dB to the image without a cache")
