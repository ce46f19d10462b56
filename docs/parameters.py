"""An extension of griffe: the parameters in every docstring that mkdocstrings shows become a list."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))
from docstrings import documented


class Parameters(griffe.Extension):
    """Every docstring that mkdocstrings shows, with its parameters as a list."""

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        if func.docstring:
            names = [parameter.name for parameter in func.parameters]
            func.docstring.value = documented(func.docstring.value, names).markdown

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        if cls.docstring:
            maker = cls.members.get("__init__")
            names = [*cls.members, *(p.name for p in getattr(maker, "parameters", ()))]
            cls.docstring.value = documented(cls.docstring.value, names).markdown
