"""What a network is given besides states and times: tensors by the name of its argument, one row a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hasten.core.errors import HastenError


@dataclass(frozen=True, eq=False)
class Conditions:
    """Encoded prompts, ready for a network; rows may be cut out, repeated and joined with those of others.

    tensors: by the name under which the network takes them (`encoder_hidden_states`, `pooled_projections`,
    `text_embeds`, `encoder_attention_mask`, `class_labels`, ...), each (prompts, ...).
    Raises HastenError if there are none, or their rows are not equally many.
    """

    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        if not shapes or () in shapes.values() or len({shape[0] for shape in shapes.values()}) != 1 or not len(self):
            raise HastenError(f"conditions: {shapes or 'nothing'} is not possible; give tensors of one row a prompt")

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def rows(self, indices: Sequence[int] | Tensor | slice) -> Conditions:
        """The prompts at these places, in this order; a place may come more than once.

        indices: whole numbers from 0 to len(self) - 1, or a slice.
        """
        places = torch.arange(len(self))[indices] if isinstance(indices, slice) else torch.as_tensor(indices).long()
        outside = [i for i in places.flatten().tolist() if not 0 <= i < len(self)]
        if outside:
            raise HastenError(f"rows: {outside[0]} is not possible; there are rows 0 to {len(self) - 1}")
        return self._each(lambda tensor: tensor[places.to(tensor.device)])

    def joined(self, *others: Conditions) -> Conditions:
        """These prompts, and after them those of others.

        others: of the same network.

        Raises HastenError if they do not fit one batch.
        """
        for other in others:
            one, two = ({n: tuple(t.shape[1:]) for n, t in c.tensors.items()} for c in (self, other))
            if one != two:
                raise HastenError(
                    f"conditions: rows of {two} cannot join rows of {one}; encode both by the same pipeline, to the "
                    "same length"
                )
        if not others:
            return self
        parts = (self, *others)
        return Conditions({name: torch.cat([part[name] for part in parts]) for name in self.tensors})

    def expanded(self, count: int) -> Conditions:
        """One prompt for `count` rows, without copying; as it is if it has so many."""
        if len(self) == count:
            return self
        if len(self) != 1:
            raise HastenError(f"x: {count} rows do not suit {len(self)} prompts; give a row a prompt, or one prompt")
        return self._each(lambda tensor: tensor.expand(count, *tensor.shape[1:]))

    def to(self, device: Any = None, dtype: torch.dtype | None = None) -> Conditions:
        """The same prompts on another device or in another dtype; None leaves either as it is.

        device: of all tensors.
        dtype: of the tensors that are not whole numbers.
        """
        return self._each(lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None))

    def _each(self, change: Any) -> Conditions:
        return Conditions({name: change(tensor) for name, tensor in self.tensors.items()})
