"""How hasten says no: one line with the field, the value, and what would be right."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Sequence

MEANT = 3  # names that an error suggests at most


class HastenError(ValueError):
    """Bad input. The message is one line a person can act on; the command line prints it as it is."""


class NothingChanged(UserWarning):
    """A part of a recipe did nothing in a generation, or is not applied to a part of the pipeline."""


class UnsupportedModel(HastenError):
    """The method needs something this model does not have."""


def unknown(field: str, value: object, choices: Iterable[str]) -> HastenError:
    """The error for a name nobody knows, with the names that begin like it, else the nearest one.

    field: what was to be named.
    value: the unknown name.
    choices: every known name.
    """
    known = sorted(choices)
    near = _near(str(value).lower(), known)
    meant = " or ".join(map(repr, near))
    hint = f"did you mean {meant}?" if near else f"choose one of: {', '.join(known) or '(none exist yet)'}"
    return HastenError(f"{field}: {value!r} is not known; {hint}")


def _near(value: str, known: Sequence[str]) -> list[str]:
    """The shortest names that begin with a value, at most `MEANT`, else the one that is most like it, if any is."""
    starting = sorted((name for name in known if value and name.lower().startswith(value)), key=len)
    if starting:
        return starting[:MEANT]
    lower = {name.lower(): name for name in known}
    return [lower[name] for name in difflib.get_close_matches(value, lower, n=1, cutoff=0.5)]


def positive_int(field: str, value: object) -> int:
    """The value, once it is known to be a whole number of at least 1.

    field: what the error calls it.
    value: to be looked at.
    Raises HastenError for anything else.
    """
    number = whole(value)
    if number is None or number < 1:
        raise HastenError(f"{field}: {value!r} is not possible; give a whole number of at least 1")
    return number


def natural(field: str, value: object) -> int:
    """The value, once it is known to be a whole number of at least 0.

    field: what the error calls it.
    value: to be looked at.
    Raises HastenError for anything else.
    """
    number = whole(value)
    if number is None or number < 0:
        raise HastenError(f"{field}: {value!r} is not possible; give a whole number of at least 0")
    return number


def one_of(field: str, value: object, choices: Iterable[object]) -> None:
    """Look whether a value is one of several.

    field: what the error calls it.
    value: to be looked at.
    choices: what is possible.
    Raises HastenError for anything else.
    """
    choices = list(choices)
    if isinstance(value, bool) or value not in choices:
        raise HastenError(f"{field}: {value!r} is not possible; choose one of: {', '.join(map(str, choices))}")


def unit_interval(field: str, value: float) -> None:
    """Look whether a number lies in [0, 1].

    field: what the error calls it.
    value: to be looked at.
    Raises HastenError if it does not.
    """
    if not 0 <= value <= 1:
        raise HastenError(f"{field}: {value} is not possible; give a number from 0 to 1")


def positive_share(field: str, value: float) -> None:
    """Look whether a number lies in (0, 1].

    field: what the error calls it.
    value: to be looked at.
    Raises HastenError if it does not.
    """
    if not 0 < value <= 1:
        raise HastenError(f"{field}: {value} is not possible; give a number above 0 up to 1")


def whole(value: object) -> int | None:
    """A whole number of Python, numpy or torch as an int; None for anything else.

    value: to be looked at.
    """
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return None


def raised_in(error: BaseException) -> str:
    """The file whose code raised an error; empty if it was not raised yet.

    error: that was caught.
    """
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return "" if last is None else last.tb_frame.f_code.co_filename
