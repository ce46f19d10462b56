"""The models that ship with hasten, and what is known of them: `load("emoji-sd")` needs no download."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hasten.core.console import no_bars, quiet
from hasten.core.errors import unknown
from hasten.core.files import read_header

WEIGHTS = Path(__file__).parent / "weights"
STEPS = {"StableDiffusionPipeline": 50, "FluxPipeline": 28, "DigitsPipeline": 50}
"""Steps of a call that names none; what `inspect.signature` says, without importing diffusers."""


def names() -> list[str]:
    """The models that ship with hasten."""
    return sorted(path.parent.name for path in WEIGHTS.glob("*/model_index.json"))


def folder(name: str) -> Path:
    """Where a model lies, in diffusers' layout.

    name: of a model of the zoo.
    Raises HastenError for a name that is not in the zoo, with the nearest that is.
    """
    if name not in names():
        raise unknown("model", name, names())
    return WEIGHTS / name


def load(name: str, where: Path | str | None = None) -> Any:
    """A model of the zoo as a diffusers pipeline in float32 on the CPU, without progress bars.

    name: of a model of the zoo.
    where: a folder that holds a model of the same kind, instead of the shipped one.
    Raises HastenError for a name that is not in the zoo.
    """
    import torch

    path = Path(where) if where else folder(name)
    kind = json.loads((path / "model_index.json").read_text())["_class_name"]
    if kind == "DigitsPipeline":
        from hasten.zoo.digits import DigitsPipeline as Pipeline
    else:
        import diffusers

        Pipeline = getattr(diffusers, kind)
    with quiet(), no_bars():
        pipe = Pipeline.from_pretrained(path, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    height = call(path).get("height")
    if height and hasattr(pipe, "default_sample_size"):  # pipelines that cannot read their picture size off a model
        pipe.default_sample_size = height // pipe.vae_scale_factor
    return pipe


def call(path: Path | str) -> dict[str, Any]:
    """What each call of a model should be given besides the prompt; most need nothing.

    path: the folder of the model.
    """
    file = Path(path) / "call.json"
    return json.loads(file.read_text()) if file.exists() else {}


def describe(name: str) -> dict[str, Any]:
    """What there is to know of a model before it is loaded, as plain data; needs no torch.

    name: of a model of the zoo.
    Returns name, pipeline (class), parameters, bytes (on the disk), licence (of the weights, None if the card does
    not say), data_licences, steps (of the default, None if unknown), and metrics: every estimate of its evaluation by
    its path ("retrieval.top1") as {value, low, high, n, ...}, none where it was not evaluated.
    Raises HastenError for a name that is not in the zoo, or if a file of it is damaged.
    """
    path = folder(name)
    files = [file for file in path.rglob("*") if file.is_file()]
    kind = json.loads((path / "model_index.json").read_text())["_class_name"]
    readme, figures = path / "README.md", path / "evaluation.json"
    card = readme.read_text() if readme.exists() else ""
    licence = re.search(r"The weights are licensed (?:like hasten, )?([\w.-]*\w)", card)
    return {
        "name": name,
        "pipeline": kind,
        "parameters": sum(read_header(file).numbers for file in files if file.suffix == ".safetensors"),
        "bytes": sum(file.stat().st_size for file in files),
        "licence": licence and licence[1],
        "data_licences": sorted(
            {text.replace(" License ", "-") for text in re.findall(r"Apache License 2\.0|CC-BY 4\.0", card)}
        ),
        "steps": call(path).get("num_inference_steps", STEPS.get(kind)),
        "metrics": dict(_estimates(json.loads(figures.read_text()))) if figures.exists() else {},
    }


def _estimates(figures: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every `Estimate` written as JSON in nested figures, with the keys that lead to it."""
    if not isinstance(figures, dict):
        return
    if {"value", "low", "high", "n"} <= figures.keys():
        yield path, figures
        return
    for key, inner in figures.items():
        yield from _estimates(inner, f"{path}.{key}" if path else key)


def call_of(pipe: Any) -> dict[str, Any]:
    """What each call of a pipeline should be given besides the prompt.

    pipe: a pipeline, which knows the folder it was loaded from.
    """
    return call(str(getattr(pipe, "name_or_path", None) or "."))


def captions(name: str, split: str = "search") -> list[str]:
    """Prompts that a model knows.

    name: of a model of the zoo.
    split: "search" or "confirm"; they share no prompt, so what one tuned the other can judge.
    Raises HastenError for a name or a split that is not known.
    """
    splits: dict[str, list[str]] = json.loads((folder(name) / "captions.json").read_text())
    if split not in splits:
        raise unknown("split", split, splits)
    return splits[split]
