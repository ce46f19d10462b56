"""Finding a pipeline: by zoo name, local folder or hub id."""

from __future__ import annotations

import contextlib
import difflib
import re
from pathlib import Path
from typing import Any

from hasten.bridge.folders import check_files, check_numbers, misfit
from hasten.core.console import no_bars, quiet
from hasten.core.errors import HastenError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def load(name: str | Path, dtype: Any = None, device: Any = None) -> Any:
    """A diffusers pipeline, ready to call.

    name: a model of the zoo ("emoji-sd"), a folder written by `save_pretrained`, or a hub id ("owner/model").
    dtype: a torch dtype or its name; float32 if None.
    device: a torch device or its name; the CPU if None.
    Only safetensors weights are read.
    Raises HastenError, in one line, if there is no such model, it cannot be read, its files are not whole, or
    there is no such device.
    """
    from huggingface_hub.errors import HTTPError
    from safetensors import SafetensorError

    chosen, place, source = _dtype(dtype), _device(device), str(name)
    in_zoo = source in _zoo_names()
    folder = _zoo_folder(source) if in_zoo else _folder(source)
    with quiet(), no_bars():
        try:
            if folder is not None:
                check_files(folder)
            pipe = _from_zoo(source, chosen) if in_zoo else _from_pretrained(folder or source, chosen)
            if folder is not None:
                check_numbers(pipe, folder)
        except (OSError, ValueError, ImportError, AttributeError, RuntimeError, SafetensorError, HTTPError) as error:
            raise HastenError(f"model: cannot load {source!r}: {_reason(error, folder)}") from error
    return pipe if place is None else pipe.to(place)


def _from_zoo(name: str, dtype: Any) -> Any:
    from hasten.zoo import load as load_from_zoo

    return load_from_zoo(name).to(dtype)


def _zoo_folder(name: str) -> Path:
    from hasten.zoo import folder

    return folder(name)


def _from_pretrained(source: str | Path, dtype: Any) -> Any:
    from diffusers import DiffusionPipeline

    local = isinstance(source, Path)
    return DiffusionPipeline.from_pretrained(str(source), dtype=dtype, use_safetensors=True, local_files_only=local)


def _folder(text: str) -> Path | None:
    """The pipeline's folder on the disk, or None for a hub id. Raises HastenError if it is neither."""
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise HastenError(f"model: {text!r} has no model_index.json; give a folder written by save_pretrained")
        return path
    if path.is_file():
        raise HastenError(f"model: {text!r} is a file; give the folder of a diffusers pipeline")
    if HUB_ID.fullmatch(text) and not path.parent.is_dir():
        return None
    zoo = _zoo_names()
    near = difflib.get_close_matches(text, zoo, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"the zoo has: {', '.join(sorted(zoo)) or 'nothing yet'}"
    raise HastenError(f"model: there is no folder, hub id or zoo model {text!r}; {hint}")


def _zoo_names() -> list[str]:
    try:
        from hasten.zoo import names

        return list(names())
    except ImportError:
        return []


def _dtype(dtype: Any) -> Any:
    import torch

    chosen: Any = torch.float32 if dtype is None else dtype
    if isinstance(chosen, str):
        chosen = getattr(torch, chosen, None)
    if not (isinstance(chosen, torch.dtype) and chosen.is_floating_point):
        raise HastenError(f"dtype: {dtype!r} is not possible; give float32, bfloat16 or float16")
    return chosen


def _device(device: Any) -> Any:
    """The torch device that is meant, once it has been seen to work; None if none is given."""
    import torch

    if device is None:
        return None
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        why = "torch sees no CUDA here" if _wants_cuda(device) else _gist(error)
        raise HastenError(f"device: {str(device)!r} is not possible: {why}; leave it out for the CPU") from error
    return chosen


def _wants_cuda(device: Any) -> bool:
    import torch

    return str(device).startswith("cuda") and not torch.cuda.is_available()


def _reason(error: Exception, folder: Path | None) -> str:
    """Why loading failed, in one line."""
    if folder is None:
        return (
            f"it is not whole in the local cache, and asking huggingface.co failed: {_gist(error.__cause__ or error)}"
        )
    if isinstance(error, HastenError):
        return str(error)
    with contextlib.suppress(Exception):  # what cannot be built cannot be compared either
        return misfit(folder) or _gist(error)
    return _gist(error)


def _gist(error: BaseException, longest: int = 200) -> str:
    """The first line of an error, cut short."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return first if len(first) <= longest else f"{first[:longest].rsplit(' ', 1)[0]} ..."
