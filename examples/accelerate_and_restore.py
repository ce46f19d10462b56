"""Run a pipeline by a recipe, and have it back bit for bit."""

import numpy as np
import torch

import hasten

PROMPT = "noto red apple"
RECIPE = {"solver": {"name": "unipc", "order": 2}, "steps": 8, "grid": "karras", "quantize": "bfloat16"}

pipe = hasten.load("emoji-sd")


def default():
    return np.asarray(pipe(PROMPT, num_inference_steps=10, generator=torch.Generator().manual_seed(0)).images[0])


before = default()

with hasten.accelerate(pipe, RECIPE) as fast:
    fast(PROMPT, seed=0).images[0].save("apple.png")
    print(f"inside: {type(pipe.scheduler).__name__}, a view of the network in {pipe.unet.dtype}")

after = default()
print(f"outside: {type(pipe.scheduler).__name__}, {pipe.unet.dtype}; the same picture: {(before == after).all()}")
assert (before == after).all()
