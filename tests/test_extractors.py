"""Extractors by name: the features are those of the real model classes on pictures prepared as papers do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hasten.core.errors import HastenError
from hasten.measure import extractor, features

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 56}
STATISTICS = {
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


def images(count: int = 3, channels: int = 3, size: int = 64) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def tiny(kind: str) -> Any:
    import transformers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "dinov2":
            return transformers.Dinov2Model(transformers.Dinov2Config(image_size=224, **SMALL)).eval()
        text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9, "eos_token_id": 8}
        config = transformers.CLIPConfig(text_config=text, vision_config=SMALL, projection_dim=6)
        return transformers.CLIPModel(config).eval()


@pytest.fixture(scope="module", params=["dinov2", "clip"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    model, folder = tiny(request.param), tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return request.param, folder, model


def by_hand(kind: str, model: Any, pictures: Tensor) -> Tensor:
    """What the model says of pictures that already have 224 x 224 pixels."""
    mean, std = (torch.tensor(part)[:, None, None] for part in STATISTICS[kind])
    prepared = (pictures - mean) / std
    with torch.no_grad():
        if kind == "dinov2":
            return model(prepared).last_hidden_state[:, 0]
        return model.visual_projection(model.vision_model(prepared).pooler_output)


def test_features_are_those_of_the_model(saved: tuple[str, Path, Any]) -> None:
    kind, folder, model = saved
    pictures = images(size=224)
    rows = extractor(kind, folder)(pictures)
    assert rows.shape == (3, 8 if kind == "dinov2" else 6) and rows.dtype == torch.float32
    torch.testing.assert_close(rows, by_hand(kind, model, pictures), atol=1e-5, rtol=1e-5)
    assert float((rows[0] - rows[1]).abs().max()) > 1e-3


def test_pictures_are_resized_as_a_whole_and_grey_ones_coloured(saved: tuple[str, Path, Any]) -> None:
    kind, folder, model = saved
    blocks = images(channels=1, size=8).repeat_interleave(56, 2).repeat_interleave(56, 3)  # 448 x 448 of flat blocks
    rows = extractor(kind, folder)(blocks)
    wide = torch.nn.functional.interpolate(blocks, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(rows, by_hand(kind, model, wide.expand(-1, 3, -1, -1)), atol=1e-5, rtol=1e-5)


def test_a_batch_equals_its_singles_and_gradients_flow(saved: tuple[str, Path, Any]) -> None:
    kind, folder, _ = saved
    pictures = images(5).requires_grad_()
    rows = extractor(kind, folder, batch=2)(pictures)
    torch.testing.assert_close(rows[4:], extractor(kind, folder)(pictures[4:]), atol=1e-5, rtol=1e-5)
    rows[:, 0].sum().backward()
    assert pictures.grad is not None and float(pictures.grad.abs().max()) > 0


def test_effnet_is_what_ships() -> None:
    assert torch.equal(extractor("effnet", batch=2)(images()), features(images(), batch=2))
    with pytest.raises(HastenError, match="effnet has its own weights"):
        extractor("effnet", "somewhere")


def test_pictures_are_checked(saved: tuple[str, Path, Any]) -> None:
    kind, folder, _ = saved
    with pytest.raises(HastenError, match=r"must lie in \[0, 1\]"):
        extractor(kind, folder)(images() * 255)


def test_models_that_are_not_whole_are_refused(saved: tuple[str, Path, Any], tmp_path: Path) -> None:
    import shutil

    kind, folder, _ = saved
    weights = tmp_path / "model.safetensors"

    def refused(told: str) -> None:
        with pytest.raises(HastenError, match=told) as caught:
            extractor(kind, tmp_path)
        assert "\n" not in str(caught.value)

    refused("needs a config.json and weights")
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    extractor(kind, tmp_path)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    refused("model.safetensors is cut off: it has")
    weights.write_bytes(b"\x80\x04N.")
    refused("model.safetensors is a pickle")
    weights.write_bytes(whole)
    tensors = load_file(weights)
    lost = next(name for name in sorted(tensors) if "layernorm.weight" in name and "text_model" not in name)
    save_file({name: t for name, t in tensors.items() if name != lost}, weights, {"format": "pt"})
    refused("lacks .*layernorm.weight")
    save_file(tensors | {lost: torch.ones(5)}, weights, {"format": "pt"})
    refused("does not fit its config.json")
    weights.rename(tmp_path / "pytorch_model.bin")
    refused("weights in ..safetensors")


def test_another_kind_of_model_is_refused(saved: tuple[str, Path, Any]) -> None:
    kind, folder, _ = saved
    other = {"dinov2": "clip", "clip": "dinov2"}[kind]
    with pytest.raises(HastenError, match=f"holds a model of type '{kind}'; give one of {other}"):
        extractor(other, folder)


@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_offline_is_one_line_and_quick(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers  # noqa: F401  (importing is not what is timed)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    begin = time.perf_counter()
    with pytest.raises(HastenError, match=r"not in the local cache, and cannot be fetched.*'effnet'") as caught:
        extractor(kind, "owner/nothing")
    assert "\n" not in str(caught.value) and time.perf_counter() - begin < 10


def test_names_that_do_not_exist_are_refused() -> None:
    with pytest.raises(HastenError, match="did you mean 'dinov2'"):
        extractor("dino")
    with pytest.raises(HastenError, match="model: 'not a hub id' is no folder"):
        extractor("clip", "not a hub id")


def test_inception_names_the_package_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchmetrics.image.fid._TORCH_FIDELITY_AVAILABLE", False)
    with pytest.raises(HastenError, match="pip install torch-fidelity"):
        extractor("inception")
    with pytest.raises(HastenError, match=r"there is no file 'nowhere.pth'"):
        extractor("inception", "nowhere.pth")


def test_inception_is_shown_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Network(nn.Module):
        def __init__(self, name: str, features_list: list[str], weights: str | None) -> None:
            super().__init__()
            assert features_list == ["2048"] and weights is None

        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype == torch.uint8 and x.shape[1] == 3
            return x.double().mean((2, 3))

    monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", Network)
    rows = extractor("inception")(torch.full((2, 1, 8, 8), 0.5))
    assert rows.dtype == torch.float32 and torch.equal(rows, torch.full((2, 3), 128.0))  # rounded, not cut to 127
