"""What a training step minimises: an Objective is a module with one method, `loss(batch) -> Tensor`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hasten.denoisers import coefficients
from hasten.processes import Process, RectifiedFlow

Batch = Mapping[str, Tensor]


class Objective(nn.Module):
    """Networks to train and the loss that trains them.

    The networks are submodules, so parameters, checkpoints and the moving average come from `nn.Module`. What takes
    no gradients (a teacher, the weights under a LoRA: `requires_grad_(False)`) is frozen: never in a state_dict,
    shared with the moving average, and in evaluation mode where a whole module is frozen.
    Randomness comes from torch's global generator, which the Trainer seeds from (seed, step).
    """

    _frozen: frozenset[str] | None = None  # of a moving average, which takes no gradients itself

    def __init__(self) -> None:
        super().__init__()
        self.register_state_dict_post_hook(_leave_out_frozen)
        self.register_load_state_dict_post_hook(_miss_no_frozen)

    def loss(self, batch: Batch) -> Tensor:
        """The scalar loss of one batch (a mapping of equally long tensors)."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        return self.loss(batch)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)
        for _, part in self._frozen_parts():
            part.eval()
        return self

    def frozen(self) -> frozenset[str]:
        """The names of parameters and buffers that do not train; none if nothing trains."""
        if self._frozen is not None:
            return self._frozen
        still = tuple(f"{name}." for name, _ in self._frozen_parts())
        names = {name for name, _ in self.named_buffers(remove_duplicate=False) if name.startswith(still)}
        if self.trained():
            names |= {n for n, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad}
        return frozenset(names)

    def trained(self) -> list[Tensor]:
        """The parameters that train, or in a moving average follow, in a fixed order."""
        if self._frozen is None:
            return [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [parameter for name, parameter in self.named_parameters() if name not in self._frozen]

    def averaged(self) -> Any:
        """A copy for the moving average: in evaluation mode, without gradients, sharing what is frozen."""
        frozen = self.frozen()
        tensors = [*self.named_parameters(), *self.named_buffers()]
        twin = copy.deepcopy(self, {id(tensor): tensor for name, tensor in tensors if name in frozen})
        twin._frozen = frozen
        return twin.eval().requires_grad_(False)

    def _frozen_parts(self) -> list[tuple[str, nn.Module]]:
        if not self.trained():
            return []
        parts = [(name, part, [*part.parameters()]) for name, part in self.named_modules()]
        return [(name, part) for name, part, own in parts if own and not any(p.requires_grad for p in own)]


def _leave_out_frozen(objective: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in objective.frozen():
        state.pop(prefix + name, None)


def _miss_no_frozen(objective: Any, keys: Any) -> None:
    frozen = objective.frozen()
    keys.missing_keys[:] = [name for name in keys.missing_keys if name not in frozen]


class Reconstruction(Objective):
    """Trains an autoencoder (`encoder`, `decoder`) on `batch["sample"]`, images in [-1, 1].

    The loss is L1 on the pixels, plus L2 on the pixels and a term that shapes the latents.

    autoencoder: what is trained.
    square: weight of L2 on the pixels.
    spread: weight of the distance of each latent channel's batch mean from 0 and standard deviation from 1, so that the
        latents suit a diffusion model without any scaling.
    jitter: standard deviation of the noise added before decoding: what a denoiser leaves behind must not show.
    """

    def __init__(self, autoencoder: nn.Module, square: float = 10.0, spread: float = 0.1, jitter: float = 0.05):
        super().__init__()
        self.autoencoder = autoencoder
        self.square, self.spread, self.jitter = square, spread, jitter

    def loss(self, batch: Batch) -> Tensor:
        images = batch["sample"].contiguous(memory_format=torch.channels_last)
        encoder: Any = self.autoencoder.encoder
        decoder: Any = self.autoencoder.decoder
        latents = encoder(images).float()
        decoded = decoder(latents + self.jitter * torch.randn_like(latents)).float()
        pixels = F.l1_loss(decoded, images) + self.square * F.mse_loss(decoded, images)
        mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        return pixels + self.spread * (mean.square() + (std - 1).square()).mean()


class Labels(nn.Module):
    """Class labels as a diffusers network takes them."""

    def forward(self, labels: Tensor) -> dict[str, Tensor]:
        return {"class_labels": labels}


class Captions(nn.Module):
    """Token ids through a text encoder, as a diffusers network takes them."""

    def __init__(self, text_encoder: nn.Module):
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        return {"encoder_hidden_states": self.text_encoder(tokens)[0]}


class Conditional(Objective):
    """What objectives share that noise `batch["sample"]` and ask a network, given `batch["condition"]`.

    network: called as `network(x, number, **known)`; answers a tensor like x, or a diffusers output of one.
    conditioner: called with conditions (rows, ...); answers `known`, a mapping.
    null: what replaces a condition that is dropped.
    process: how samples are noised, and what numbers the network is shown for times.
    drop: the probability of dropping one, 0 to 1, which teaches the unconditional prediction that guidance needs.
    """

    null: Tensor

    def __init__(self, network: nn.Module, conditioner: nn.Module, null: Tensor, process: Process, drop: float) -> None:
        super().__init__()
        self.network, self.conditioner, self.process, self.drop = network, conditioner, process, drop
        self.register_buffer("null", null, persistent=False)

    def asked(self, batch: Batch, times: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noise, alpha and sigma (shaped to multiply samples), and the network's answer to noised samples.

        batch: with "sample" and "condition".
        times: of the samples, (rows,).
        """
        clean, condition, t = batch["sample"], batch["condition"], times.double().cpu().numpy()
        noise = torch.randn_like(clean)
        alpha, sigma = coefficients(self.process, t, clean)
        number = torch.as_tensor(self.process.network_time(t))
        number = number.to(clean.device, torch.long if self.process.discrete else torch.float32)
        dropped = spread_over(torch.rand(len(clean), device=clean.device) < self.drop, condition)
        known = self.conditioner(torch.where(dropped, self.null, condition))
        answer = self.network(alpha * clean + sigma * noise, number, **known)
        return noise, alpha, sigma, (answer if isinstance(answer, Tensor) else answer.sample).float()


class Denoising(Conditional):
    """Trains a network to predict the noise in `batch["sample"]`, given `batch["condition"]`.

    Times are uniform, stratified over the batch.

    network, conditioner, null, process, drop: see `Conditional`.
    gamma: each sample weighs min(SNR, gamma) / SNR.

    Source: Ho et al. 2020, eq. (14); Hang et al. 2023 (Min-SNR), eq. (7) for noise prediction; Ho and Salimans 2022.
    """

    def __init__(
        self, network: nn.Module, conditioner: nn.Module, null: Tensor, process: Process, drop: float = 0.1,
        gamma: float = 5.0,
    ) -> None:  # fmt: skip
        super().__init__(network, conditioner, null, process, drop)
        self.gamma = gamma

    def loss(self, batch: Batch) -> Tensor:
        places = stratified(len(batch["sample"]), batch["sample"].device)
        noise, alpha, sigma, answer = self.asked(batch, uniform(self.process, places))
        error = (answer - noise).square().flatten(1).mean(1)
        snr = (alpha / sigma).square().flatten()
        return (error * (self.gamma / snr).clamp(max=1)).mean()


class PooledCaptions(nn.Module):
    """Token ids through CLIP (its pooled vector) and T5 (its sequence), as a Flux transformer takes them.

    Each row holds ids for CLIP and then those for T5, padded to the longest sequence a pipeline may ask for. While
    training, a batch keeps the first of T5's only: the network learns to pass over padding, at a fraction of the cost
    of always seeing all of it.

    clip: the text model whose pooled vector is used.
    t5: the text model whose sequence is used.
    split: how many ids of a row are CLIP's.
    lengths: how many of T5's a batch may keep.
    shares: with which probability it keeps each of these, in sum 1.
    """

    def __init__(
        self, clip: nn.Module, t5: nn.Module, split: int, lengths: tuple[int, ...] = (32, 64, 128),
        shares: tuple[float, ...] = (0.96, 0.03, 0.01),
    ) -> None:  # fmt: skip
        super().__init__()
        self.clip, self.t5, self.split, self.lengths, self.shares = clip, t5, split, lengths, shares

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        words = tokens[:, self.split :]
        if self.training:
            words = words[:, : self.lengths[int(torch.multinomial(torch.tensor(self.shares), 1))]]
        pooled = self.clip(tokens[:, : self.split]).pooler_output
        return {"pooled_projections": pooled, "encoder_hidden_states": self.t5(words)[0]}


class FlowMatching(Conditional):
    """Trains a network to predict the velocity noise - data on straight paths, given `batch["condition"]`.

    Times are the logistic of normal draws, stratified over the batch, which the `shift` of the process moves towards
    the noise as sampling moves them.

    network, conditioner, null, drop: see `Conditional`.
    process: with a shift of 1.6 if None.

    Source: Esser et al. 2024, eq. (19) for the times and (23) for the shift; Lipman et al. 2023, eq. (23).
    """

    def __init__(
        self, network: nn.Module, conditioner: nn.Module, null: Tensor, process: RectifiedFlow | None = None,
        drop: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__(network, conditioner, null, process or RectifiedFlow(1.6), drop)

    def loss(self, batch: Batch) -> Tensor:
        clean = batch["sample"]
        places = stratified(len(clean), clean.device).clamp(1e-4, 1 - 1e-4)
        noise, _, _, answer = self.asked(batch, torch.sigmoid(torch.special.ndtri(places)))
        return F.mse_loss(answer, noise - clean)


def stratified(count: int, device: Any = None) -> Tensor:
    """One uniform draw in each `count`-th of [0, 1]; the last may round to 1."""
    return (torch.arange(count, device=device) + torch.rand(count, device=device)) / count


def uniform(process: Process, places: Tensor) -> Tensor:
    """Places in [0, 1] as times of a process, each as likely as another: whole numbers if it has a table."""
    if not process.discrete:
        return process.t_min + places * (process.t_max - process.t_min)
    count = round(process.t_max - process.t_min) + 1
    return (places * count).long().clamp(max=count - 1) + process.t_min


def spread_over(values: Tensor, like: Tensor) -> Tensor:
    """`values` (B,) shaped to multiply `like` (B, ...)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
