"""What a class must be before a registry lists it; each fault is told in one line when the class is defined."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hasten.core.errors import HastenError


def admit(cls: Any, base: type, needs: Sequence[str], listed: Mapping[str, type], aliases: Mapping[str, Any]) -> None:
    """Look whether a class may be listed.

    cls: the class.
    base: that it must be derived from.
    needs: methods of the base, one of which it must have of its own; none if empty.
    listed: the classes that are listed, by name.
    aliases: other names that are taken.
    Raises HastenError saying what to write.
    """
    if not isinstance(cls, type):
        raise HastenError(f"{cls!r}: is not a class; list the class itself")
    fault = _shape(cls, base) or _unwritten(cls, base, needs) or _name(cls, listed, aliases)
    if fault:
        raise HastenError(f"{cls.__name__}: {fault}")


def _shape(cls: type, base: type) -> str:
    """What is wrong with it as a class of settings; nothing if it is sound."""
    if not issubclass(cls, base):
        return f"is no {base.__name__}; derive it from {where(base)}"
    params: Any = vars(cls).get("__dataclass_params__")  # of its own: those of a parent know none of its settings
    if params is None or not params.frozen:
        return "is not a frozen dataclass; write @dataclass(frozen=True) between `class` and what lists it"
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    if any(field.name == "name" for field in fields):
        return "`name` has a type, which makes it a setting; write `name = ...` without one"
    open_ended = [f.name for f in fields if f.init and f.default is f.default_factory is dataclasses.MISSING]
    return f"give {_and(open_ended)} a default; a method can be made by its name alone" if open_ended else ""


def _unwritten(cls: type, base: type, needs: Sequence[str]) -> str:
    """Which methods it lacks."""
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if missing:
        return f"write {_and(missing)}; see {where(base)}"
    if needs and all(getattr(cls, name) is getattr(base, name) for name in needs):
        return f"write {' or '.join(f'`{name}`' for name in needs)}; see {where(base)}"
    return ""


def _name(cls: type, listed: Mapping[str, type], aliases: Mapping[str, Any]) -> str:
    """What is wrong with its name."""
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not name:
        return 'set `name`, by which it is known: name = "..."'
    if name in aliases:
        return f"{name!r} is another name of {aliases[name][0]!r} already; give {where(cls)} a `name` of its own"
    other = listed.get(name, cls)
    if where(other) == where(cls):  # the same place: its module was loaded again
        return ""
    first, late = (cls, other) if _own(cls) and not _own(other) else (other, cls)  # hasten's own may be loaded later
    return f"{name!r} is the name of {where(first)} already; give {where(late)} a `name` of its own"


def _own(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def where(cls: type) -> str:
    """Module and name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _and(names: Sequence[str]) -> str:
    return " and ".join(f"`{name}`" for name in names)
