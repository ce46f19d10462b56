"""A training run on disk: one safetensors file, replaced atomically, with its numbers as JSON in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from hasten.core.errors import HastenError
from hasten.core.files import Header, read_header, save_tensors

WAY_OUT = "delete it to begin anew, or resume from a whole copy put in its place"


def save_checkpoint(
    path: Path, model: nn.Module, average: nn.Module, optimizer: Optimizer, facts: Mapping[str, Any]
) -> None:
    """Write weights, their moving average and the optimizer's state; `facts` is any JSON (step, settings)."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    save_tensors(path, tensors, {"facts": json.dumps(dict(facts))})


def load_checkpoint(
    path: Path, model: nn.Module, average: nn.Module | None = None, optimizer: Optimizer | None = None
) -> dict[str, Any]:
    """Restore what `save_checkpoint` wrote into the given objects and return its facts.

    Raises HastenError if the file is damaged, no checkpoint, or of another model; then nothing is restored.
    """
    facts = read_facts(path)
    tensors = read_tensors(path)
    parts = [("model.", model)] + ([("average.", average)] if average is not None else [])
    for prefix, part in parts:
        _check_fit(path, _below(tensors, prefix), part)
    for prefix, part in parts:
        part.load_state_dict(_below(tensors, prefix))
    if optimizer is not None:
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in _below(tensors, "optimizer.").items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return facts


def read_facts(path: Path) -> dict[str, Any]:
    """The JSON part of a checkpoint, without reading its tensors. Raises HastenError if the file is damaged."""
    facts = _header(path).metadata.get("facts")
    if facts is None:
        raise HastenError(f"checkpoint: {path} was not written by a Trainer; {WAY_OUT}")
    return json.loads(facts)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint. Raises HastenError if the file is damaged."""
    from safetensors.torch import load_file

    _header(path)
    return load_file(path)


def _header(path: Path) -> Header:
    try:
        return read_header(path)
    except HastenError as error:
        raise HastenError(f"checkpoint: {error}; {WAY_OUT}") from error


def _check_fit(path: Path, tensors: Mapping[str, Tensor], module: nn.Module) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    held = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(wanted.keys() | held.keys()):
        if wanted.get(name) != held.get(name):
            raise HastenError(
                f"checkpoint: {path} is of another model: {name} is {held.get(name, 'missing')} there and "
                f"{wanted.get(name, 'missing')} here; {WAY_OUT}"
            )


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
