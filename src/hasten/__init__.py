"""hasten: faster, smaller, steerable diffusion and flow models, with proof of how faithful they stay."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"

_HOMES = {
    "sample": "hasten.sampling",
    "Recipe": "hasten.recipe",
    "accelerate": "hasten.recipe",
    "load": "hasten.bridge",
    "invert": "hasten.edit",
    "tune": "hasten.search",
    "compare": "hasten.search",
    "HastenError": "hasten.core.errors",
}

__all__ = ["HastenError", "Recipe", "accelerate", "compare", "invert", "load", "sample", "tune"]

if TYPE_CHECKING:
    from hasten.bridge import load
    from hasten.core.errors import HastenError
    from hasten.edit import invert
    from hasten.recipe import Recipe, accelerate
    from hasten.sampling import sample
    from hasten.search import compare, tune


def __getattr__(name: str) -> Any:
    """Import a public name, or a room such as `hasten.solvers`, when it is first asked for."""
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    try:
        return importlib.import_module(f"hasten.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"hasten.{name}":
            raise
        raise AttributeError(f"module 'hasten' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    """The public names and the rooms, whether or not they have been imported."""
    rooms = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    return sorted({*__all__, "__version__", *rooms})
