"""Which part of a pipeline is its network, and which parts of a network are what: told by what they are made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hasten.core.errors import UnsupportedModel

NETWORKS = ("unet", "transformer", "transformer_2", "prior", "decoder")
"""What pipelines call their denoising networks, the main one first."""


def networks_of(pipe: Any) -> dict[str, nn.Module]:
    """The denoising networks of a pipeline, by the attribute that holds each: mostly one.

    Raises UnsupportedModel if there is none.
    """
    named = {name: getattr(pipe, name, None) for name in NETWORKS}
    networks = {name: network for name, network in named.items() if isinstance(network, nn.Module)}
    if not networks:
        raise UnsupportedModel(
            f"model: {type(pipe).__name__} has no {', '.join(NETWORKS[:-1])} or {NETWORKS[-1]}; "
            "give a diffusers pipeline with one"
        )
    return networks


def network_name(pipe: Any) -> str:
    """The attribute under which a pipeline keeps its denoising network, the first of them if it has two."""
    return next(iter(networks_of(pipe)))


def network_of(pipe: Any) -> nn.Module:
    """The denoising network of a pipeline, the first of them if it has two."""
    return getattr(pipe, network_name(pipe))


def states_name(network: nn.Module) -> str:
    """What the forward of a network calls the batch of states: its first argument."""
    return list(inspect.signature(type(network).forward).parameters)[1]


def batch_of(network: nn.Module) -> Callable[[tuple[Any, ...], Mapping[str, Any]], Tensor]:
    """A function that finds the batch of states among the arguments of a network call.

    It raises UnsupportedModel where they are no tensor: some networks take a list of pictures, others ids of tokens.
    """
    name = states_name(network)

    def batch(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        states = args[0] if args else kwargs[name]
        if not isinstance(states, Tensor) or not states.is_floating_point() or states.ndim < 2:
            raise no_batch(network, name, type(states).__name__)
        return states

    return batch


def needs_batch(network: nn.Module) -> None:
    """Raise UnsupportedModel if a network says that it takes its states in another way than as one tensor."""
    first = list(inspect.signature(type(network).forward).parameters.values())[1]
    if "list" in str(first.annotation).lower():
        raise no_batch(network, first.name, str(first.annotation))


def no_batch(network: nn.Module, name: str, given: str) -> UnsupportedModel:
    """The error for a network whose states are no batch."""
    return UnsupportedModel(
        f"model: {type(network).__name__} takes {name} as {given}, not as one batch of states, so its rows cannot be "
        "told apart; choose a recipe of solver, steps and grid only"
    )


_OTHERWISE_INSIDE = {
    "ErnieImageTransformer2DModel": "puts the tokens in front of the images",
    "QwenImage21Transformer2DModel": "keeps keys and values of its own from step to step",
    "AnyFlowTransformer3DModel": "keeps keys and values of its own from step to step",
}
"""Networks that are not made, inside, of blocks which take one row an image and all of it, and what they do instead."""

_ACROSS_FRAMES = ("TransformerSpatioTemporalModel", "TransformerTemporalModel", "AnimateDiffTransformer3D")


def needs_plain_rows(network: nn.Module) -> None:
    """Raise UnsupportedModel if rows are not images inside of a network: frames of its videos, for example."""
    otherwise = _OTHERWISE_INSIDE.get(type(network).__name__)
    if otherwise:
        raise UnsupportedModel(
            f"model: {type(network).__name__} {otherwise}, and this method takes parts of it for functions of one row "
            "an image; leave it out"
        )
    kinds = {type(part).__name__ for part in network.modules()}
    if kinds & set(_ACROSS_FRAMES) or hasattr(network, "temporal_transformer_blocks"):
        raise UnsupportedModel(
            f"model: {type(network).__name__} takes the frames of a video for rows of a batch, and this method takes "
            'rows for images; a cache of the whole network serves ({"name": "cache", "site": "whole"})'
        )


def is_attention(module: nn.Module) -> bool:
    """Whether a module makes queries, keys and values."""
    return hasattr(module, "to_q") or hasattr(module, "to_qkv") or hasattr(module, "qkv")


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The blocks of a transformer in the order they run: the items of its lists whose every item has attention.

    Raises UnsupportedModel for networks without such a list, and for U-Nets, whose blocks change resolution.
    """
    lists = [part for part in network.children() if isinstance(part, nn.ModuleList) and len(part)]
    lists = [part for part in lists if all(b is not None and any(map(is_attention, b.modules())) for b in part)]
    blocks = [block for part in lists for block in part]
    if not blocks or hasattr(network, "up_blocks"):
        raise UnsupportedModel(
            f"model: {type(network).__name__} has no list of attention blocks that follow one another; "
            "give a transformer such as FluxTransformer2DModel"
        )
    return blocks


@dataclass(frozen=True)
class Unit:
    """What leaves one skip on a U-Net's way down, or takes one on its way up: modules in the order they run."""

    block: nn.Module
    parts: tuple[nn.Module, ...]
    ends_block: bool = False


def unet_units(network: Any) -> tuple[list[Unit], list[Unit]]:
    """The units d_0, d_1, ... of the way down, and their mirror images u_0, u_1, ... of the way up.

    Raises UnsupportedModel for networks that are no U-Nets, or whose ways do not mirror each other.
    """
    for name in ("conv_in", "down_blocks", "mid_block", "up_blocks"):
        if not hasattr(network, name):
            raise _no_unet(network, f"has no {name}")
    down = [Unit(network.conv_in, (network.conv_in,))]
    down += [unit for block in network.down_blocks for unit in _units(network, block)]
    up = [unit for block in network.up_blocks for unit in _units(network, block)][::-1]
    if len(down) != len(up):
        raise _no_unet(network, f"leaves {len(down)} skips and takes {len(up)}")
    return down, up


def _units(network: nn.Module, block: Any) -> list[Unit]:
    """The units of one block, in the order they run."""
    kind = type(block).__name__
    for name in block._modules:
        if name not in ("resnets", "attentions", "downsamplers", "upsamplers"):
            raise _no_unet(network, f"has {name} in its {kind}")
    resnets, attentions = list(getattr(block, "resnets", ())), list(getattr(block, "attentions", ()))
    if len(attentions) not in (0, len(resnets)):
        raise _no_unet(network, f"has {len(resnets)} resnets and {len(attentions)} attentions in a {kind}")
    parts = list(zip(resnets, attentions)) if attentions else [(resnet,) for resnet in resnets]
    if getattr(block, "downsamplers", None):
        parts.append(tuple(block.downsamplers))
    return [Unit(block, p, ends_block=p is parts[-1]) for p in parts]


def _no_unet(network: nn.Module, what: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"model: {type(network).__name__} {what}; give a U-Net whose way up takes one skip "
        "for each residual block, such as UNet2DConditionModel"
    )
