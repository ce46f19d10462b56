"""The network in a shorter floating-point type, the sampler around it as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hasten.acceleration import batch_of, mapped, wrap
from hasten.catalog import Paper
from hasten.errors import UnsupportedModel, one_of
from hasten.quantize.base import QUANTIZERS, Quantizer
from hasten.running import Run

TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@QUANTIZERS.add
@dataclass(frozen=True)
class Cast(Quantizer):
    """Hold the network's weights in 16 bits and compute in them; states and sampler stay as they are.

    dtype: "bfloat16" or "float16". Parts that a model asks to keep in float32 are kept. Arguments with rows
    (states, embeddings) are cast on the way in and the answer on the way out; times are not.
    Source: Kalamkar et al. 2019 for bfloat16.
    """

    dtype: str = "bfloat16"

    name = "cast"
    paper = Paper("A Study of BFLOAT16 for Deep Learning Training", 2019, "1905.12322")

    def __post_init__(self) -> None:
        one_of("dtype", self.dtype, TYPES)

    def check(self, network: nn.Module) -> None:
        if not any(p.dtype == torch.float32 for p in network.parameters()):
            raise UnsupportedModel(f"quantize: {type(network).__name__} has no float32 weights to cast")

    def attach(self, network: nn.Module, run: Run) -> None:
        dtype, kept = TYPES[self.dtype], tuple(getattr(network, "_keep_in_fp32_modules", None) or ())
        for name, module in network.named_modules():
            if not set(name.split(".")) & set(kept):
                retype(module, lambda x: x.to(dtype) if x.dtype == torch.float32 else x)
        batch = batch_of(network)

        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            whole = batch(args, kwargs).dtype
            args, kwargs = (mapped(given, lambda x: _cast(x, dtype)) for given in (args, kwargs))
            return mapped(inner(*args, **kwargs), lambda x: _cast(x, whole))

        wrap(network, forward)


QUANTIZERS.alias("bfloat16", Cast.name, dtype="bfloat16")
QUANTIZERS.alias("float16", Cast.name, dtype="float16")


def retype(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Change a view's own parameters and buffers (not its children's), without touching the originals."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            changed = change(parameter.detach())
            if changed is not parameter:
                module._parameters[name] = nn.Parameter(changed, parameter.requires_grad)
    module._buffers.update({name: x if x is None else change(x) for name, x in module._buffers.items()})


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if x.is_floating_point() and x.ndim >= 2 else x
