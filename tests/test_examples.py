"""The scripts in examples/ run, and say what they promise to."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from test_docs import registries_restored  # noqa: F401 a fixture

EXAMPLES = Path(__file__).parent.parent / "examples"
PRINTED = {
    "accelerate_and_restore": r"the same picture: True",
    "any_denoiser": r"unipc .*\n.*largest difference",
    "composed_caches": r"(.*PSNR \d\d\.\d dB.*\n){5}",
    "exact_inversion": r"edict: .* 1?\d\.\de-0[4-9]\n",
    "fitted_solver": r"bns .*\nunipc .*\ndpm\+\+",
    "own_gate": r"threshold 0\.3: skipped on steps \[\d+, ",
    "tune_for_a_minute": r"see tuned/report\.html",
}
"""What each must print, as a regular expression."""
LONG = ("composed_caches", "fitted_solver", "tune_for_a_minute")


def test_every_example_is_tested():
    assert {file.stem for file in EXAMPLES.glob("*.py")} == PRINTED.keys()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in PRINTED]
)
def test_an_example_runs(name, tmp_path, monkeypatch, capsys, registries_restored):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert re.search(PRINTED[name], capsys.readouterr().out)
