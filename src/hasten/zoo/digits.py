"""`digits`: a class-conditional diffusion model on 8x8 pixels whose pipeline is called like a text-to-image one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NULL = len(WORDS)
"""The class of "no digit in particular", for classifier-free guidance."""

Prompts = str | Sequence[str]


class DigitsPipeline(DiffusionPipeline):
    """Draws handwritten digits of 8x8 pixels: `pipe(["three", "7"]).images`.

    The denoising loop is that of `StableDiffusionPipeline`, on pixels instead of latents and labels instead of text.
    """

    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs = ["latents", "labels"]  # noqa: RUF012 (diffusers reads it as a class attribute)

    def __init__(self, unet: Any, scheduler: Any):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self, prompt: Prompts, num_inference_steps: int = 50, timesteps: list[int] | None = None,
        sigmas: list[float] | None = None, guidance_scale: float = 2.0, negative_prompt: Prompts | None = None,
        num_images_per_prompt: int = 1, eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None, latents: Tensor | None = None,
        output_type: str = "pil", return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Any:  # fmt: skip
        """Draw digits.

        prompt: which ones: "three" or "3"; "" for any.
        num_inference_steps: how many steps the scheduler is asked for.
        timesteps: explicit ones, for schedulers that take them.
        sigmas: explicit ones, for schedulers that take them.
        guidance_scale: of classifier-free guidance; up to 1 is none.
        negative_prompt: what to guide away from; any digit if None.
        num_images_per_prompt: how many images a prompt.
        eta: passed to schedulers that take it.
        generator: of the noise, one for all or one an image.
        latents: the start noise, (N, 1, 8, 8).
        output_type: "pil"; "np" (N, 8, 8, 1) or "pt" (N, 1, 8, 8) in [0, 1]; "latent" (N, 1, 8, 8) around [-1, 1].
        return_dict: whether to return an object with `images`, or a tuple.
        callback_on_step_end: (pipe, step, time, tensors) -> tensors to go on with.
        callback_on_step_end_tensor_inputs: which tensors it is given: "latents", "labels".
        Raises ValueError for a prompt that is not a digit, or another impossible argument.
        """
        labels = self.encode_prompt(prompt, num_images_per_prompt)
        null = torch.full_like(labels, NULL)
        if negative_prompt is not None:
            null = self.encode_prompt(negative_prompt, num_images_per_prompt).expand_as(labels)
        check_output_type(output_type)
        self._guidance_scale = guidance_scale
        self._interrupt = False

        schedule: Any = retrieve_timesteps(
            self.scheduler, num_inference_steps, self._execution_device, timesteps, sigmas
        )
        steps = schedule[0]
        self._num_timesteps = len(steps)
        state = self.prepare_latents(len(labels), generator, latents)
        extra = self.prepare_extra_step_kwargs(generator, eta)

        progress: Any = self.progress_bar
        with progress(total=len(steps)) as bar:
            for index, t in enumerate(steps):
                if self.interrupt:
                    continue
                noise = self._guided(state, t, labels, null)
                state = self.scheduler.step(noise, t, state, **extra, return_dict=False)[0]
                if callback_on_step_end is not None:
                    tensors = {"latents": state, "labels": labels}
                    chosen = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    changed = callback_on_step_end(self, index, t, chosen) or {}
                    state = changed.get("latents", state)
                    labels = changed.get("labels", labels)
                bar.update()

        images = as_output(state, output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _guided(self, state: Tensor, t: Tensor, labels: Tensor, null: Tensor) -> Tensor:
        """The noise that the network predicts, with guidance away from the labels `null`."""
        classes = torch.cat([null, labels]) if self.do_classifier_free_guidance else labels
        states = torch.cat([state] * 2) if self.do_classifier_free_guidance else state
        states = self.scheduler.scale_model_input(states, t)
        noise = self.unet(states, t, class_labels=classes, return_dict=False)[0]
        if not self.do_classifier_free_guidance:
            return noise
        free, bound = noise.chunk(2)
        return free + self.guidance_scale * (bound - free)

    def encode_prompt(self, prompt: Prompts, num_images_per_prompt: int = 1) -> Tensor:
        """Prompts as class labels, (N * num_images_per_prompt,).

        prompt: one or several, N.
        num_images_per_prompt: how often each label is repeated.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        labels = torch.tensor([label(text) for text in prompts], device=self._execution_device)
        return labels.repeat_interleave(num_images_per_prompt)

    def prepare_latents(
        self, count: int, generator: torch.Generator | list[torch.Generator] | None, latents: Tensor | None
    ) -> Tensor:
        """The start noise at the scheduler's scale, (count, 1, 8, 8).

        count: how many images.
        generator: of the noise, one for all or one an image.
        latents: unit noise to use instead.
        """
        side = self.unet.config.sample_size
        shape = (count, self.unet.config.in_channels, side, side)
        if latents is None:
            latents = randn_tensor(shape, generator, self._execution_device, self.unet.dtype)
        elif latents.shape != shape:
            raise ValueError(f"latents: shape {tuple(latents.shape)} should be {shape}")
        return latents.to(self._execution_device) * self.scheduler.init_noise_sigma

    def prepare_extra_step_kwargs(self, generator: Any, eta: float) -> dict[str, Any]:
        """What this scheduler's `step` takes of the two.

        generator: of the noise.
        eta: how much of it.
        """
        import inspect

        accepted = inspect.signature(self.scheduler.step).parameters
        return {name: value for name, value in {"eta": eta, "generator": generator}.items() if name in accepted}

    @property
    def guidance_scale(self) -> float:
        """Of the latest call, as diffusers' call-backs look it up; so are the next three."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        return self._interrupt


def label(text: str) -> int:
    """The class of a prompt, from 0 to NULL.

    text: a digit, its English name, or nothing.
    Raises ValueError for anything else.
    """
    word = text.strip().lower()
    if not word:
        return NULL
    if word in WORDS:
        return WORDS.index(word)
    if word.isdecimal() and int(word) < len(WORDS):
        return int(word)
    raise ValueError(f"prompt: {text!r} is not a digit; say one of 0-9 or {', '.join(WORDS)}")


def check_output_type(name: str) -> None:
    """Raise a ValueError for a kind of output that does not exist."""
    if name not in ("pil", "np", "pt", "latent"):
        raise ValueError(f"output_type: {name!r} is not one of pil, np, pt, latent")


def as_output(latents: Tensor, output_type: str) -> Any:
    """Pixels as the caller wants them.

    latents: around [-1, 1], (N, 1, 8, 8).
    output_type: as of a call of the pipeline.
    """
    if output_type == "latent":
        return latents
    images = (latents.float() / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return images
    arrays = images.permute(0, 2, 3, 1).cpu().numpy()
    if output_type == "np":
        return arrays
    from PIL import Image

    return [Image.fromarray((array[..., 0] * 255).round().astype("uint8")) for array in arrays]
