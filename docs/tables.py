"""The tables in pages that are made of registries, and the counted lines of files that a page tells to read.

    python docs/tables.py       writes the tables into the pages, between `<!-- table: NAME -->` and `<!-- end -->`

Tables stand in the files so that they can be read there; a test fails where one is not as it would be written.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import papers
from docstrings import documented

ROOT = Path(__file__).parent.parent
PLACE = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def written(page: str) -> str:
    """A page with every table as it is now."""
    return PLACE.sub(lambda m: f"<!-- table: {m[1]} -->\n\n{_table(m[1])}\n\n<!-- end -->", page)


def lines(path: str, name: str = "") -> tuple[int, int]:
    """The first and last line of a file, or of a class or function in it."""
    text = (ROOT / path).read_text()
    if not name:
        return 1, len(text.splitlines())
    node = next(n for n in ast.parse(text).body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name)
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]), node.end_lineno or 0


def told(path: str, name: str = "") -> str:
    """Where to read, in words."""
    first, last = lines(path, name)
    return f"lines {first} to {last}" if name else f"{last} lines"


def _table(name: str) -> str:
    return _conflicts() if name == "conflicts" else _parts(name)


def _own(classes: Any) -> list[Any]:
    """Those of hasten itself, by name: in which order they are listed is a matter of which file was imported first."""
    return sorted((cls for cls in classes if cls.__module__.startswith("hasten.")), key=lambda cls: cls.name)


def _conflicts() -> str:
    """Which accelerations cannot be in one recipe, as their classes say."""
    families = papers.methods.families()
    made = [cls() for family in papers.FAMILIES if family in families for cls in _own(families[family])]
    made = [method for method in made if hasattr(method, "refuses")]
    refused: dict[str, list[str]] = {}
    for one, other in combinations(made, 2):
        if one.refuses(other) or other.refuses(one):
            refused.setdefault(one.name, []).append(other.name)
            refused.setdefault(other.name, []).append(one.name)
    rows = [[f"`{name}`", ", ".join(f"`{other}`" for other in sorted(refused[name]))] for name in sorted(refused)]
    return papers.table(["method", "not together with"], rows)


def _parts(registry: str) -> str:
    """What a registry of grids or of parts of caches holds: names, settings with their defaults, what they do."""
    from hasten import caches, grids

    listed = getattr(grids if registry == "GRIDS" else caches, registry)
    rows = []
    for cls in _own(listed):
        fields = dataclasses.fields(cls)
        about = documented(cls.__doc__ or "", [field.name for field in fields]).prose.partition("\n\n")[0]
        settings = ", ".join(f"`{f.name}={_default(f)}`" for f in fields)
        rows.append([f"`{cls.name}`", settings or "–", " ".join(about.split())])
    return papers.table(["name", "settings", "what it does"], rows)


def _default(field: dataclasses.Field[Any]) -> str:
    return "" if field.default is dataclasses.MISSING else repr(field.default)


if __name__ == "__main__":
    for file in sorted((ROOT / "docs").rglob("*.md")):
        before = file.read_text()
        if written(before) != before:
            file.write_text(written(before))
            print(file.relative_to(ROOT))
