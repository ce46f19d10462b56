"""What the papers claim of trained networks, measured on the models that ship: emoji-sd and digits.

    python benchmarks/shipped_evidence.py [--only teleport fields edits]

teleport: the first steps replaced by the Gaussian solution, on emoji-sd. fields: how far the networks are from a
score field, by noise level, and the ODE's samples from the SDE's. edits: another prompt on the way back from
EDICT's noise, against SDEdit. Merged into benchmarks/results/shipped_evidence.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from report import sections
from torch import Tensor

import hasten
from hasten import zoo
from hasten.denoisers import Denoiser
from hasten.edit import denoiser_of, pictures_of
from hasten.grids import schedule
from hasten.measure import asymmetry, bootstrap, fokker_planck_residual, frechet_distance, intrinsic_dimension
from hasten.processes import from_config
from hasten.sampling import sample
from hasten.solvers import DDIM, EDICT, DPMSolverPP
from hasten.starts import GaussianTeleport
from hasten.zoo_training.digits import data

RESULTS = Path(__file__).parent / "results" / "shipped_evidence.json"


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def teleport() -> dict[str, Any]:
    """RMSE of latents to 80 steps, from the model's own noise and from where the Gaussian solution leads."""
    pipe = hasten.load("emoji-sd")
    prompts = zoo.captions("emoji-sd")
    own = [
        sample(denoiser_of(pipe, prompts[i : i + 16]), draw(16, 4, 16, 16, seed=i), steps=15, grid="karras")
        for i in range(0, 160, 16)
    ]
    gaussian = GaussianTeleport().fit(torch.cat(own))
    noise, denoiser = draw(16, 4, 16, 16, seed=999), denoiser_of(pipe, zoo.captions("emoji-sd", "confirm")[:16])
    process = denoiser.process
    truth = sample(denoiser, noise, steps=80, grid="karras")
    found: dict[str, Any] = {
        "pictures": 16, "samples of the model": 160, "guidance": 1.0, "grid": "karras", "solver": "dpm++",
        "largest deviation": float(gaussian.variances.max()) ** 0.5,
        "sigma over alpha at the start": float(process.sigma(process.t_max) / process.alpha(process.t_max)),
        "share of the score explained": {
            f"{t:g}": gaussian.explained(denoiser, torch.cat(own)[:16], t) for t in (999.0, 900.0, 700.0, 500.0)
        },
    }  # fmt: skip
    for steps in (10, 15):
        times = schedule("karras", process, steps)
        for skipped in range(4):
            state = gaussian(process, noise, times[skipped])[0].float() if skipped else noise
            off = (sample(denoiser, state, grid=times[skipped:]) - truth).square().mean((1, 2, 3)).sqrt()
            found[f"{steps} steps, {skipped} skipped"] = row = bootstrap(off.numpy(), "median").to_json()
            print(steps, skipped, row, flush=True)
    return found


def fields() -> dict[str, Any]:
    pipe = zoo.load("digits")
    pipe.unet.float().requires_grad_(False)
    labels = torch.arange(8)
    process = from_config(pipe.scheduler.config)
    clean, digits = data()

    def of(label: Tensor) -> Denoiser:
        return Denoiser(lambda x, n: pipe.unet(x, n, class_labels=label).sample, process)

    found: dict[str, Any] = {"model": "digits", "rows": 8, "probes": 8, "asymmetry": {}, "Fokker-Planck residual": {}}
    pictures = torch.stack([clean[digits == k][0] for k in labels])
    for t in (20.0, 100.0, 250.0, 500.0, 800.0):
        x = float(process.alpha(t)) * pictures + float(process.sigma(t)) * draw(8, 1, 8, 8, seed=int(t))
        found["asymmetry"][f"{t:g}"] = asymmetry(of(labels), x, t, 8).to_json()
        found["Fokker-Planck residual"][f"{t:g}"] = fokker_planck_residual(of(labels), x, t, 8).to_json()
        print(t, {key: found[key][f"{t:g}"]["value"] for key in ("asymmetry", "Fokker-Planck residual")}, flush=True)

    many = torch.arange(600) % 10
    ends = {}
    with torch.no_grad():
        for name, eta, seed in (("ODE", 0.0, 1), ("another ODE", 0.0, 2), ("SDE", 1.0, 3)):
            noise = draw(600, 1, 8, 8, seed=seed)
            ends[name] = sample(of(many), noise, DDIM(eta=eta), 100, "logsnr").flatten(1)
    real = clean[:600].flatten(1)
    pairs = [("ODE", "SDE"), ("ODE", "another ODE")]
    found["Frechet distance of pixels, 600 samples, 100 steps"] = {
        **{f"{a} and {b}": frechet_distance(ends[a], ends[b]).to_json() for a, b in pairs},
        **{f"{a} and data": frechet_distance(ends[a], real).to_json() for a in ("ODE", "SDE")},
    }
    print(found["Frechet distance of pixels, 600 samples, 100 steps"], flush=True)

    found["intrinsic dimension, of 64 pixels, 2 rows"] = {}
    for digit in (1, 8):
        size = intrinsic_dimension(of(torch.full((2,), digit)), draw(2, 1, 8, 8, seed=digit), 8)
        found["intrinsic dimension, of 64 pixels, 2 rows"][str(digit)] = size.to_json()
        print(digit, size, flush=True)
    return found


