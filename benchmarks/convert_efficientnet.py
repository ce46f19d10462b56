"""One-off conversion of the published EfficientNet-Lite0 weights to those in src/hasten/zoo/weights.

    python benchmarks/convert_efficientnet.py efficientnet-lite0-57934424.pth efficientnet_lite0.safetensors

The file comes from a pickle: its digest is checked, and it is read with weights_only=True.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

BATCH_NORM_EPSILON = 1e-3
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fold every batch norm into the convolution before it, drop the classifier; fp16 weights and biases."""
    pairs = {"stem": ("_conv_stem", "_bn0"), "head": ("_conv_head", "_bn1")}
    count = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("_blocks."))
    for block in range(count):
        parts = ["expand", "depthwise", "project"]
        if f"_blocks.{block}._expand_conv.weight" not in state:
            parts.remove("expand")
        for part, norm in zip(parts, ["_bn0", "_bn1", "_bn2"][-len(parts) :], strict=True):
            pairs[f"{block}.{part}"] = (f"_blocks.{block}._{part}_conv", f"_blocks.{block}.{norm}")
    out = {}
    for name, (conv, norm) in pairs.items():
        gain, shift, mean, variance = (
            state[f"{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gain / (variance + BATCH_NORM_EPSILON).sqrt()
        weight, bias = state[f"{conv}.weight"].double() * scale[:, None, None, None], shift - mean * scale
        out[f"{name}.weight"], out[f"{name}.bias"] = weight.half().contiguous(), bias.half()
    return out


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    if hashlib.sha256(source.read_bytes()).hexdigest() != SHA256:
        sys.exit(f"{source} is not the published file (its sha256 is not {SHA256})")
    save_file(convert(torch.load(source, map_location="cpu", weights_only=True)), target)
    print(hashlib.sha256(target.read_bytes()).hexdigest(), target)
