"""What a forward pass of each zoo model costs at batch 2, as a ratio to a 1024 x 1024 x 1024 float32 matrix product.

    python benchmarks/zoo_forward.py [--threads 2] [--out benchmarks/results/zoo_forward.json]

The passes and the product take turns in one process; the ratio does not depend much on the machine, the milliseconds
do. Multiply-adds stand beside it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from report import save

import hasten
from hasten.measure import macs, timed_ratio
from hasten.zoo import call, folder


def forward(name: str) -> Callable[[], Any]:
    """The denoiser's call of one sampling step, two rows."""
    pipe = hasten.load(name)
    if hasattr(pipe, "unet"):
        words = torch.randn(2, pipe.tokenizer.model_max_length, pipe.unet.config.cross_attention_dim)
        return lambda: pipe.unet(torch.randn(2, 4, 16, 16), 500, words)
    length = call(folder(name))["max_sequence_length"]
    width = pipe.transformer.config.joint_attention_dim
    places = pipe._prepare_latent_image_ids(2, 8, 8, "cpu", torch.float32)
    known = {
        "encoder_hidden_states": torch.randn(2, length, width), "img_ids": places,
        "pooled_projections": torch.randn(2, width), "txt_ids": torch.zeros(length, 3),
    }  # fmt: skip
    return lambda: pipe.transformer(hidden_states=torch.randn(2, 64, 16), timestep=torch.full((2,), 0.5), **known)


def milliseconds(run: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return 1000 * sorted(times)[rounds // 2]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "zoo_forward.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    left, right = torch.randn(2, 1024, 1024)
    report: dict[str, Any] = {
        "what": "a forward pass at batch 2 over a 1024^3 float32 matrix product", "threads": given.threads,
        "models": {},
    }  # fmt: skip
    for name in ("emoji-sd", "emoji-flux"):
        run = forward(name)
        for _ in range(5):
            run()
        ratio = timed_ratio(run, lambda: left @ right, repeats=given.rounds)
        spent = milliseconds(run, given.rounds)
        report["models"][name] = {"ratio": ratio.to_json(), "milliseconds": spent, "macs": macs(run)}
        print(f"{name}: {ratio} of the product, {spent:.1f} ms, {macs(run) / 1e6:.0f} M multiply-adds")
    save(report, given.out)


if __name__ == "__main__":
    main()
