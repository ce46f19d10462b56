"""`hasten zoo`: what is said of a shipped model is what the model is."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hasten import zoo
from hasten.cli import main
from hasten.core.errors import HastenError


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `digits` in a zoo of its own."""
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    return Path(shutil.copytree(Path(zoo.__file__).parent / "weights" / "digits", tmp_path / "digits"))


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["zoo", *arguments])
    assert not end.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("name", zoo.names())
def test_a_description_is_true_of_the_loaded_model(name: str) -> None:
    found, pipe = zoo.describe(name), zoo.load(name)
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert found["parameters"] == sum(p.numel() for module in modules for p in module.parameters())
    assert found["pipeline"] == type(pipe).__name__ and found["name"] == name
    assert found["steps"] == inspect.signature(pipe.__call__).parameters["num_inference_steps"].default
    assert found["bytes"] == sum(f.stat().st_size for f in zoo.folder(name).rglob("*") if f.is_file())
    assert found["licence"] == "Apache-2.0" and "CC-BY 4.0" in found["data_licences"]
    assert found["metrics"], "every shipped model was measured"
    assert all(m["low"] <= m["value"] <= m["high"] and m["n"] > 0 for m in found["metrics"].values())


def test_metrics_are_found_however_deep_and_nothing_else(copy: Path) -> None:
    one = {"value": 1.0, "low": 0.5, "high": 2.0, "n": 3}
    figures = {"fd": one, "kd": one | {"low": None}, "drawn": 2000, "alignment": {"top1": one, "misses": [one]}}
    (copy / "evaluation.json").write_text(json.dumps(figures | {"floor": {"fd": one}}))
    metrics = zoo.describe("digits")["metrics"]
    assert set(metrics) == {"fd", "kd", "alignment.top1", "floor.fd"} and metrics["fd"] == one


def test_what_a_model_does_not_say_is_left_out(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "README.md").unlink()
    (copy / "evaluation.json").unlink()
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"_class_name": "NewPipeline"}))
    found = zoo.describe("digits")
    assert (found["licence"], found["data_licences"], found["steps"], found["metrics"]) == (None, [], None, {})
    assert "unknown" in printed(capsys) and "NewPipeline" in printed(capsys)
    (copy / "call.json").write_text('{"num_inference_steps": 4}')
    assert zoo.describe("digits")["steps"] == 4


def test_unknown_and_damaged_models_are_refused(copy: Path) -> None:
    with pytest.raises(HastenError, match="did you mean 'digits'"):
        zoo.describe("digit")
    weights = copy / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(HastenError, match="is cut off"):
        zoo.describe("digits")


def test_the_command_lists_every_model(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    figures: dict[str, Any] = {
        "retrieval": {"top1": {"value": 0.925, "low": 0.88, "high": 0.955, "n": 200}},
        "fd": {"value": 31.24, "low": 29.9, "high": None, "n": 2000},
        "kd": {"value": 0.1, "low": 0.1, "high": 0.1, "n": 2000},
        "alignment": {"value": None, "low": 0, "high": 1, "n": 0},
    }
    (copy / "evaluation.json").write_text(json.dumps(figures))
    told = printed(capsys)
    for text in ("DigitsPipeline", "0.6 M", "1.2", "50", "Apache-2.0", "data CC-BY 4.0"):
        assert text in told, text
    assert "retrieval.top1 92.5 [88.0, 95.5] %" in told and "alignment unknown" in told
    assert "fd 31.2\n" in told.replace(" \n", "\n").replace(" " * 2, "") and "kd" not in told
    listed = json.loads(printed(capsys, "--json"))
    assert [m["name"] for m in listed] == ["digits"] and listed[0]["metrics"]["kd"] == figures["kd"]


def test_listing_needs_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['hasten', 'zoo']\n"
        "from hasten.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "emoji-sd" in done.stdout and done.stdout.splitlines()[-1] == "[]"
