"""The command line: what it prints, writes and returns, and that errors are one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pipelines
import pytest
import torch
from small import hurry

import hasten
from hasten.cli import main
from hasten.evaluate.budget import Budget
from hasten.recipe import Recipe
from hasten.search import comparing, tuning

torch.set_num_threads(1)  # the networks are tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tiny pipeline that takes prompts of the letters a to z."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    pipelines.make("sd").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a pipeline whose network is no U-Net."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

    network = DiTTransformer2DModel(
        num_attention_heads=1, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=1, sample_size=4,
        num_embeds_ada_norm=10, norm_num_groups=2,
    )  # fmt: skip
    pipe = DiTPipeline(network, AutoencoderKL(norm_num_groups=2, block_out_channels=(4,)), DDIMScheduler())
    folder = tmp_path_factory.mktemp("dit") / "tiny"
    pipe.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: Any) -> int:
    """The exit code of a command."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def complaint(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """What a command that must fail says: one line on stderr, nothing else."""
    assert run(*arguments) == 1
    said = capsys.readouterr()
    lines = said.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("hasten: "), said.err
    assert "Traceback" not in said.err + said.out
    return lines[0]


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ('{"solver": "dmp++"}', r"solver: 'dmp\+\+' is not known; did you mean 'dpm\+\+'\?"),
        ('{"steps": 0}', "steps: 0 is not possible"),
        ('{"steps": 5', "not valid JSON"),
        ("[]", "must be a JSON object"),
        ('{"solvr": "ddim"}', r"'solvr' is not known; did you mean 'solver'\?"),
        ('{"caches": [{"name": "deepcache", "interval": 0}]}', "interval"),
    ],
)
def test_wrong_recipes_end_in_one_line(
    recipe: str, told: str, here: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "recipe.json").write_text(recipe)
    for command in (("generate", model, "a"), ("compare", model)):
        said = complaint(capsys, *command, "--recipe", here / "recipe.json")
        assert re.search(told, said), said
    assert not (here / "image.png").exists() and not (here / "compared").exists()


def test_a_cache_for_unets_is_refused_on_a_dit(here: Path, dit: str, capsys: pytest.CaptureFixture[str]) -> None:
    Recipe(caches=["deepcache"]).save(here)
    said = complaint(capsys, "generate", dit, "a", "--recipe", here)
    assert "DiTTransformer2DModel" in said and "give a U-Net" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("generate", "nosuchmodel", "a"), "nosuchmodel"),
        (("generate", "./missing/folder", "a"), "missing/folder"),
        (("generate", "MODEL", "a", "--steps", "0"), "steps: 0"),
        (("generate", "MODEL", "a", "--out", "image.xyz"), "image.xyz"),
        (("generate", "MODEL", "a", "--recipe", "missing.json"), "there is no file missing.json"),
        (("tune", "MODEL", "--budget", "-1x"), "budget: '-1x'"),
        (("tune", "MODEL", "--budget", "cheap"), "budget: 'cheap'"),
        (("tune", "MODEL", "--minutes", "0"), "minutes: 0"),
        (("tune", "MODEL", "--minutes", "-2"), "minutes: -2"),
        (("tune", "MODEL", "--prompts", "empty.txt"), "empty.txt holds none"),
        (("tune", "MODEL", "--prompts", "missing.txt"), "cannot read missing.txt"),
        (("tune", "MODEL", "--prompts", "one.txt"), "too few"),
        (("tune", "MODEL", "--out", "file/below"), "out: cannot write to file/below"),
        (("tune", "nosuchmodel"), "nosuchmodel"),
        (("compare", "MODEL", "--recipe", "good.json", "--out", "file/below"), "out: cannot write to file/below"),
        (("compare", "MODEL", "--recipe", "good.json", "--samples", "1"), "samples: 1"),
        (("train", "nosuchmodel"), "model: 'nosuchmodel' is not known"),
        (("invert", "MODEL", "missing.png"), "missing.png"),
        (("invert", "MODEL", "missing.png", "--solver", "edikt"), "did you mean 'edict'"),
        (("invert", "MODEL", "missing.png", "--out", "noise.safetensors"), "noise.safetensors"),
        (("methods", "--family", "solvr"), "did you mean 'solver'?"),
    ],
)
def test_bad_input_ends_in_one_line(
    arguments: tuple[str, ...], told: str, here: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in {"empty.txt": "\n", "one.txt": "a\n", "file": "", "good.json": '{"solver": "ddim"}'}.items():
        (here / name).write_text(text)
    said = complaint(capsys, *(model if a == "MODEL" else a for a in arguments))
    assert told in said, said
    assert {f.name for f in here.iterdir()} == {"empty.txt", "one.txt", "file", "good.json"}, "nothing is half done"


def test_debug_shows_where(here: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--debug", "tune", model, "--minutes", "0"], ["tune", model, "--minutes", "0", "--debug"]):
        assert run(*arguments) == 1
        said = capsys.readouterr().err
        assert "Traceback" in said and said.strip().splitlines()[-1].startswith("hasten: minutes")


def test_unexpected_errors_are_one_line_too(
    model: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("hasten.recipe.Accelerated.__call__", broken)
    said = complaint(capsys, "generate", model, "a")
    assert said == "hasten: RuntimeError: first line second line (--debug shows where)"


def test_wrong_usage_returns_two(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("tune",), ("nothing",), ("tune", "x", "--minutes", "soon"), ("compare", "x")):
        assert run(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_generate_draws_by_seed_and_recipe(here: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    Recipe(solver="unipc", steps=3).save(here)
    assert run("generate", model, "a", "b", "--recipe", here, "--seed", 1, "--out", "x.png") == 0
    assert capsys.readouterr().out.split() == ["x-1.png", "x-2.png"]
    assert run("generate", model, "b", "--recipe", here, "--seed", 1, "--out", "sub/y.png") == 0
    assert run("generate", model, "b", "--recipe", here, "--seed", 2, "--out", "z.png") == 0
    first, again, other = (Image.open(name).tobytes() for name in ("x-2.png", "sub/y.png", "z.png"))
    assert first == again != other


def test_methods_lists_every_method_with_its_paper(capsys: pytest.CaptureFixture[str]) -> None:
    from hasten.methods import families

    assert run("methods", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {m["name"] for m in found} == {cls.name for family in families().values() for cls in family}
    assert all(m["paper"] and m["about"] and 2000 < m["year"] < 2100 and "." in m["link"] for m in found)
    heun = next(m for m in found if m["name"] == "heun")
    assert (heun["order"], heun["needs_fit"], heun["adaptive"]) == (2, False, False) and "guidance" in heun["warning"]
    assert run("methods", "--family", "caches", "--json") == 0
    assert {m["family"] for m in json.loads(capsys.readouterr().out)} == {"caches"}
    assert run("methods") == 0
    assert "2211.01095" in capsys.readouterr().out


@pytest.mark.slow
def test_tune_and_compare_from_the_command_line(
    here: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hurry(monkeypatch)
    fewer = {"call": {"num_inference_steps": 6}}
    for function, more in ((tuning.tune, {"samples": (2, 2), "finalists": 1}), (comparing.compare, {})):
        monkeypatch.setattr(function, "__kwdefaults__", function.__kwdefaults__ | fewer | more)
    (here / "prompts.txt").write_text("a\nb\nc\nd\n")
    typed = ("tune", model, "--budget", "100x", "--minutes", "0.01", "--prompts", "prompts.txt", "--trials", 1)
    assert run(*typed) == 0
    said = capsys.readouterr()
    assert "faster than the 6-step default" in said.out.replace("\n", " ") and "report.html" in said.out
    assert not said.err, "no progress bars where nobody watches"
    out = here / "tuned" / "tiny"
    assert Recipe.load(out).solver is not None
    assert "already holds a search" in complaint(capsys, *typed)
    assert run("compare", model, "--recipe", out, "--prompts", "prompts.txt", "--samples", 2) == 0
    assert json.loads((here / "compared" / "front.json").read_text())["front"][0]["name"] == "tiny"


def test_tune_says_so_when_no_recipe_keeps_the_budget(
    here: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hasten.search.result import TuneResult

    monkeypatch.setattr("hasten.cli.tune.show_result", lambda *_: None)
    result = TuneResult([], None, Budget.of("1x"), None)  # type: ignore[arg-type]
    monkeypatch.setattr(hasten, "tune", lambda *_, **__: result)
    assert "no recipe is sure to keep 1x" in complaint(capsys, "tune", model)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(hasten, "tune", interrupted)
    assert run("tune", model) == 130
    assert "--resume" in capsys.readouterr().err


def test_help_is_quick_and_version_is_told() -> None:
    begin = time.perf_counter()
    shown = subprocess.run([sys.executable, "-m", "hasten", "--help"], capture_output=True, text=True, check=True)
    assert time.perf_counter() - begin < 5, "about half a second on an idle machine"
    for command in ("tune", "compare", "bench", "generate", "invert", "methods", "train", "--version", "--debug"):
        assert command in shown.stdout
    code = "import sys, hasten.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    told = subprocess.run([sys.executable, "-m", "hasten", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.split()[0] == "hasten"
