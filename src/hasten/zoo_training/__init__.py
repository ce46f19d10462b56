"""How the models of the zoo are made: their data, their parts, their training, their figures and cards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hasten.core.errors import unknown


def train(name: str, out: Path | str | None = None, **choices: Any) -> Path:
    """Train a model of the zoo and return the exported folder.

    name: "digits", "emoji-vae", "emoji-sd" or "emoji-flux".
    out: folder of the run; runs/NAME if None.
    choices: further fields of `hasten.zoo_training.training.Plan`.
    Raises HastenError for another name, and for impossible choices before anything is trained.
    """
    from hasten.zoo_training.training import TRAINERS, Plan

    if name not in TRAINERS:
        raise unknown("model", name, TRAINERS)
    return TRAINERS[name](Plan(out=Path(out or Path("runs") / name), **choices))


def evaluate(name: str, **choices: Any) -> Mapping[str, Any]:
    """Measure a model for its card.

    name: of a model of the zoo.
    choices: further parameters of `hasten.zoo_training.quality.measure`.
    """
    from hasten.zoo_training.quality import measure

    return measure(name, **choices)
