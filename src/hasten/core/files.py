"""What a safetensors file holds, read from its header; a damaged file is refused in words a person can act on."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from hasten.core.errors import HastenError

PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
"""How files of `pickle.dump` and `torch.save` begin."""


@dataclass(frozen=True)
class Header:
    """Names and shapes of the tensors in a file, and the texts beside them."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]

    @property
    def numbers(self) -> int:
        """How many numbers the tensors have together."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def read_header(path: Path) -> Header:
    """The header of a safetensors file whose length fits it; no tensor is read, torch is not needed.

    Raises HastenError naming the file and what is wrong: missing, a pickle, cut off, damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return Header(shapes, file.metadata() or {})
    except OSError as error:
        raise HastenError(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise HastenError(f"{path} {_what_is_wrong(path, str(error))}") from error


def _what_is_wrong(path: Path, error: str) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(32)
        begin = 8 + int.from_bytes(start[:8], "little")
        file.seek(8)
        text = file.read(begin - 8) if begin <= size else b""
    if start.startswith(PICKLES):
        return "is a pickle, which can run code when it is read; only safetensors are"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer and not the weights; `git lfs pull` fetches them"
    if size < begin:
        return f"is cut off or damaged: it has {size:,} bytes, and its header alone should end at {begin:,}"
    try:
        tensors = [entry for name, entry in json.loads(text).items() if name != "__metadata__"]
        end = begin + max((entry["data_offsets"][1] for entry in tensors), default=0)
    except (ValueError, TypeError, KeyError, AttributeError):
        return "is damaged: its header is not that of a safetensors file"
    if size < end:
        return f"is cut off: it has {size:,} of {end:,} bytes"
    return f"is damaged: {error.splitlines()[0]}"
