"""Feature extractors by name, for distances between distributions: the shipped one, and those that papers use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hasten.core.errors import HastenError, unknown
from hasten.core.files import read_header
from hasten.measure.features import check_images, features

Extractor = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Vision:
    """A transformer that looks at pictures.

    hub_id: where it lies.
    kinds: what `model_type` in its config.json may be.
    embed: (network, prepared pixels) -> features.
    mean: of each colour, which is taken away from the pixels first.
    std: of each colour, which they are then divided by.
    """

    hub_id: str
    kinds: tuple[str, ...]
    embed: Callable[[Any, Tensor], Tensor]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


VISION = {
    "dinov2": Vision(
        hub_id="facebook/dinov2-small",
        kinds=("dinov2", "dinov2_with_registers"),
        embed=lambda network, pixels: network(pixels).pooler_output,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    "clip": Vision(
        hub_id="openai/clip-vit-large-patch14",
        kinds=("clip",),
        embed=lambda network, pixels: network.visual_projection(network.vision_model(pixels).pooler_output),
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
}
SIZE = 224
NAMES = ("effnet", *VISION, "inception")


def extractor(name: str, model: str | Path | None = None, *, batch: int = 32) -> Extractor:
    """A function from images (N, 1 or 3, H, W), floats in [0, 1], to features (N, D) in float32.

    Pictures are resized as a whole to 224 x 224 (bicubic, antialiased), for Inception as TensorFlow does.

    name: "effnet" is `hasten.measure.features`, shipped; "dinov2" the class token of DINOv2 (Stein et al. 2023, arXiv
        2306.04675: the features that agree best with people); "clip" the image embedding of CLIP; "inception" the
        2048 numbers of the original FID (Heusel et al. 2017), by torchmetrics, which needs the package torch-fidelity.
    model: for "dinov2" and "clip" a local folder or a hub id with safetensors, for "inception" the weight file of
        torch-fidelity; if None, the usual one, which is fetched unless it is in the local cache.
    batch: how many images pass the network at a time.
    Raises HastenError, in one line, if the name or the model is not known, not whole, or cannot be fetched.
    """
    if name not in NAMES:
        raise unknown("extractor", name, NAMES)
    if name == "effnet":
        if model is not None:
            raise HastenError(f"model: effnet has its own weights, {str(model)!r} cannot replace them")
        return lambda images: features(images, batch=batch)
    embed = _inception(model) if name == "inception" else _transformer(VISION[name], model)
    return lambda images: torch.cat([embed(part.expand(-1, 3, -1, -1)) for part in check_images(images).split(batch)])


def _transformer(vision: Vision, model: str | Path | None) -> Extractor:
    """The features of a batch of RGB images by a transformer, which follows the images to their device."""
    network = _load(vision, _local(str(model or vision.hub_id)))

    def embed(images: Tensor) -> Tensor:
        pixels = F.interpolate(images.float(), (SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (pixels.new_tensor(part)[:, None, None] for part in (vision.mean, vision.std))
        return vision.embed(network.to(images.device), (pixels - mean) / std)

    return embed


def _load(vision: Vision, folder: Path) -> Any:
    import transformers

    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise HastenError(f"model: {folder} needs a config.json and weights in *.safetensors")
    for file in files:
        read_header(file)
    kind = transformers.AutoConfig.from_pretrained(folder, local_files_only=True).model_type
    if kind not in vision.kinds:
        raise HastenError(f"model: {folder} holds a model of type {kind!r}; give one of {', '.join(vision.kinds)}")
    try:
        network, told = transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise HastenError(f"model: {folder} does not fit its config.json: {str(error).splitlines()[0]}") from error
    if told["missing_keys"]:
        raise HastenError(f"model: {folder} lacks {min(told['missing_keys'])}")
    return network.eval().requires_grad_(False)


def _local(source: str) -> Path:
    """The folder itself, or where a hub id lies in the local cache once it has been fetched."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    try:
        return Path(snapshot_download(source, allow_patterns=["config.json", "model*.safetensors*"]))
    except (OSError, ValueError, HTTPError) as error:
        why = str(error.__cause__ or error).strip().splitlines()[0]
        raise HastenError(
            f"model: {source!r} is no folder, not in the local cache, and cannot be fetched ({why}); give the folder "
            "of a copy, or use 'effnet', which is shipped"
        ) from error


def _inception(model: str | Path | None) -> Extractor:
    from torchmetrics.image.fid import NoTrainInceptionV3

    if model is not None and not Path(model).is_file():
        raise HastenError(f"model: there is no file {str(model)!r}")
    try:
        network: Any = NoTrainInceptionV3("inception-v3-compat", ["2048"], None if model is None else str(model))
    except ModuleNotFoundError as error:
        raise HastenError(
            "extractor: 'inception' needs the package torch-fidelity: pip install torch-fidelity"
        ) from error
    except Exception as error:
        raise HastenError(f"model: the Inception weights cannot be read or fetched ({error})") from error
    network.requires_grad_(False)

    def embed(images: Tensor) -> Tensor:
        return network.to(images.device)((images * 255).round().to(torch.uint8)).float()

    return embed
