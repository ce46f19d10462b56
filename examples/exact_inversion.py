"""From a picture to the noise that makes it, and back: exactly with EDICT, roughly with DDIM."""

import torch

import hasten
from hasten.edit import denoiser_of, pictures_of, states_of
from hasten.solvers import DDIM, EDICT

PROMPT, STEPS = "noto red apple", 10

pipe = hasten.load("emoji-sd")
with hasten.accelerate(pipe, {"solver": "unipc", "steps": 10}) as fast:
    picture = fast(PROMPT, seed=0).images[0]
data = states_of(pipe, picture)

denoiser = denoiser_of(pipe, PROMPT)
for solver in (EDICT(), DDIM()):
    state = hasten.invert(denoiser, data, solver, STEPS)
    again = hasten.sample(denoiser, state, solver, STEPS)
    print(f"{solver.name}: largest error after {STEPS} steps there and back: {(again - data).abs().max():.1e}")
    assert isinstance(solver, DDIM) or torch.allclose(again, data, atol=1e-3)
pictures_of(pipe, again)  # states as pictures again
