"""What a training step minimises: an Objective is a module with one method, `loss(batch) -> Tensor`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batch = Mapping[str, Tensor]


class Objective(nn.Module):
    """Networks to train and the loss that trains them.

    The networks are submodules, so parameters, checkpoints and the moving average come from `nn.Module`.
    Randomness comes from torch's global generator, which the Trainer seeds from (seed, step).
    """

    def loss(self, batch: Batch) -> Tensor:
        """The scalar loss of one batch (a mapping of equally long tensors)."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        return self.loss(batch)


class Reconstruction(Objective):
    """Trains an autoencoder (`encoder`, `decoder`) on `batch["sample"]`, images in [-1, 1].

    L1 + `square` * L2 on the pixels, plus `spread` * the distance of each latent channel's batch mean from 0 and
    standard deviation from 1, so that the latents suit a diffusion model without any scaling. `jitter` is the
    standard deviation of the noise added before decoding: what a denoiser leaves behind must not show.
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


class Denoising(Objective):
    """Trains a network to predict the noise in `batch["sample"]`, given `batch["condition"]`.

    `alphas_cumprod` (T,) is the noise schedule. Times are stratified over the batch. Each sample weighs
    min(SNR, `gamma`) / SNR. With probability `drop` a condition is replaced by `null`, which teaches the
    unconditional prediction that classifier-free guidance needs.

    Source: Ho et al. 2020, eq. (14); Hang et al. 2023 (Min-SNR), eq. (7) for noise prediction; Ho and Salimans 2022.
    """

    null: Tensor
    alphas_cumprod: Tensor

    def __init__(
        self,
        network: nn.Module,
        conditioner: nn.Module,
        null: Tensor,
        alphas_cumprod: Tensor,
        drop: float = 0.1,
        gamma: float = 5.0,
    ):
        super().__init__()
        self.network, self.conditioner = network, conditioner
        self.drop, self.gamma = drop, gamma
        self.register_buffer("null", null, persistent=False)
        self.register_buffer("alphas_cumprod", alphas_cumprod.float(), persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        clean, condition = batch["sample"], batch["condition"]
        count, device = len(clean), clean.device
        places = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count
        times = (places * len(self.alphas_cumprod)).long()
        signal = self.alphas_cumprod[times]
        noise = torch.randn_like(clean)
        alpha, sigma = (spread_over(scale.sqrt(), clean) for scale in (signal, 1 - signal))
        dropped = spread_over(torch.rand(count, device=device) < self.drop, condition)
        known = self.conditioner(torch.where(dropped, self.null, condition))
        predicted = self.network(alpha * clean + sigma * noise, times, **known).sample.float()
        error = (predicted - noise).square().flatten(1).mean(1)
        snr = signal / (1 - signal)
        return (error * snr.clamp(max=self.gamma) / snr).mean()


class PooledCaptions(nn.Module):
    """Token ids through CLIP (its pooled vector) and T5 (its sequence), as a Flux transformer takes them.

    Each row holds `split` ids for CLIP and then those for T5, padded to the longest sequence a pipeline may ask
    for. While training, a batch keeps the first `lengths[i]` of T5's with probability `shares[i]`: the network
    learns to pass over padding, at a fraction of the cost of always seeing all of it.
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


class Packed(nn.Module):
    """A Flux transformer on latents (N, C, H, W) and times in [0, 1], as `FluxPipeline` calls it on 2x2 patches."""

    def __init__(self, transformer: nn.Module):
        super().__init__()
        self.transformer = transformer

    def forward(self, x: Tensor, times: Tensor, encoder_hidden_states: Tensor, pooled_projections: Tensor) -> Tensor:
        from diffusers import FluxPipeline

        shape, rows, columns = x.shape, x.shape[2] // 2, x.shape[3] // 2
        places = FluxPipeline._prepare_latent_image_ids(len(x), rows, columns, x.device, x.dtype)
        words = torch.zeros(encoder_hidden_states.shape[1], 3, device=x.device, dtype=x.dtype)
        output = self.transformer(
            hidden_states=FluxPipeline._pack_latents(x, *shape), timestep=times, img_ids=places, txt_ids=words,
            encoder_hidden_states=encoder_hidden_states, pooled_projections=pooled_projections, return_dict=False,
        )[0]  # fmt: skip
        return FluxPipeline._unpack_latents(output, 2 * rows, 2 * columns, vae_scale_factor=1)


class FlowMatching(Objective):
    """Trains a network to predict the velocity noise - data on straight paths, given `batch["condition"]`.

    Times are the logistic of normal draws, stratified over the batch, moved towards the noise by `shift` as
    sampling moves them. With probability `drop` a condition is replaced by `null`.

    Source: Esser et al. 2024, eq. (19) for the times and (23) for the shift; Lipman et al. 2023, eq. (23).
    """

    null: Tensor

    def __init__(
        self, network: nn.Module, conditioner: nn.Module, null: Tensor, drop: float = 0.1, shift: float = 1.6
    ) -> None:
        super().__init__()
        self.network, self.conditioner, self.drop, self.shift = network, conditioner, drop, shift
        self.register_buffer("null", null, persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        clean, condition = batch["sample"], batch["condition"]
        count, device = len(clean), clean.device
        places = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count
        times = torch.sigmoid(torch.special.ndtri(places.clamp(1e-4, 1 - 1e-4)))
        times = self.shift * times / (1 + (self.shift - 1) * times)
        noise, part = torch.randn_like(clean), spread_over(times, clean)
        dropped = spread_over(torch.rand(count, device=device) < self.drop, condition)
        known = self.conditioner(torch.where(dropped, self.null, condition))
        predicted = self.network((1 - part) * clean + part * noise, times, **known).float()
        return F.mse_loss(predicted, noise - clean)


def spread_over(values: Tensor, like: Tensor) -> Tensor:
    """`values` (B,) shaped to multiply `like` (B, ...)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
