"""A U-Net with more units than the pipelines of `pipelines.py` have, and the fingerprint of a pipeline."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hasten.core.errors import HastenError

torch.set_num_threads(1)  # more only get in one another's way on tensors this small


def unet(layers: int = 2, **changes: Any) -> nn.Module:
    """A random UNet2DConditionModel of three levels, 1 + 3 layers + 2 units deep, on 8 x 8 states of 4 channels."""
    from diffusers import UNet2DConditionModel

    settings = {
        "sample_size": 8, "layers_per_block": layers, "block_out_channels": (8, 12, 16), "cross_attention_dim": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 2, "norm_num_groups": 4,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DConditionModel(**(settings | changes)).eval()


def randn(*shape: int, seed: int = 0) -> Tensor:
    """The same numbers on every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


NOTES = ("_current_timestep", "_joint_attention_kwargs")  # of the call in progress, which pipelines keep themselves


def fingerprint(pipe: Any) -> dict[Any, Any]:
    """Everything a pipeline is: which objects it holds, and in them every bit, attribute and hook."""
    prints: dict[Any, Any] = {"config": (id(pipe.config), dict(pipe.config))}
    for name, value in vars(pipe).items():
        if name not in NOTES:
            prints[name, "itself"] = id(value)
        if isinstance(value, nn.Module):
            for path, module in value.named_modules():
                prints[name, path] = {key: _frozen(inside) for key, inside in vars(module).items()}
        elif hasattr(value, "timesteps"):
            prints[name, "inside"] = {key: _frozen(inside) for key, inside in vars(value).items()}
    return prints


def part(prints: dict[Any, Any], name: str) -> dict[Any, Any]:
    """What a fingerprint says of one component."""
    return {key: value for key, value in prints.items() if key[0] == name}


def _frozen(value: Any) -> Any:
    if isinstance(value, Tensor):
        bits = value.detach().view(torch.int16) if value.dtype == torch.bfloat16 else value.detach()
        return id(value), bits.numpy().tobytes()
    if isinstance(value, dict):
        return id(value), {key: _frozen(inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return id(value), [_frozen(inside) for inside in value]
    return value if isinstance(value, int | float | str) else id(value)


def is_refused(attempt: Callable[[], Any], match: str) -> None:
    """Check that an attempt is refused by a HastenError of one line that matches."""
    with pytest.raises(HastenError, match=match) as caught:
        attempt()
    assert "\n" not in str(caught.value)
