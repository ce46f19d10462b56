"""What a start provider is: unit noise in, the state at a time out."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.core.fitters import fitters
from hasten.core.registry import Paper, Registry
from hasten.processes import Process

SAME_TIME = 1e-9  # relative difference up to which two times are the same


class Start(ABC):
    """How a run begins. Subclasses are frozen dataclasses of settings and fitted tensors.

    The same noise always gives the same state, whatever else is in the batch.

    name: what it is called.
    paper: where it comes from.
    needs_fit: whether it takes tensors of data or of a model, see `fit`, and has none yet; it is refused without.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]
    needs_fit: bool = False

    @abstractmethod
    def __call__(self, process: Process, noise: Tensor, time: float | None = None) -> tuple[Tensor, float]:
        """The state to start from and its time, for `sample(denoiser, state, grid=times from there on)`.

        process: of the network.
        noise: unit noise, (rows, ...).
        time: where the run is to begin; None leaves it to the provider.
        """

    def fit(self, *model_and_samples: Any, **settings: Any) -> Self:
        """The same start with tensors of data or of a model: `GaussianTeleport().fit(data)`.

        What it takes differs from start to start: read on at the function of that class, one file each, in
        `hasten.fit` (`fit/teleport.py` for `GaussianTeleport`).
        Raises HastenError if there is nothing to fit in this start.
        """
        return fitters(self, *model_and_samples, **settings)

    def save(self, file: Path | str) -> None:
        """Write settings and fitted tensors to a safetensors file.

        file: its path.
        """
        from safetensors.torch import save_file

        spec = STARTS.describe(self)
        tensors = {key: spec.pop(key).contiguous() for key in list(spec) if isinstance(spec[key], Tensor)}
        save_file(tensors, file, {"start": json.dumps(spec)})

    @staticmethod
    def load(file: Path | str) -> Start:
        """What `save` wrote.

        file: its path.

        Raises HastenError if the file holds no start.
        """
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
        if time is not None and abs(time - own) > SAME_TIME * max(1.0, abs(own)):
            raise HastenError(f"time: {time:g} is not possible; this {self.name!r} starts at {own:g}")
        return own


STARTS: Registry[Start] = Registry("start", Start)
