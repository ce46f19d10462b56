"""Recipes of earlier versions of the format, brought up to date field by field before anything else is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hasten.core.errors import HastenError

VERSION = 2


def current(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a recipe, as this version of hasten names them.

    fields: of a recipe of any version; one that does not say is of the current one.
    Raises HastenError for a version that is not known.
    """
    version = fields.get("version", VERSION)
    if version != VERSION and version not in MIGRATIONS:
        known = ", ".join(map(str, (*MIGRATIONS, VERSION)))
        raise HastenError(f"version: {version!r} is not known; this hasten reads recipes of versions {known}")
    migrated = dict(fields)
    while version != VERSION:
        migrated = MIGRATIONS[version](migrated)
        version += 1
    return migrated | ({"version": VERSION} if "version" in fields else {})


def _from_1(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An indicator was an "eye", the forecaster "difference" was "drift", and offsets were "phases"."""

    def renamed(value: Any, key: str = "") -> Any:
        if isinstance(value, Mapping):
            names = {"eye": "indicator"} | ({"phase": "offset"} if value.get("name") in ("taylorseer", "every") else {})
            inside = {names.get(k, k): renamed(v, k) for k, v in value.items()}
            return inside | ({"name": "difference"} if key in _FORECASTERS and inside.get("name") == "drift" else {})
        if isinstance(value, list | tuple):
            return [renamed(one, key) for one in value]
        return "difference" if key in _FORECASTERS and value == "drift" else value

    return {**fields, "caches": renamed(fields["caches"])} if fields.get("caches") else dict(fields)


_FORECASTERS = ("forecaster", "first", "second")  # fields that hold one

MIGRATIONS: dict[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {1: _from_1}
"""By version, what makes the next one of it."""
