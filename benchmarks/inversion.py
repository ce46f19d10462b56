"""How exactly pictures come back from their noise on emoji-sd: every solver, with and without guidance.

    python benchmarks/inversion.py [--steps 50] [--images 1] [--out benchmarks/results/inversion.json]

Pictures are tiles of the sample grid that ships with the model, inverted with one prompt. A round trip is
data -> state -> data in float32 on the CPU; errors are of latents, whose standard deviation is about 1. The
deviation of the state tells how far it is from the unit noise that the model draws from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from report import save

import hasten
from hasten.edit import denoiser_of, states_of
from hasten.solvers import BDIA, DDIM, EDICT, BDIAHeun, DPMSolverPP

SOLVERS = [EDICT(), BDIA(), BDIA(gamma=0.96), BDIAHeun(exact=True), DDIM(), DPMSolverPP()]


def pictures(count: int) -> list[Image.Image]:
    """The first tiles of the sample grid: 64 pixels each, 4 apart."""
    grid = Image.open(Path(hasten.__file__).parent / "zoo" / "weights" / "emoji-sd" / "samples.png")
    return [grid.crop((4 + 68 * i, 4, 68 + 68 * i, 68)) for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 3.0, 7.5])
    parser.add_argument("--prompt", default="noto red apple")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "inversion.json")
    given = parser.parse_args()

    torch.set_num_threads(1)
    pipe = hasten.load("emoji-sd")
    x0 = torch.cat([states_of(pipe, picture) for picture in pictures(given.images)])
    table = []
    for guidance in given.guidance:
        denoiser = denoiser_of(pipe, [given.prompt] * len(x0), guidance)
        for solver in SOLVERS:
            state = hasten.invert(denoiser, x0, solver, given.steps)
            off = hasten.sample(denoiser, state, solver, given.steps) - x0
            found = {
                "guidance": guidance,
                "name": solver.name,
                "solver": str(solver),
                "largest": float(off.abs().max()),
            }
            found |= {"rms": float(off.square().mean().sqrt()), "deviation": float(state.std())}
            print(f"guidance {guidance:<4} {solver!s:.40} {found['largest']:.1e} {found['deviation']:.2f}", flush=True)
            table.append(found)
    result = {
        "model": "emoji-sd", "images": given.images, "steps": given.steps, "prompt": given.prompt, "grid": "logsnr",
        "dtype": "float32", "results": table,
    }  # fmt: skip
    save(result, given.out)


if __name__ == "__main__":
    main()
