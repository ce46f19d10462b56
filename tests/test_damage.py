"""Damaged files are refused in one line that names the file and what is wrong; nothing is loaded from a pickle."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pipelines
import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import nn

import hasten
from hasten import zoo
from hasten.core.errors import HastenError
from hasten.core.files import read_header
from hasten.train.checkpoints import load_checkpoint, read_facts, read_tensors, save_checkpoint


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_in_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def flip_the_header_length(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[6] ^= 0xFF
    path.write_bytes(data)


def shorten_the_header(path: Path) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    path.write_bytes((length - 9).to_bytes(8, "little") + data[8:])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


class Bomb:
    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was loaded",)


def become_a_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb()))


def become_a_zipped_pickle(path: Path) -> None:
    torch.save(Bomb(), path)


def become_a_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 17\n")


DAMAGES: dict[Callable[[Path], None], str] = {
    cut: r"is cut off: it has [\d,]+ of [\d,]+ bytes",
    cut_in_the_header: r"is cut off or damaged: it has 20 bytes, and its header alone should end at [\d,]+",
    flip_the_header_length: r"is cut off or damaged: .* its header alone should end at [\d,]{20,}",
    shorten_the_header: "is damaged: its header is not that of a safetensors file",
    empty: "is cut off or damaged: it has 0 bytes",
    append: "is damaged: .*not fully covered",
    become_a_pickle: "is a pickle, which can run code",
    become_a_zipped_pickle: "is a pickle, which can run code",
    become_a_pointer: "is a Git LFS pointer and not the weights",
}
damages = pytest.mark.parametrize(("damage", "told"), DAMAGES.items(), ids=[function.__name__ for function in DAMAGES])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    pipelines.make("sd").save_pretrained(folder)
    return folder


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(whole, tmp_path / "model")


def refused(source: Any, told: str) -> None:
    with pytest.raises(HastenError, match=told) as caught:
        hasten.load(source)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"model: cannot load '{source}'")


def change(path: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, {"format": "pt"})


# --- headers


def test_a_header_is_read_without_its_tensors(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.bfloat16)}, path, {"facts": "yes"})
    header = read_header(path)
    assert header.shapes == {"a": (2, 3), "b": ()} and header.metadata == {"facts": "yes"} and header.numbers == 7
    save_file({}, path)
    assert read_header(path).numbers == 0


@damages
def test_headers_tell_what_is_wrong(tmp_path, damage, told):
    path = tmp_path / "x.safetensors"
    path.write_bytes(save({"a": torch.ones(4, 4), "b": torch.ones(3)}))
    damage(path)
    with pytest.raises(HastenError, match=f"^{path} {told}"):
        read_header(path)


def test_every_length_of_a_cut_file_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    data = save({"a": torch.ones(2), "b": torch.ones(1)})
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(HastenError, match="is cut off"):
            read_header(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(HastenError, match=r"nothing.safetensors cannot be read: .*No such file"):
        read_header(tmp_path / "nothing.safetensors")


# --- pipelines


@damages
@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model"])
def test_damaged_weights_are_refused(model, part, damage, told):
    file = model / f"{part}.safetensors"
    damage(file)
    refused(model, f"{file} {told}")


@damages
def test_damaged_weights_of_the_zoo_are_refused(tmp_path, monkeypatch, damage, told):
    shutil.copytree(zoo.folder("digits"), tmp_path / "digits")
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    damage(tmp_path / "digits/unet/diffusion_pytorch_model.safetensors")
    refused("digits", f"diffusion_pytorch_model.safetensors {told}")


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model"])
def test_pickles_instead_of_safetensors_are_refused(model, part):
    file = model / f"{part}.safetensors"
    torch.save(Bomb(), file.with_suffix(".bin"))
    hasten.load(model)  # beside safetensors it is never read
    file.unlink()
    refused(model, f"{file.with_suffix('.bin')} may be a pickle")
    file.with_suffix(".bin").unlink()
    refused(model, f"{file.parent} has a config.json but no weights in")


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_missing_shard_is_named(model, part):
    pipe = hasten.load(model)
    shutil.rmtree(model / part)
    getattr(pipe, part).save_pretrained(model / part, max_shard_size="30KB" if part == "unet" else "2KB")
    shards = sorted((model / part).glob("*-of-*.safetensors"))
    assert len(shards) > 1
    again = hasten.load(model)
    for key, tensor in getattr(pipe, part).state_dict().items():
        assert torch.equal(getattr(again, part).state_dict()[key], tensor)
    shards[1].unlink()
    refused(model, f"{shards[1]} is missing; .*index.json names it")


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model"])
def test_tensors_of_another_shape_are_named(model, part):
    file = model / f"{part}.safetensors"
    name = min(load_file(file))
    shape = tuple(load_file(file)[name].shape)
    change(file, lambda tensors: tensors.update({name: torch.cat([tensors[name]] * 2)}))
    twice = (2 * shape[0], *shape[1:])
    refused(model, f"{file}: {name} has the shape {twice} where".replace("(", r"\(").replace(")", r"\)"))


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model", "vae/diffusion_pytorch_model"])
def test_what_is_missing_is_not_filled_with_random_numbers(model, part):
    file = model / f"{part}.safetensors"
    lost = min(load_file(file))
    size, numbers = load_file(file)[lost].numel(), read_header(file).numbers
    change(file, lambda tensors: tensors.pop(lost))
    refused(model, f"{file} holds {numbers - size:,} numbers where config.json asks for {numbers:,} parameters")


def test_an_index_that_is_no_json_is_named(model):
    index = model / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text("{")
    refused(model, f"{index} cannot be read as JSON")


@pytest.mark.parametrize("name", zoo.names())
def test_shipped_models_are_whole(name):
    assert hasten.load(name) is not None


def test_offline_hub_ids_fail_in_one_quick_line(tmp_path, monkeypatch):
    import diffusers  # noqa: F401  (importing is not what is timed)
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    begin = time.perf_counter()
    refused("owner/nothing", "it is not whole in the local cache, and asking huggingface.co failed: ")
    assert time.perf_counter() - begin < 10


# --- checkpoints


def written(path: Path, width: int = 3) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    model, average = nn.Linear(4, width), nn.Linear(4, width)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    save_checkpoint(path, model, average, optimizer, {"step": 5, "settings": {}})
    return model, average, optimizer


@damages
def test_damaged_checkpoints_say_what_to_do(tmp_path, damage, told):
    path = tmp_path / "checkpoint.safetensors"
    parts = written(path)
    before = [p.clone() for p in parts[0].parameters()]
    damage(path)
    for read in (lambda: load_checkpoint(path, *parts), lambda: read_facts(path), lambda: read_tensors(path)):
        with pytest.raises(HastenError, match=f"^checkpoint: {path} {told}.*; delete it .* or resume from") as caught:
            read()
        assert "\n" not in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, parts[0].parameters(), strict=True))


def test_a_checkpoint_of_another_model_changes_nothing(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    written(path)
    other, average, optimizer = written(tmp_path / "other.safetensors", width=2)
    before = json.dumps([other.weight.tolist(), average.weight.tolist()])
    with pytest.raises(HastenError, match=r"is of another model: bias is \(3,\) there and \(2,\) here; delete it"):
        load_checkpoint(path, other, average, optimizer)
    deeper = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(HastenError, match=r"0.bias is missing there and \(3,\) here|bias is \(3,\) there and missing"):
        load_checkpoint(path, deeper)
    assert json.dumps([other.weight.tolist(), average.weight.tolist()]) == before


def test_weights_that_are_no_checkpoint_are_refused(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(HastenError, match="was not written by a Trainer"):
        read_facts(path)


def test_a_run_refuses_to_resume_from_a_cut_checkpoint(tmp_path):
    from hasten.train import Objective, Trainer

    class Mean(Objective):
        def __init__(self) -> None:
            super().__init__()
            self.guess = nn.Parameter(torch.zeros(1))

        def loss(self, batch: Any) -> torch.Tensor:
            return (batch["x"] - self.guess).square().mean()

    def run(steps: int) -> Any:
        return Trainer(Mean(), {"x": torch.arange(8.0)}, tmp_path, steps, batch=4, quiet=True).run()

    run(2)
    checkpoint = tmp_path / "checkpoint.safetensors"
    cut(checkpoint)
    with pytest.raises(HastenError, match=r"checkpoint: .* is cut off: .*; delete it to begin anew, or resume from"):
        run(4)
    checkpoint.unlink()
    run(4)
    assert read_facts(checkpoint)["step"] == 4
