"""Bringing the fields of a frozen dataclass into the form they are kept in."""

from __future__ import annotations

from typing import Any


def set_fields(instance: Any, **fields: Any) -> None:
    """Set fields of a frozen dataclass; to be called from its `__post_init__` alone.

    instance: the dataclass that is being made.
    fields: what its fields are to hold from now on.
    """
    for name, value in fields.items():
        object.__setattr__(instance, name, value)
