"""The network in a shorter floating-point type, the sampler around it as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hasten.core.errors import UnsupportedModel
from hasten.core.registry import Paper
from hasten.quantize.base import QUANTIZERS, Quantizer
from hasten.runtime.acceleration import Acceleration
from hasten.runtime.anatomy import batch_of
from hasten.runtime.rows import mapped
from hasten.runtime.run import Run
from hasten.runtime.view import keeper_of, says_dtype, wrap

TIMES_AS_STATES = (
    "AceStepTransformer1DModel", "HunyuanDiT2DModel", "HunyuanImageTransformer2DModel",
    "HunyuanVideo15Transformer3DModel", "StableCascadeUNet", "WuerstchenDiffNeXt", "WuerstchenPrior",
)  # fmt: skip
"""Networks that compute in the dtype of their times; all others are given times in float32, which are exacter."""


class Cast(Quantizer):
    """The network's weights in 16 bits, and its arithmetic; states and sampler stay as they are.

    Parts that a model asks to keep in float32 are kept. Arguments with rows (states, embeddings) are cast on the way in
    and the answer on the way out; times are not. A pipeline that asks the network for its dtype is told the one that it
    had.

    dtype: the 16-bit type, set by the subclass.
    """

    tells = True
    dtype: ClassVar[torch.dtype]

    def refuses(self, other: Acceleration) -> bool:
        return isinstance(other, Cast) and other.name != self.name

    def check(self, network: nn.Module) -> None:
        keeper = keeper_of(network)
        if keeper is not None:
            raise UnsupportedModel(
                f"quantize: {keeper} decides where and how the weights of this {type(network).__name__} are kept; "
                "undo that first, or leave it out"
            )
        if not any(p.dtype == torch.float32 for p in network.parameters()):
            raise UnsupportedModel(f"quantize: {type(network).__name__} has no float32 weights to cast; leave it out")

    def attach(self, network: nn.Module, run: Run) -> None:
        says_dtype(network, next(p.dtype for p in network.parameters() if p.is_floating_point()))
        dtype, kept = self.dtype, tuple(getattr(network, "_keep_in_fp32_modules", None) or ())
        for name, module in network.named_modules():
            if not set(name.split(".")) & set(kept):
                retype(module, lambda x: x.to(dtype) if x.dtype == torch.float32 else x)
        batch, least = batch_of(network), 1 if type(network).__name__ in TIMES_AS_STATES else 2

        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            run.act(self.name)
            whole = batch(args, kwargs).dtype
            args, kwargs = (mapped(given, lambda x: _cast(x, dtype, least)) for given in (args, kwargs))
            return mapped(inner(*args, **kwargs), lambda x: _cast(x, whole, least))

        wrap(network, forward)


@QUANTIZERS.add
@dataclass(frozen=True)
class BFloat16(Cast):
    """Weights and arithmetic of the network in bfloat16: the range of float32, 8 bits of precision.

    Source: Kalamkar et al. 2019.
    """

    name = "bfloat16"
    paper = Paper("A Study of BFLOAT16 for Deep Learning Training", 2019, "1905.12322")
    search_space: ClassVar[Mapping[str, Any]] = {}
    dtype = torch.bfloat16


@QUANTIZERS.add
@dataclass(frozen=True)
class Float16(Cast):
    """Weights and arithmetic of the network in float16: 11 bits of precision, numbers up to 65,504.

    Source: Micikevicius et al. 2018.
    """

    name = "float16"
    paper = Paper("Mixed Precision Training", 2018, "1710.03740")
    dtype = torch.float16


def retype(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Change a view's own parameters and buffers (not its children's), without touching the originals.

    module: of the view.
    change: an old tensor -> a new one, or the same, which stays the very object it was. It may not write into the old
        one, which is the caller's own.
    """
    for name, parameter in module._parameters.items():
        if parameter is not None:
            kept = parameter.detach()
            changed = change(kept)
            if changed is not kept:
                module._parameters[name] = nn.Parameter(changed, parameter.requires_grad)
    module._buffers.update({name: x if x is None else change(x) for name, x in module._buffers.items()})


def _cast(x: Tensor, dtype: torch.dtype, least: int) -> Tensor:
    return x.to(dtype) if x.is_floating_point() and x.ndim >= least else x
