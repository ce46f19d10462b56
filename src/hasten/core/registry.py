"""Registries of methods: which exist, and how plain data (recipes, command lines) becomes one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from hasten.core.errors import HastenError, unknown

T = TypeVar("T")
Class = TypeVar("Class")


@dataclass(frozen=True)
class Paper:
    """Where a method comes from: on arXiv, or by its DOI."""

    title: str
    year: int
    arxiv: str = ""
    doi: str = ""

    @property
    def link(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else f"https://doi.org/{self.doi}"

    @property
    def source(self) -> str:
        """Where it is, in words."""
        return f"arXiv {self.arxiv}" if self.arxiv else f"doi {self.doi}"


@dataclass(frozen=True)
class Span:
    """The numbers from `low` to `high` that a search may try for a setting; whole ones if both are whole.

    log: tried evenly by their logarithm.
    """

    low: float
    high: float
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


class Registry(Generic[T]):
    """The methods of one kind, each a frozen dataclass with a `name`, findable by name.

    `build` makes one from its name, from a mapping `{"name": ..., field: value}`, or passes an instance
    through; `describe` is the inverse. Both refuse unknown names and fields with the nearest that exists.
    """

    def __init__(self, field: str, base: type[T]) -> None:
        self.field, self.base = field, base
        self._classes: dict[str, type[T]] = {}
        self._aliases: dict[str, tuple[str, dict[str, Any]]] = {}

    def add(self, cls: Class) -> Class:
        """List a class under its `name`; usable as a decorator."""
        self._classes[cls.name] = cls  # type: ignore
        return cls

    def alias(self, name: str, of: str, **fields: Any) -> None:
        """A second name for method `of` with some fields set."""
        self._aliases[name] = (of, fields)

    def aliases(self, of: str) -> dict[str, dict[str, Any]]:
        """The other names of a method, each with the fields it sets."""
        return {name: fields for name, (method, fields) in self._aliases.items() if method == of}

    def __iter__(self) -> Iterator[type[T]]:
        return iter(self._classes.values())

    def names(self) -> list[str]:
        """Every name that `build` takes."""
        return [*self._classes, *self._aliases]

    def build(self, spec: T | str | Mapping[str, Any]) -> T:
        """The method that `spec` stands for. Raises HastenError naming the field that is wrong."""
        if isinstance(spec, self.base):
            return spec
        if isinstance(spec, str):
            spec = {"name": spec}
        if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
            raise HastenError(f'{self.field}: {spec!r} is not a name or an object such as {{"name": ...}}')
        fields = {key: value for key, value in spec.items() if key != "name"}
        name = spec["name"]
        if name in self._aliases:
            name, preset = self._aliases[name]
            fields = preset | fields
        if name not in self._classes:
            raise unknown(self.field, name, self.names())
        cls = self._classes[name]
        known = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for key in fields:
            if key not in known:
                raise unknown(f"{self.field}.{name}", key, known)
        try:
            return cls(**{key: _plain(known[key], value) for key, value in fields.items()})
        except HastenError:
            raise
        except (TypeError, ValueError) as error:
            raise HastenError(f"{self.field}.{name}: {error}") from error

    def describe(self, method: T) -> dict[str, Any]:
        """`{"name": ...}` and the fields that differ from their defaults."""
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


def _plain(field: dataclasses.Field[Any], value: Any) -> Any:
    """A JSON value as the type the field is declared with (JSON has no tuples, and writes 7 for 7.0)."""
    declared = str(field.type)
    numbers_only = set(declared.replace(" ", "").split("|")) <= {"int", "float", "bool", "None"}
    if isinstance(value, list):
        return tuple(value)
    wrong = (
        (numbers_only and not isinstance(value, int | float | type(None)))
        or (declared == "str" and not isinstance(value, str))
        or (declared == "bool" and not isinstance(value, bool))
        or (declared == "int" and (isinstance(value, bool) or not isinstance(value, int)))
        or (numbers_only and value is None and "None" not in declared)
    )
    if wrong:
        raise HastenError(f"{field.name}: {value!r} is not possible; give a value of type {declared}")
    return float(value) if declared.startswith("float") and value is not None else value
