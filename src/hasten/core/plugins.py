"""Methods that live outside of the package: in installed packages that name them, and in files."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from hasten.core.errors import HastenError

GROUP = "hasten"
"""The group of entry points by which an installed package names the modules that list its methods."""

FILES = "HASTEN_IMPORT"
"""The environment variable that names Python files that list methods, separated as in PATH."""

_loaded: set[str] = set()
_lock = threading.RLock()


def load_plugins() -> None:
    """Import, once, the modules and files that list methods from outside of the package.

    Raises HastenError naming the one that cannot be imported.
    """
    with _lock:
        for name, load in _sources():
            if name in _loaded:
                continue
            _loaded.add(name)  # before it is: while it is imported, it may ask what there is
            try:
                load()
            except Exception as error:
                _loaded.discard(name)
                told = str(error) if isinstance(error, HastenError) else f"{type(error).__name__}: {error}"
                raise HastenError(f"{name} cannot be imported: {' '.join(told.split())}") from error


def _sources() -> Iterator[tuple[str, Callable[[], Any]]]:
    for point in _entry_points():
        yield f"{GROUP}: the entry point {point.name!r} ({point.value})", point.load
    for file in filter(None, os.environ.get(FILES, "").split(os.pathsep)):
        yield f"import: {file}", functools.partial(_run, Path(file))


@functools.cache
def _entry_points() -> tuple[Any, ...]:
    return tuple(entry_points(group=GROUP))


def _run(file: Path) -> None:
    """Import a file under a name that no module has."""
    if not file.is_file():
        raise HastenError("there is no such file")
    file = file.resolve()
    name = f"{re.sub(r'[^0-9a-zA-Z]', '_', file.stem)}_{zlib.crc32(str(file).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise HastenError("it is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # annotations of its classes are read there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
