"""How every benchmark writes its result: with the machine and the versions it was measured with."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "diffusers", "hasten")


def save(report: Mapping[str, Any], file: Path) -> None:
    """Write the report as JSON, with "machine" and "versions" added."""
    known = {
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": {package: version(package) for package in PACKAGES},
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(_rounded({**report, **known}), indent=1) + "\n")
    print(f"written to {file}")


def sections(about: str, found: Mapping[str, Callable[[], Any]], file: Path) -> None:
    """A command line that runs sections of a benchmark, each written into one file as it is finished."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=found, default=list(found))
    for name in parser.parse_args().only:
        print(name, flush=True)
        measured = found[name]()
        before = json.loads(file.read_text()) if file.exists() else {}
        save({**before, name: measured}, file)


def _rounded(value: Any) -> Any:
    """The same with numbers cut to five digits, which is more than any interval allows."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _rounded(inside) for key, inside in value.items()}
    return [_rounded(inside) for inside in value] if isinstance(value, list | tuple) else value
