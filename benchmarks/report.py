"""How every benchmark writes its result: with the machine and the versions it was measured with."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
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
    file.write_text(json.dumps({**report, **known}, indent=1) + "\n")
    print(f"written to {file}")
