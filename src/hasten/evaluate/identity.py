"""What pictures depend on, as a text that differs whenever they may: it tells whether kept work is of this problem."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import hasten
from hasten.evaluate.problem import Problem
from hasten.measure.cost import plain_tensors

CHUNK = 1 << 26  # bytes of a tensor that are looked at in one piece
PRIVATE = ("_active_adapter", "_disable_adapters", "_active_adapters")  # attributes of adapters, which change results
VERSIONS = ("torch", "diffusers", "transformers")
DEPTH = 6  # to which objects inside of objects are looked into


def fingerprint(problem: Problem) -> str:
    """What the pictures of a problem depend on, as JSON.

    That is every byte of the parameters and buffers of every module of the pipeline, with names, types and shapes; what
    else the modules compute by (classes, settings, attention processors, FreeU, adapters, hooks); the scheduler and the
    other components; the kind of device; the call; the samples; and the versions of the libraries.

    problem: whose.
    """
    import importlib.metadata

    pipe = problem.pipe
    parts = {name: part for name, part in _components(pipe).items() if part is not None}
    modules = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    others = {name: part for name, part in parts.items() if name not in modules and name != "scheduler"}
    return json.dumps(
        {
            "pipeline": [type(pipe).__name__, _digest_of(_public(pipe)), _digest_of(_settings(pipe))],
            "weights": {name: weights_digest(module) for name, module in modules.items()},
            "modules": {name: _digest_of(list(_behaviour(module))) for name, module in modules.items()},
            "components": {name: _digest_of(_component(part)) for name, part in others.items()},
            "scheduler": [type(pipe.scheduler).__name__, plain(_settings(pipe.scheduler))],
            "device": _device(pipe, modules),
            "steps": problem.steps,
            "call": plain(dict(sorted(problem.call.items()))),
            "samples": {split: asdict(samples) for split, samples in problem.samples.items()},
            "versions": {"hasten": hasten.__version__, **{name: importlib.metadata.version(name) for name in VERSIONS}},
        }
    )


def weights_digest(module: nn.Module) -> str:
    """A digest of all parameters and buffers: names, types, shapes and every byte.

    Tensors are read in pieces, several at a time, and never copied as a whole unless they are not contiguous.

    module: whose.
    """
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    tensors = [(name, part) for name, tensor in named for part in plain_tensors(tensor)]
    alike = {_place(part): part for _, part in tensors}  # what is tied is read once
    with ThreadPoolExecutor() as pool:
        digests = dict(zip(alike, pool.map(tensor_digest, alike.values())))
    return _digest_of([[name, digests[_place(part)]] for name, part in tensors])


def tensor_digest(tensor: Tensor) -> str:
    """A digest of a tensor's type, shape and bytes.

    tensor: of any type, on any device; of one on the meta device there are no bytes.
    """
    made = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=16)
    if tensor.device.type != "meta" and tensor.numel():
        flat = tensor.detach().resolve_conj().resolve_neg().reshape(-1).view(torch.uint8)
        for piece in flat.split(CHUNK):
            made.update(piece.cpu().numpy().data)
    return made.hexdigest()


def plain(value: Any, depth: int = DEPTH) -> Any:
    """A value as JSON has it, which differs whenever the value does and holds no addresses.

    value: anything; tensors, arrays and pictures become digests, objects their class and attributes.
    depth: to which objects inside of objects are looked into.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Tensor):
        return [tensor_digest(part) for part in plain_tensors(value)]
    if isinstance(value, np.ndarray | np.generic):
        return [str(value.dtype), list(value.shape), hashlib.blake2b(value.tobytes(), digest_size=16).hexdigest()]
    if isinstance(value, torch.dtype | torch.device | bytes):
        return str(value)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if depth == 0:
        return kind
    if isinstance(value, Mapping):
        return {str(key): plain(inside, depth - 1) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inside, depth - 1) for inside in value]
    if isinstance(value, set | frozenset):
        return sorted(json.dumps(plain(inside, depth - 1)) for inside in value)
    if hasattr(value, "tobytes") and hasattr(value, "size"):  # a picture
        return [kind, str(value.size), hashlib.blake2b(value.tobytes(), digest_size=16).hexdigest()]
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    inside = {k: v for k, v in getattr(value, "__dict__", {}).items() if not isinstance(v, nn.Module)}
    return [kind, {key: plain(one, depth - 1) for key, one in sorted(inside.items())}]


def _digest_of(value: Any) -> str:
    return hashlib.blake2b(json.dumps(plain(value, 12)).encode(), digest_size=16).hexdigest()


def _place(tensor: Tensor) -> Any:
    storage = tensor.untyped_storage()._cdata
    return storage, tensor.storage_offset(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _components(pipe: Any) -> dict[str, Any]:
    return dict(getattr(pipe, "components", None) or {k: v for k, v in vars(pipe).items() if isinstance(v, nn.Module)})


def _device(pipe: Any, modules: Mapping[str, nn.Module]) -> str:
    """The kind of device that the pipeline runs on, wherever its weights wait."""
    device = getattr(pipe, "_execution_device", None) or getattr(pipe, "device", None)
    if device is None:
        device = next((p.device for module in modules.values() for p in module.parameters()), "cpu")
    return torch.device(device).type


def _settings(part: Any) -> dict[str, Any]:
    """Its config without what begins with an underscore (versions, where it was loaded from)."""
    config: Any = getattr(part, "config", None)
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    if not isinstance(config, Mapping):
        return {}
    kept = {str(key): value for key, value in config.items() if key != "transformers_version"}
    return {key: value for key, value in sorted(kept.items()) if not key.startswith("_")}


def _public(thing: Any) -> dict[str, Any]:
    """Attributes that are plain values: numbers and texts, and rows and tables of them."""
    names = [n for n in vars(thing) if not n.startswith("_") or n in PRIVATE]
    return {name: vars(thing)[name] for name in sorted(names) if _simple(vars(thing)[name])}


def _simple(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_simple, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_simple, value))
    return value is None or isinstance(value, bool | int | float | str | torch.dtype)


def _behaviour(module: nn.Module) -> Iterator[Any]:
    """What a network computes by, besides weights: of every module inside, in order."""
    for name, one in module.named_modules(remove_duplicate=False):
        hooks = [*one._forward_hooks.values(), *one._forward_pre_hooks.values()]
        registry = getattr(one, "_diffusers_hook", None)
        yield [
            name, type(one).__module__, type(one).__qualname__, one.training, _public(one), _settings(one),
            plain(one.__dict__.get("processor")), [_name_of(hook) for hook in hooks],
            sorted(getattr(registry, "hooks", {})),
        ]  # fmt: skip


def _name_of(hook: Any) -> str:
    return getattr(hook, "__qualname__", type(hook).__qualname__)


def _component(part: Any) -> Any:
    """What is no network: a tokenizer by its vocabulary, others by their config."""
    known: list[Any] = [type(part).__name__, _settings(part)]
    if hasattr(part, "get_vocab"):
        limits = [getattr(part, name, None) for name in ("model_max_length", "padding_side", "truncation_side")]
        return [*known, dict(sorted(part.get_vocab().items())), dict(getattr(part, "special_tokens_map", {})), limits]
    if hasattr(part, "to_dict"):
        return [*known, {k: v for k, v in part.to_dict().items() if not str(k).startswith("_")}]
    return [*known, _public(part)] if hasattr(part, "__dict__") else known
