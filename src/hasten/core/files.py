"""Files: headers of safetensors, with damage told in words a person can act on, and writing that is all or nothing."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from hasten.core.errors import HastenError

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")
"""How files of `pickle.dump` and `torch.save` begin."""


@dataclass(frozen=True)
class Header:
    """What a safetensors file holds besides numbers.

    shapes: name of each tensor -> its shape.
    metadata: the texts beside the tensors.
    """

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]

    @property
    def numbers(self) -> int:
        """How many numbers the tensors have together."""
        return sum(math.prod(shape) for shape in self.shapes.values())


def read_header(path: Path) -> Header:
    """The header of a safetensors file; no tensor is read and torch is not needed.

    path: the file, whose length must be what its header says.
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


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    path: the file, replaced if there is one.
    text: all of its content.
    Raises HastenError naming the file and the reason if the disk refuses.
    """
    with _replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, data: Any, indent: int | None = 2) -> None:
    """Write plain data as JSON with a line break at the end, whole or not at all.

    path: the file, replaced if there is one.
    data: what `json.dumps` takes.
    indent: spaces a level; None for one line.
    Raises HastenError naming the file and the reason if the disk refuses.
    """
    write_text(path, json.dumps(data, indent=indent) + "\n")


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a safetensors file, whole or not at all.

    path: the file, replaced if there is one.
    tensors: name -> tensor, on any device.
    metadata: texts that are kept beside them.
    Raises HastenError naming the file and the reason if the disk refuses.
    """
    from safetensors.torch import save_file

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with _replacing(path) as partial:
        save_file(whole, partial, None if metadata is None else dict(metadata))


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which then takes its place at once; gone if anything goes wrong."""
    from safetensors import SafetensorError

    partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error).splitlines()[0]
        raise HastenError(f"{path} cannot be written: {reason}") from error
    finally:
        with suppress(OSError):
            partial.unlink()
