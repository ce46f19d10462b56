"""What a start provider is: unit noise in, the state at a time out."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.core.registry import Paper, Registry
from hasten.processes import Process


class Start(ABC):
    """How a run begins. Subclasses are frozen dataclasses; those that need data have `fit`, which returns a new one.

    The same noise always gives the same state, whatever else is in the batch.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]

    @abstractmethod
    def __call__(self, process: Process, noise: Tensor, time: float | None = None) -> tuple[Tensor, float]:
        """The state to start from and its time, for `sample(denoiser, state, grid=times from there on)`.

        noise: unit noise (rows, ...). time: where the run is to begin; None leaves it to the provider.
        """

    def save(self, file: Path | str) -> None:
        """Write settings and fitted tensors to a safetensors file."""
        from safetensors.torch import save_file

        spec = STARTS.describe(self)
        tensors = {key: spec.pop(key).contiguous() for key in list(spec) if isinstance(spec[key], Tensor)}
        save_file(tensors, file, {"start": json.dumps(spec)})

    @staticmethod
    def load(file: Path | str) -> Start:
        """What `save` wrote. Raises HastenError if the file holds no start."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt") as opened:
                spec = json.loads((opened.metadata() or {})["start"])
                return STARTS.build(spec | {key: opened.get_tensor(key) for key in opened.keys()})  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise HastenError(f"start: cannot read {file}: {error}") from error

    def _fitted(self, field: str, like: Tensor | None = None) -> Tensor:
        """The tensor in a field, on the device of `like`. Raises HastenError if `fit` has not filled it."""
        value = getattr(self, field)
        if value is None:
            raise HastenError(f"{field}: {self.name!r} is not fitted; use {type(self).__name__}().fit(...)")
        return value if like is None else value.to(like.device)

    def _check_shape(self, noise: Tensor, shape: torch.Size) -> None:
        if noise.shape[1:] != shape:
            raise HastenError(f"noise: rows of shape {tuple(noise.shape[1:])}; {self.name!r} has {tuple(shape)}")

    def _only_time(self, time: float | None, own: float) -> float:
        if time is not None and abs(time - own) > 1e-9 * max(1.0, abs(own)):
            raise HastenError(f"time: {time:g} is not possible; this {self.name!r} starts at {own:g}")
        return own


STARTS: Registry[Start] = Registry("start", Start)
