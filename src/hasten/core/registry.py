"""Registries of methods: which exist, and how plain data (recipes, command lines) becomes one of them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
import sys
import types
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar, get_type_hints

from hasten.core.admission import admit
from hasten.core.errors import HastenError, unknown
from hasten.core.plugins import load_plugins

T = TypeVar("T")
Class = TypeVar("Class")


@dataclass(frozen=True)
class Paper:
    """Where a method comes from.

    title: of the paper.
    year: in which it was first published.
    arxiv: its arXiv id, if it has one.
    doi: its DOI otherwise.
    """

    title: str
    year: int
    arxiv: str = ""
    doi: str = ""

    @property
    def link(self) -> str:
        """Its address."""
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else f"https://doi.org/{self.doi}"

    @property
    def source(self) -> str:
        """Where it is, in words."""
        return f"arXiv {self.arxiv}" if self.arxiv else f"doi {self.doi}"


@dataclass(frozen=True)
class Span:
    """The numbers that a search may try for a setting; whole ones if both ends are whole.

    low: the smallest.
    high: the largest.
    log: whether they are tried evenly by their logarithm.
    """

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are tried."""
        return isinstance(self.low, int) and isinstance(self.high, int)


class Registry(Generic[T]):
    """The methods of one kind, each a frozen dataclass with a `name`; those that other packages list are among them.

    field: what error messages call the kind, such as "solver".
    base: the class that all of them are instances of.
    needs: methods of the base, one of which each must write; none if empty.
    """

    every: ClassVar[weakref.WeakSet[Registry[Any]]] = weakref.WeakSet()
    """All registries."""

    def __init__(self, field: str, base: type[T], needs: Sequence[str] = ()) -> None:
        self.field, self.base, self.needs = field, base, needs
        self._classes: dict[str, type[T]] = {}
        self._aliases: dict[str, tuple[str, dict[str, Any]]] = {}
        Registry.every.add(self)

    @property
    def kind(self) -> str:
        """What one of them is in words: "a solver"."""
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.base.__name__).lower()
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"

    def add(self, cls: Class) -> Class:
        """List a class under its `name`; usable as a decorator. A class whose module is loaded again replaces itself.

        Raises HastenError in one line if it is not what it must be, or if another has its name.
        """
        admit(cls, self.base, self.needs, self._classes, self._aliases)
        self._classes[cls.name] = cls  # type: ignore
        return cls

    def alias(self, name: str, of: str, **fields: Any) -> None:
        """Give a method a second name.

        name: the new name.
        of: the name of the method.
        fields: its settings under that name.
        Raises HastenError if a method has that name.
        """
        if name in self._classes:
            raise HastenError(f"{self.field}: {name!r} is the name of a method already; choose another")
        self._aliases[name] = (of, fields)

    def aliases(self, of: str) -> dict[str, dict[str, Any]]:
        """The other names of a method, each with the fields it sets."""
        return {name: fields for name, (method, fields) in self._aliases.items() if method == of}

    def __iter__(self) -> Iterator[type[T]]:
        load_plugins()
        return iter(self._classes.values())

    def names(self) -> list[str]:
        """Every name that `build` takes."""
        load_plugins()
        return [*self._classes, *self._aliases]

    def build(self, spec: T | str | Mapping[str, Any]) -> T:
        """A method from plain data.

        spec: its name, a mapping `{"name": ..., field: value}`, or a method, which is passed through.
        Raises HastenError naming the field that is wrong, with the nearest name that exists.
        """
        if isinstance(spec, self.base):
            return spec
        if isinstance(spec, str):
            spec = {"name": spec}
        if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
            raise HastenError(f'{self.field}: {spec!r} is not a name or an object such as {{"name": ...}}')
        fields = {key: value for key, value in spec.items() if key != "name"}
        name = spec["name"]
        if name not in self._classes and name not in self._aliases and name not in self.names():
            raise self._nobody(name)
        if name in self._aliases:
            name, preset = self._aliases[name]
            fields = preset | fields
        cls = self._classes[name]
        known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        for key in fields:
            if not known:
                raise HastenError(f"{self.field}.{name}: {key!r} is not known; {name!r} takes no settings")
            if key not in known:
                raise unknown(f"{self.field}.{name}", key, known)
        try:
            return cls(**{key: _read(cls, key, value) for key, value in fields.items()})
        except HastenError:
            raise
        except (TypeError, ValueError) as error:
            raise HastenError(f"{self.field}.{name}: {error}") from error

    def _nobody(self, name: str) -> HastenError:
        """The error for a name that is not of this kind; it says where it belongs if it is of another."""
        for other in sorted(Registry.every, key=lambda registry: registry.field):
            if other is not self and name in other.names():
                holder = next((cls.name for cls in self if other._is_part(cls)), None)  # type: ignore[attr-defined]
                told = json.dumps({"name": holder, other.field: name}) if holder else f'give it as "{other.field}"'
                return HastenError(f"{self.field}: {name!r} is {other.kind}{': ' if holder else '; '}{told}")
        return unknown(self.field, name, self.names())

    def _is_part(self, cls: Any) -> bool:
        """Whether another kind's method has a setting that holds one of these."""
        default = next((field.default for field in dataclasses.fields(cls) if field.name == self.field), None)
        return isinstance(default, self.base) or (isinstance(default, str) and default in self.names())

    def describe(self, method: T) -> dict[str, Any]:
        """Plain data that `build` makes the method of: its name and the fields that differ from their defaults."""
        return _described(method)


def _described(method: Any) -> dict[str, Any]:
    """`Registry.describe`."""
    spec: dict[str, Any] = {"name": method.name}
    for f in dataclasses.fields(method):
        value = getattr(method, f.name)
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if value is not default and not _equal(value, default):
            spec[f.name] = plain(value)
    return spec


def plain(value: Any) -> Any:
    """A field's value as data: methods of other families are described, tuples become lists."""
    if isinstance(value, tuple):
        return [plain(inside) for inside in value]
    return _described(value) if dataclasses.is_dataclass(value) and hasattr(value, "name") else value


def _equal(a: Any, b: Any) -> bool:
    same = a == b
    return same if isinstance(same, bool) else False


def _read(cls: type, name: str, value: Any) -> Any:
    """Plain data as the type a field is declared with: JSON has no tuples, and writes 7 for 7.0.

    Nothing else is bent: "7" is not 7 and True is not 1. Raises HastenError if the value is of another type.
    """
    from pydantic import ValidationError

    given = _tuples(value)
    declared, adapter = _declared(cls, name)
    try:
        return given if adapter is None else adapter.validate_python(given, strict=True)
    except ValidationError as error:
        raise HastenError(f"{name}: {value!r} is not possible; give a value of type {declared}") from error


@functools.cache
def _declared(cls: type, name: str) -> tuple[str, Any]:
    """The type a field is declared with, in words, and what checks it; None if it is not of plain data."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticSchemaGenerationError

    home = next(base for base in cls.__mro__ if name in inspect.get_annotations(base))
    annotation = inspect.get_annotations(home)[name]
    only_this = types.SimpleNamespace(__annotations__={name: annotation})  # others may be known to type checkers alone
    hint = get_type_hints(only_this, vars(sys.modules[home.__module__]))[name]
    words = annotation if isinstance(annotation, str) else str(getattr(hint, "__name__", hint))
    try:
        return words, TypeAdapter(hint)
    except PydanticSchemaGenerationError:  # a tensor or another method, which the class looks at itself
        return words, None


def _tuples(value: Any) -> Any:
    """Lists as tuples, inside of one another too."""
    return tuple(_tuples(inside) for inside in value) if type(value) in (list, tuple) else value
