"""A pipeline's network with prompts and guidance as a denoiser: what solvers, editing, fitting and training ask.

    denoiser = conditioned(pipe, ["red apple", "blue heart"], guidance=[7.5, 3.0])
    latents = sample(denoiser, torch.randn(2, 4, 64, 64), "unipc", 10)

Rows have prompts and scales of their own. Nothing in here turns gradients off once prompts are encoded: they
flow to states, to the parameters of the network, to scales and to `Conditions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hasten.core.errors import HastenError, UnsupportedModel
from hasten.denoisers import Times, coefficients
from hasten.predictions import Prediction, Reading, reading_of
from hasten.processes import Process, described, dynamic_process, from_config
from hasten.runtime.adapters import Adapter, adapter_of
from hasten.runtime.anatomy import network_of
from hasten.runtime.conditions import Conditions
from hasten.sampling import Asked

Text = str | Sequence[str]
Scale = float | Sequence[float] | Tensor


@dataclass(eq=False)
class ConditionedDenoiser:
    """A network bound to prompts, one a row of the states it will be asked about (or one for all rows).

    States are (rows, channels, height, width), latents as the autoencoder knows them, in any floating dtype; the
    branches of guidance are combined in the dtype of the states.

    network: asked by `adapter`.
    reading: what its output means, and of which process.
    bound: its conditions with the prompt.
    free: its conditions without it; None for no second branch.
    guidance: the scale w of free + w (bound - free), (rows,) or (1,).
    embedded: the scale that the network itself is shown, likewise.
    dtype: that the network is asked in.
    gradients: whether they pass where they are enabled.
    """

    network: nn.Module
    adapter: Adapter
    reading: Reading
    bound: Conditions
    free: Conditions | None
    guidance: Tensor
    embedded: Tensor | None = None
    dtype: torch.dtype | None = None
    gradients: bool = True

    @property
    def process(self) -> Process:
        """That the network was trained on."""
        return self.reading.process

    @property
    def kind(self) -> str:
        """Of the network's output, one of `hasten.predictions.KINDS`."""
        return self.reading.kind

    def __call__(self, x: Tensor, t: Times) -> Prediction:
        """The guided prediction for states x (rows, ...) at the process's time t: a number, or one a row."""
        t, number = self._times(x, t)
        alpha, sigma = coefficients(self.process, t, x)
        with torch.set_grad_enabled(self.gradients and torch.is_grad_enabled()):
            return self.reading.at(x, self._answer(self.reading.input(x, sigma), number), alpha, sigma)

    def __len__(self) -> int:
        """For how many rows it is bound; 1 if for any number."""
        return max(len(part) for part in (self.bound, self.free, self.guidance, self.embedded) if part is not None)

    def on(self, network: nn.Module) -> ConditionedDenoiser:
        """The same with another network in its place: a view to be accelerated, a student, a copy.

        Raises UnsupportedModel if the other is of a class that is called differently.
        """
        adapter = adapter_of(network, self.adapter.scale)
        if adapter != self.adapter:
            raise UnsupportedModel(f"model: {type(network).__name__} is not called as the network it should replace")
        return replace(self, network=network, dtype=_dtype_of(network))

    def rows(self, indices: Sequence[int] | Tensor | slice) -> ConditionedDenoiser:
        """The same for the rows at these places, in this order."""
        places = torch.arange(len(self))[indices] if isinstance(indices, slice) else torch.as_tensor(indices)
        return self._bound_to([self], [places])

    def joined(self, *others: ConditionedDenoiser) -> ConditionedDenoiser:
        """These rows, and after them those of others on the same network: one batch for many requests.

        A request without a second branch (scale 1) borrows its own prompt for it, which changes nothing.
        Raises HastenError for another network or process, and for conditions that do not fit one batch.
        """
        for other in others:
            if other.network is not self.network or not _same(other.process, self.process):
                raise HastenError("joined: requests of another network or process cannot share a batch")
        parts = [self, *others]
        return self._bound_to(parts, [torch.arange(len(part)) for part in parts])

    def _bound_to(self, parts: Sequence[ConditionedDenoiser], places: Sequence[Tensor]) -> ConditionedDenoiser:
        def of(part: ConditionedDenoiser, value: Any, where: Tensor) -> Conditions:
            value = value if isinstance(value, Conditions) else Conditions({"scale": value})
            return value.expanded(len(part)).rows(where)

        def gathered(values: Sequence[Any]) -> Conditions:
            first, *rest = (of(*pair) for pair in zip(parts, values, places))
            return first.joined(*rest)

        free = embedded = None
        if any(part.free is not None for part in parts):
            free = gathered([part.bound if part.free is None else part.free for part in parts])
        if self.embedded is not None:
            embedded = gathered([part.embedded for part in parts])["scale"]
        bound, guidance = gathered([part.bound for part in parts]), gathered([part.guidance for part in parts])
        return replace(self, bound=bound, free=free, guidance=guidance["scale"], embedded=embedded)

    def _times(self, x: Tensor, t: Any) -> tuple[Times, Tensor]:
        """Times as numbers or an array, and what the network is shown for them, one a row."""
        if isinstance(t, Tensor):
            t = t.detach().double().cpu().numpy()
        if np.ndim(t) and np.shape(t) != (len(x),):
            raise HastenError(f"t: {np.shape(t)} times do not suit {len(x)} rows; give a number, or one a row")
        numbers = np.broadcast_to(self.process.network_time(t), len(x)).astype(np.float32)
        return t, torch.from_numpy(numbers).to(x.device)

    def _answer(self, shown: Tensor, number: Tensor) -> Tensor:
        """What the network says, guidance included; the negative branch comes first in its batch."""
        count, ready = len(shown), shown.to(self.dtype or shown.dtype)
        bound = self.bound.expanded(count).to(shown.device, ready.dtype)
        embedded = None if self.embedded is None else _spread(self.embedded, count).to(shown.device, torch.float32)
        if self.free is None:
            return self.adapter.call(self.network, ready, number, bound, embedded).to(shown.dtype)
        both = self.free.expanded(count).to(shown.device, ready.dtype).joined(bound)
        twice = None if embedded is None else embedded.repeat(2)
        answer = self.adapter.call(self.network, ready.repeat(2, 1, 1, 1), number.repeat(2), both, twice)
        free, said = answer.to(shown.dtype).chunk(2)
        return free + _spread(self.guidance, count).to(shown).reshape(-1, 1, 1, 1) * (said - free)


