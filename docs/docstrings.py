"""Docstrings as Markdown: one list item a parameter.

A docstring of hasten says what a thing is; then "name: meaning" for each parameter, on a line of its own or after the
full stop of the one before; then "Raises ..." and "Source: ...".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from inspect import cleandoc
from itertools import pairwise
from typing import NamedTuple

CLOSING = r"Raises (?=[A-Z])|Warns |Source: "


class Documented(NamedTuple):
    """A docstring taken apart. prose, parameters by name (or names), and closing paragraphs."""

    prose: str
    parameters: dict[str, str]
    closing: list[str]

    @property
    def markdown(self) -> str:
        rows = "\n".join(f"- `{name}`: {meaning}" for name, meaning in self.parameters.items())
        return "\n\n".join(part for part in (self.prose, rows, *self.closing) if part)

    def of(self, name: str) -> str:
        """What is said of one parameter, also where it shares a line with others."""
        return next((said for names, said in self.parameters.items() if name in re.split(r"\W+", names)), "")


def documented(text: str, names: Iterable[str]) -> Documented:
    """A docstring taken apart.

    names: of the parameters; "name:" of anything else stays prose.
    """
    text = cleandoc(text)
    known = "|".join(sorted(map(re.escape, names), key=len, reverse=True)) or "(?!)"
    one = rf"(?:{known})(?:, (?:{known}))*(?: ?\([^)]*\)|, of [\w ]+)?:\s"
    marker = re.compile(rf"(?:^|(?<=[.;)] )|(?<=[.;)]\n))(?={one}|{CLOSING})", re.MULTILINE)
    cuts = [match.start() for match in marker.finditer(text)] + [len(text)]
    prose, parameters, closing = [text[: cuts[0]].strip()], dict[str, str](), list[str]()
    for begin, end in pairwise(cuts):
        piece, _, rest = text[begin:end].strip().partition("\n\n")
        if re.match(CLOSING, piece):
            closing.append(" ".join(piece.split()))
        else:
            name, meaning = re.split(r":\s", piece, maxsplit=1)
            parameters[name] = " ".join(meaning.split())
        if rest:
            (closing if parameters else prose).append(rest)
    return Documented("\n\n".join(filter(None, prose)), parameters, closing)
