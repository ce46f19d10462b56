"""One way in which a peer can be set up, as data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

READABLE = 4  # numbers of a setting that are spelled out
UNTOLD = ("prediction_type", "final_sigmas_type")  # changes that follow from others, and are not put into words


@dataclass(frozen=True)
class Setting:
    """How a peer runs the pipeline.

    peer: whose setting it is.
    scheduler: the name of a diffusers scheduler (or "skrample") and what is changed of the pipeline's own config; None
        is the pipeline's own scheduler.
    steps: how many; None is the default's number.
    method: what is put on the network, {"name": ..., ...}; None is nothing.
    """

    peer: str
    scheduler: tuple[str, Mapping[str, Any]] | None = None
    steps: int | None = None
    method: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        """In a few words."""
        parts = [] if self.method is None else [_described(self.method)]
        if self.scheduler is not None:
            name, changes = self.scheduler
            parts.append(
                " ".join(
                    [name.removesuffix("Scheduler"), *(_change(k, v) for k, v in changes.items() if k not in UNTOLD)]
                )
            )
        if self.steps is not None:
            parts.append(f"{self.steps} steps")
        return ", ".join(parts) or "the default"


def _described(method: Mapping[str, Any]) -> str:
    """Its name and fields; algorithms of pruna by their own names."""
    if "algorithms" in method:
        return " + ".join(_described({"name": name, **fields}) for name, fields in method["algorithms"].items())
    fields = [f"{key} {value}" for key, value in method.items() if key != "name" and _readable(value)]
    return " ".join([method["name"], *fields])


def _readable(value: Any) -> bool:
    return not isinstance(value, list | tuple) or len(value) <= READABLE


def _change(key: str, value: Any) -> str:
    """A change of a scheduler's config in short: "karras", "order 2", "trailing"."""
    for affix in ("use_", "solver_", "timestep_"):
        key = key.removeprefix(affix)
    if value is True:
        return key.removesuffix("_sigmas").removesuffix("_lambdas")
    if key in ("spacing", "type", "sampler", "schedule"):
        return str(value)
    return f"no {key}" if value is False else f"{key} {value}"