SWAPS = [
    ("noto red apple", "noto green apple"), ("noto dog face", "noto cat face"), ("noto red heart", "noto blue heart"),
    ("noto sun", "noto full moon"),
]  # fmt: skip


def edits() -> dict[str, Any]:
    """Pictures drawn for one prompt and redrawn for another from the same noise level, EDICT and SDEdit.

    Kept: RMSE where the picture was white, in levels of 0 to 1. Changed: elsewhere. Back: what both ways make of
    the first prompt itself.
    """
    pipe = hasten.load("emoji-sd")
    known = set(zoo.captions("emoji-sd")) | set(zoo.captions("emoji-sd", "confirm"))
    found: dict[str, Any] = {"steps": 30, "guidance": 3.0, "pictures": 8, "captions": {}, "results": {}}
    sources = [pair[0] for pair in SWAPS for _ in range(2)]
    wanted = [pair[1] for pair in SWAPS for _ in range(2)]
    found["captions"] = {a: [b, a in known, b in known] for a, b in SWAPS}
    drawn, swapped = (denoiser_of(pipe, prompts, 3.0) for prompts in (sources, wanted))
    plain = denoiser_of(pipe, sources)
    x0 = sample(drawn, draw(8, 4, 16, 16, seed=4), steps=20, grid="karras")
    before = pictures_of(pipe, x0)
    white = (before > 0.95).all(1, keepdim=True).expand_as(before)

    def rms(x: Tensor) -> float:
        return float(x.square().mean().sqrt())

    for strength in (0.5, 0.65, 0.8):
        times = schedule("trailing", drawn.process, 50)
        times = times[times <= strength * drawn.process.t_max]
        state = hasten.invert(plain, x0, EDICT(), grid=times)
        alpha, sigma = float(drawn.process.alpha(times[0])), float(drawn.process.sigma(times[0]))
        noised = alpha * x0 + sigma * draw(8, 4, 16, 16, seed=6)
        ways = {
            "EDICT": sample(swapped, state, EDICT(), grid=times),
            "SDEdit": sample(swapped, noised, DPMSolverPP(), grid=times),
            "EDICT, same prompt": sample(plain, state, EDICT(), grid=times),
        }
        for way, x in ways.items():
            off = pictures_of(pipe, x) - before
            row = {"kept": rms(off[white]), "changed": rms(off[~white]), "latents": rms(x - x0)}
            found["results"][f"{way}, {strength:g}"] = row
            print(strength, way, row, flush=True)

    pipe.to(torch.float64)
    exact = denoiser_of(pipe, sources[:1])
    found["mean squared error there and back in float64, 30 steps, no guidance"] = trips = {}
    for solver in (EDICT(), DDIM()):
        state = hasten.invert(exact, x0[:1].double(), solver, 30)
        trips[solver.name] = rms(sample(exact, state, solver, 30) - x0[:1]) ** 2
    return found


SECTIONS = {"teleport": teleport, "fields": fields, "edits": edits}


if __name__ == "__main__":
    torch.set_num_threads(1)
    sections(__doc__, SECTIONS, RESULTS)
