"""A trained model as the folder that is shipped: weights, the prompts it knows, what its calls need."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hasten.core.files import write_json
from hasten.train import Trainer
from hasten.zoo_training import emoji


def finish(
    trainer: Trainer, model: Any, prompts: dict[str, list[str]] | None = None, call: Mapping[str, Any] | None = None
) -> Path:
    """Export a trained model; of a run that was stopped only the folder is returned.

    trainer: has run.
    model: what is exported: a diffusers model or pipeline.
    prompts: that the model knows, by split.
    call: what each call of it needs besides the prompt.
    """
    folder = trainer.folder / "model"
    if trainer.finished and trainer.main:
        export(model, folder)
        if prompts:
            write_json(folder / "captions.json", prompts, indent=0)
        if call:
            write_json(folder / "call.json", dict(call), indent=None)
    return folder if trainer.finished else trainer.folder


def sample_captions(chosen: list[emoji.Emoji], count: int = 24) -> list[str]:
    """What the sample grid of a run shows, in an order that is random but fixed.

    chosen: what is trained on.
    count: how many captions.
    """
    return [e.caption for e in sorted(chosen, key=lambda e: emoji.fraction("show " + e.caption))][:count]


def split_prompts(chosen: list[emoji.Emoji]) -> dict[str, list[str]]:
    """Captions in an order that is random but fixed, in two halves that share no name: "search" and "confirm".

    chosen: what is trained on.
    """
    order = sorted(chosen, key=lambda e: emoji.fraction("prompt " + e.caption))
    halves = {"search": 0, "confirm": 1}
    return {
        split: [e.caption for e in order if int(2 * emoji.fraction("split " + e.name)) == half]
        for split, half in halves.items()
    }


def export(model: Any, folder: Path) -> Path:
    """Save a model as fp16 safetensors, and return the folder.

    model: a diffusers model or pipeline, which stays as it is.
    folder: where to.
    """
    copy.deepcopy(model).to(dtype=torch.float16).save_pretrained(folder, safe_serialization=True)
    for file in folder.rglob("config.json"):  # without the place on this machine that a part was read from
        kept = {key: value for key, value in json.loads(file.read_text()).items() if key != "_name_or_path"}
        write_json(file, kept)
    return folder