class Requests:
    """Denoisers of many requests as one for `sample_many`: the i-th answers the rows of the i-th run.

    denoisers: on the same network, each bound to as many rows as its run has, or to any number.
    """

    def __init__(self, denoisers: Sequence[ConditionedDenoiser]) -> None:
        self.denoisers, self.process, self.kind = denoisers, denoisers[0].process, denoisers[0].kind
        self._asked: Sequence[Asked] = ()

    def follow(self, asked: Sequence[Asked]) -> None:
        """The next call holds the rows of these queries, in this order."""
        self._asked = asked

    def __call__(self, x: Tensor, t: Times) -> Prediction:
        own = [(self.denoisers[one.index], one.rows) for one in self._asked]
        first, *rest = (each if len(each) == rows else each.rows([0] * rows) for each, rows in own)
        return first.joined(*rest)(x, t)


def conditioned(
    pipe: Any, prompts: Text | Conditions, *, guidance: Scale = 1.0, negative: Text | Conditions | None = None,
    embedded: Scale | None = None, size: tuple[int, int] | None = None, gradients: bool = True, **encoding: Any,
) -> ConditionedDenoiser:  # fmt: skip
    """The network of a diffusers pipeline, bound to prompts, as a denoiser that gradients pass.

    prompts: one a row of the states, or one for all; text, or `conditions` encoded before.
    guidance: a scale of at least 0, or one a row. The classifier-free w of without + w (with - without): at 1
    for all rows the network is asked with the prompts alone. What a network is shown that embeds the scale (Flux,
    LCM), if `embedded` is None.
    negative: the prompts of "without", one or one a row. None: what the pipeline takes if it is given none.
    embedded: the scale that such a network is shown beside true guidance, which `guidance` then is.
    size: height and width of the picture in pixels; only networks whose times shift by it need it. The
    pipeline's own if None.
    gradients: False for runs that only draw, so that they need not ask for torch.no_grad.
    encoding: what `encode_prompt` takes besides (max_sequence_length, clean_caption, clip_skip, ...).
    Raises UnsupportedModel for other networks than `hasten.runtime.adapters.ADAPTERS` has, and HastenError for
    impossible scales, and for numbers of prompts and scales that do not agree.
    """
    network, adapter = _known(pipe)
    scales = _scales("guidance", guidance)
    own = None if embedded is None else _scales("embedded", embedded)
    if adapter.embeds(network):
        if own is None and negative is not None:
            raise HastenError(
                "embedded: None is not possible with negative prompts; give the scale the network is shown"
            )
        if own is None:
            scales, own = torch.ones(1, dtype=torch.float64), scales
    elif own is not None:
        raise HastenError(f"embedded: {embedded} is not possible; {type(network).__name__} is shown no scale here")
    bound = prompts if isinstance(prompts, Conditions) else conditions(pipe, prompts, **encoding)
    free = None if bool((scales == 1).all()) else _negative(pipe, network, adapter, bound, negative, encoding)
    _agree({"prompts": bound, "negative": free, "guidance": scales, "embedded": own})
    reading = _read(pipe, network, adapter, size)
    return ConditionedDenoiser(network, adapter, reading, bound, free, scales, own, _dtype_of(network), gradients)


