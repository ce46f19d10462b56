"""What pipelines look up in their scheduler: tables, levels, places of timesteps. As diffusers calls and means it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hasten.core.errors import HastenError
from hasten.processes import Process, RectifiedFlow, VarianceExploding, VariancePreserving, ends_on_data, table_of


class NotHere(HastenError, AttributeError):
    """A pipeline reaches for a part of its scheduler that a solver of hasten does not have."""


class Tables:
    """The attributes of a scheduler of diffusers that pipelines read, of the process of one that hosts a solver."""

    process: Process
    timesteps: Tensor
    config: Any

    def _lay_tables(self) -> None:
        """alphas_cumprod and what follows from it, where the model has a table of betas."""
        if not isinstance(self.process, VariancePreserving):
            return
        table = torch.tensor(table_of(self.config), dtype=torch.float64)
        alphas = table / torch.cat([table.new_ones(1), table[:-1]])
        self.alphas_cumprod, self.alphas = table.float(), alphas.float()
        self.betas = 1 - self.alphas
        self.one = torch.tensor(1.0)
        self.final_alpha_cumprod = self.one if ends_on_data(self.config) else self.alphas_cumprod[0]

    def previous_timestep(self, timestep: Any) -> Any:
        """The number that the network is shown after this one; -1 after the last."""
        places = (self.timesteps == torch.as_tensor(timestep, device=self.timesteps.device)).nonzero().flatten()
        following = self.timesteps[int(places[-1]) + 1 :] if len(places) else self.timesteps[:0]
        return following[0] if len(following) else torch.tensor(-1)

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Tensor | None = None) -> int:
        """The place of a number in the run's timesteps, the second where there are several, as diffusers has it.

        Raises HastenError if it is not there.
        """
        listed = self.timesteps if schedule_timesteps is None else schedule_timesteps
        places = (listed == torch.as_tensor(timestep, device=listed.device)).nonzero().flatten()
        if not len(places):
            raise HastenError(f"timestep: {float(timestep):g} is not one of this run")
        return int(places[1 if len(places) > 1 else 0])

    def _get_variance(self, timestep: Any, prev_timestep: Any = None) -> Tensor:
        """The variance of ancestral sampling between two training steps."""
        if not hasattr(self, "alphas_cumprod"):
            raise NotHere("_get_variance: this model has no table of betas")
        before = self.previous_timestep(timestep) if prev_timestep is None else prev_timestep
        now = self.alphas_cumprod[timestep]
        then = self.alphas_cumprod[before] if before >= 0 else self.final_alpha_cumprod
        return (1 - then) / (1 - now) * (1 - now / then)

    def _sigma_to_alpha_sigma_t(self, sigma: Any) -> tuple[Any, Any]:
        """alpha and sigma at a level as `sigmas` counts them."""
        if isinstance(self.process, RectifiedFlow):
            return 1 - sigma, sigma
        if isinstance(self.process, VarianceExploding):
            return torch.tensor(1), sigma
        alpha = 1 / (sigma**2 + 1) ** 0.5
        return alpha, sigma * alpha

    def _get_conditioning_c_in(self, sigma: Any) -> Any:
        """What a state is multiplied by before the network of an EDM is shown it."""
        sigma_data = self._reading.sigma_data  # type: ignore[attr-defined]
        return 1.0 if sigma_data is None else 1 / (sigma**2 + sigma_data**2) ** 0.5

    def __getattr__(self, name: str) -> Any:
        """Say what is not here, so that no pipeline fails in the middle without a reason."""
        if name.startswith("__") or name in ("_internal_dict", "config"):
            raise AttributeError(name)
        kept = self.__dict__.get("_internal_dict", {})
        if name in kept:
            return kept[name]
        raise NotHere(
            f"{name}: the pipeline reaches into its scheduler for this, and a solver of hasten has none of it; leave "
            "solver and grid out of the recipe"
        )


def at_numbers(process: Process, numbers: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma where the network is shown these numbers, one a row of `like` (or one for all)."""
    flat = np.atleast_1d(torch.as_tensor(numbers).detach().cpu().double().numpy())
    times = np.clip(process.from_network_time(flat), 0.0, process.t_max)
    shape = (-1,) + (1,) * (like.ndim - 1)
    alpha, sigma = (
        torch.tensor(level, dtype=like.dtype, device=like.device).reshape(shape)
        for level in (process.alpha(times), process.sigma(times))
    )
    return alpha, sigma
