"""Whether the folder of a pipeline is whole: its files before loading, its numbers after, the reason of a failure."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hasten.core.errors import HastenError
from hasten.core.files import read_header

UNSAFE = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def check_files(folder: Path) -> None:
    """Look at the files of a pipeline before it is loaded. A pickle beside safetensors is harmless: it is never read.

    folder: as `save_pretrained` writes it.
    Raises HastenError naming the file if one is damaged, if its index names one that is not there, or if there is
    only a pickle.
    """
    for index in folder.rglob("*.safetensors.index.json"):
        for shard in sorted(set(_json(index).get("weight_map", {}).values())):
            if not (index.parent / shard).is_file():
                raise HastenError(f"{index.parent / shard} is missing; {index.name} names it")
    for path in sorted(folder.rglob("*.safetensors")):
        read_header(path)
    for config in sorted(folder.glob("*/config.json")):
        beside = sorted(config.parent.iterdir())
        if not any(path.suffix == ".safetensors" for path in beside):
            for path in beside:
                if path.suffix in UNSAFE:
                    raise HastenError(f"{path} may be a pickle, which can run code when read; only safetensors are")
            raise HastenError(f"{config.parent} has a config.json but no weights in *.safetensors")


def check_numbers(pipe: Any, folder: Path) -> None:
    """Look whether every number of a loaded pipeline came from its files.

    diffusers and transformers fill what is missing with random numbers, and only log it.

    pipe: the pipeline.
    folder: where it was loaded from.
    Raises HastenError if a part has more parameters than its files hold.
    """
    for name, part in pipe.components.items():
        files = list((folder / name).glob("*.safetensors"))
        if not files or not hasattr(part, "parameters") or getattr(part, "is_quantized", False):
            continue
        held = sum(read_header(path).numbers for path in files)
        wanted = sum({p.data_ptr(): p.numel() for p in part.parameters()}.values())
        if held < wanted:
            raise HastenError(f"{files[0]} holds {held:,} numbers where config.json asks for {wanted:,} parameters")


def misfit(folder: Path) -> str | None:
    """The first tensor in the files whose shape is not what the config beside it asks for, in words; None if all fit.

    folder: as `save_pretrained` writes it.
    """
    import torch

    for name, (library, kind) in _parts(folder):
        files = sorted((folder / name).glob("*.safetensors"))
        if not files:
            continue
        cls = getattr(importlib.import_module(library), kind)
        with torch.device("meta"):
            model = cls.from_config(folder / name) if library == "diffusers" else _transformer(cls, folder / name)
        wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
        for path in files:
            for key, shape in read_header(path).shapes.items():
                if wanted.get(key, shape) != shape:
                    return f"{path}: {key} has the shape {shape} where config.json asks for {wanted[key]}"
    return None


def _transformer(cls: Any, folder: Path) -> Any:
    return cls(cls.config_class.from_pretrained(folder, local_files_only=True))


def _parts(folder: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Name, library and class of every part that diffusers or transformers load."""
    for name, entry in _json(folder / "model_index.json").items():
        if isinstance(entry, list) and entry[0] in ("diffusers", "transformers"):
            yield name, (entry[0], entry[1])


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HastenError(f"{path} cannot be read as JSON: {error}") from error
    return content if isinstance(content, dict) else {}