@torch.no_grad()
def conditions(pipe: Any, prompts: Text, negative: bool = False, **encoding: Any) -> Conditions:
    """Prompts as the pipeline's own encoders say them, one row each: what `conditioned` takes in place of text.

    negative: encode as negative prompts, which some pipelines treat differently.
    encoding: see `conditioned`.
    No gradients reach the encoders. Raises HastenError without prompts, or without encoders.
    """
    _, adapter = _known(pipe)
    listed = _listed(pipe, "prompts", prompts)
    return adapter.encode(pipe, listed, negative, **encoding)


def _known(pipe: Any) -> tuple[nn.Module, Adapter]:
    network = network_of(pipe)
    adapter = adapter_of(network, getattr(pipe, "vae_scale_factor", 1))
    for part in ("controlnet", "adapter"):
        if getattr(pipe, part, None) is not None:
            raise UnsupportedModel(f"model: {type(pipe).__name__} shows its network pictures ({part}) besides prompts")
    return network, adapter


def _listed(pipe: Any, field: str, prompts: Any) -> list[str]:
    listed = [prompts] if isinstance(prompts, str) else list(prompts)
    if not listed or not all(isinstance(prompt, str) for prompt in listed):
        raise HastenError(f"{field}: {prompts!r} is not possible; give a text, or one a row")
    encoders = [part for name, part in getattr(pipe, "components", {}).items() if name.startswith("text_encoder")]
    if encoders and not any(encoders):
        raise HastenError(f"{field}: {listed[0]!r} is text, and this pipeline has no text encoder; give Conditions")
    return listed


@torch.no_grad()
def _negative(
    pipe: Any, network: nn.Module, adapter: Adapter, bound: Conditions, negative: Any, encoding: Any
) -> Conditions:
    """The conditions of the negative branch."""
    if isinstance(negative, Conditions):
        return negative
    if negative is not None:
        return adapter.encode(pipe, _listed(pipe, "negative", negative), True, **encoding)
    if not adapter.guided:
        told = "guides by the scale it is shown" if adapter.embeds(network) else "was trained to need no guidance"
        raise HastenError(f"negative: None is not possible; {type(network).__name__} {told}; give one, or guidance=1")
    if pipe.config.get("force_zeros_for_empty_prompt"):  # SDXL
        zeros = {name: torch.zeros_like(tensor) for name, tensor in bound.tensors.items() if name in adapter.free}
        return Conditions({**bound.tensors, **zeros})
    return adapter.encode(pipe, _listed(pipe, "negative", ""), True, silent=True, **encoding)


def _scales(field: str, value: Any) -> Tensor:
    scales = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
    wrong = [scale for scale in scales.tolist() if not 0 <= scale < float("inf")]
    if wrong or not len(scales):
        shown = wrong[0] if wrong else value
        raise HastenError(f"{field}: {shown} is not possible; give a scale of at least 0 (1 is none), or one a row")
    return scales


def _agree(parts: dict[str, Any]) -> None:
    """Raise HastenError unless all are one for all rows, or as many as there are rows."""
    counts = {name: len(part) for name, part in parts.items() if part is not None and len(part) > 1}
    (first, rows), *rest = counts.items() or [("", 1)]
    for name, count in rest:
        if count != rows:
            raise HastenError(f"{name}: {count} do not suit {rows} of {first}; give one, or one a row")


def _read(pipe: Any, network: nn.Module, adapter: Adapter, size: tuple[int, int] | None) -> Reading:
    """How the network is read, in the process of the pipeline's scheduler, shifted for the picture's size."""
    config, mu = described(pipe.scheduler), None
    if config.get("invert_sigmas"):
        raise UnsupportedModel("invert_sigmas: True is not supported; this model counts its noise levels backwards")
    if config.get("use_dynamic_shifting"):
        side = pipe.default_sample_size * adapter.scale
        height, width = (length // adapter.scale for length in size or (side, side))
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        least, most = config.get("base_shift", 0.5), config.get("max_shift", adapter.max_shift)
        mu = least + (most - least) * (adapter.tokens(network, height, width) - low) / (high - low)
    return reading_of(dynamic_process(config, from_config(config), mu), config)


def _same(one: Process, other: Process) -> bool:
    numbers, others = vars(one), vars(other)
    return type(one) is type(other) and all(np.array_equal(others[name], numbers[name]) for name in numbers)


def _spread(scale: Tensor, count: int) -> Tensor:
    if len(scale) not in (1, count):
        raise HastenError(f"x: {count} rows do not suit {len(scale)} scales; give a row a scale, or one scale")
    return scale.expand(count)


def _dtype_of(network: Any) -> torch.dtype:
    return network.dtype if hasattr(network, "dtype") else next(network.parameters()).dtype
