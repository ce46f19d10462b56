"""What every room stands on: silence that restores everything, files that are whole or not there, plain data read."""

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file

import hasten
from hasten.core.console import no_bars, quiet, tracked
from hasten.core.errors import HastenError
from hasten.core.files import read_header, save_tensors, write_json, write_text
from hasten.core.registry import Registry

if TYPE_CHECKING:
    from nowhere import Unknown

# --- the terminal


@pytest.mark.parametrize("before", [logging.NOTSET, logging.INFO, logging.ERROR])
@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
def test_quiet_keeps_back_what_it_says_and_restores_everything(before, level, caplog):
    logging.disable(before)
    filters = list(warnings.filters)
    try:
        with quiet(level):
            assert logging.root.manager.disable == max(before, level)
            for said in (logging.INFO, logging.WARNING):
                logging.getLogger("a library").log(said, "chatter")
            with warnings.catch_warnings(record=True) as heard:
                warnings.warn("advice", UserWarning, stacklevel=1)
        assert logging.root.manager.disable == before and list(warnings.filters) == filters
        assert bool(heard) == (level < logging.WARNING)
        assert bool(caplog.records) == (before < logging.WARNING and level < logging.WARNING)
        with pytest.raises(ZeroDivisionError), quiet(level):
            raise ZeroDivisionError
        assert logging.root.manager.disable == before and list(warnings.filters) == filters
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.parametrize("shown", [(True, True, True), (False, True, True), (True, False, False), (True, True, False)])
def test_bars_of_libraries_come_back_as_they_were(shown):
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    def state():
        libraries = diffusers_logging, transformers_logging
        return (*(library.is_progress_bar_enabled() for library in libraries), not are_progress_bars_disabled())

    def put(diffusers, transformers, hub):
        for library, on in ((diffusers_logging, diffusers), (transformers_logging, transformers)):
            (library.enable_progress_bar if on else library.disable_progress_bar)()
        (enable_progress_bars if hub else disable_progress_bars)()

    before = state()
    try:
        put(*shown)
        with no_bars():
            assert state()[:2] == (False, False)
        assert state() == shown
    finally:
        put(*before)


def test_a_bar_is_silent_where_nobody_watches(capsys):
    assert list(tracked(iter(range(3)), "counting")) == [0, 1, 2]
    said = capsys.readouterr()
    assert said.out == said.err == ""


# --- files


def write_each(folder):
    return {
        "a.txt": lambda: write_text(folder / "a.txt", "ä\n"),
        "b.json": lambda: write_json(folder / "b.json", {"x": [1, 2.5]}),
        "c.safetensors": lambda: save_tensors(folder / "c.safetensors", {"t": torch.eye(3).T[:, :2]}, {"k": "v"}),
    }


def test_what_is_written_is_read_back_and_nothing_lies_beside_it(tmp_path):
    for _ in range(2):
        for write in write_each(tmp_path).values():
            write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.json", "c.safetensors"]
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "ä\n"
    assert json.loads((tmp_path / "b.json").read_text()) == {"x": [1, 2.5]}
    assert torch.equal(load_file(tmp_path / "c.safetensors")["t"], torch.eye(3)[:, :2])
    assert read_header(tmp_path / "c.safetensors").metadata == {"k": "v"}


@pytest.mark.parametrize("name", ["a.txt", "b.json", "c.safetensors"])
def test_a_disk_that_refuses_is_told_in_one_line_that_names_the_file(tmp_path, name):
    (tmp_path / "file").write_text("")
    for folder, why in ((tmp_path / "missing", "No such file"), (tmp_path / "file", "Not a directory")):
        with pytest.raises(HastenError, match=f"^{folder / name} cannot be written: .*{why}") as caught:
            write_each(folder)[name]()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.txt", "b.json", "c.safetensors"])
def test_what_goes_wrong_on_the_way_leaves_the_old_file(tmp_path, monkeypatch, name):
    (tmp_path / name).write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(HastenError, match=f"{name} cannot be written: No space left on device"):
        write_each(tmp_path)[name]()
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "old"


# --- plain data as methods


class Method:
    name: ClassVar[str]
    only_checkers_know: "ClassVar[Unknown | None]" = None


@dataclass(frozen=True)
class Full(Method):
    whole: "int" = 1
    number: "float" = 1.0
    perhaps: "float | None" = None
    yes: "bool" = True
    word: "str" = ""
    pair: "tuple[float, float]" = (0.0, 1.0)
    rows: "tuple[tuple[int, ...], ...]" = ()
    tensor: "torch.Tensor | None" = None
    anything: Any = None
    options: "Mapping[str, int] | None" = None
    name = "full"


METHODS: Registry[Method] = Registry("method", Method)
METHODS.add(Full)


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("whole", 7, 7), ("number", 7, 7.0), ("number", 0.5, 0.5), ("perhaps", 2, 2.0), ("perhaps", None, None),
        ("yes", False, False), ("word", "x", "x"), ("pair", [0, 2], (0.0, 2.0)), ("rows", [[1, 2], []], ((1, 2), ())),
        ("anything", [1, "x"], (1, "x")), ("options", {"a": 1}, {"a": 1}), ("tensor", None, None),
    ],
)  # fmt: skip
def test_plain_data_becomes_what_is_declared(field, given, kept):
    made = getattr(METHODS.build({"name": "full", field: given}), field)
    assert made == kept and type(made) is type(kept)


def test_what_is_not_plain_data_passes_as_it_is():
    tensor = torch.ones(2)
    assert METHODS.build({"name": "full", "tensor": tensor}).tensor is tensor


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("whole", "7"), ("whole", True), ("whole", 7.0), ("whole", None), ("number", "7"), ("number", True),
        ("number", None), ("perhaps", "x"), ("yes", 1), ("yes", "true"), ("word", 3), ("pair", [1]), ("pair", 3),
        ("pair", ["0", "1"]), ("rows", [[1.5]]), ("options", {"a": "1"}),
    ],
)  # fmt: skip
def test_other_types_are_refused_in_one_line(field, given):
    declared = Full.__annotations__[field]
    with pytest.raises(HastenError) as caught:
        METHODS.build({"name": "full", field: given})
    assert str(caught.value) == f"{field}: {given!r} is not possible; give a value of type {declared}"


def test_names_of_methods_need_no_pydantic():
    code = "import sys; from hasten.solvers import SOLVERS; SOLVERS.build('ddim'); print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- the package


def test_the_public_names_are_listed():
    assert {"HastenError", "Recipe", "accelerate", "load", "sample", "tune", "solvers", "__version__"} <= {*dir(hasten)}
    assert not {"annotations", "importlib", "TYPE_CHECKING"} & {*dir(hasten)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_a_device_that_is_not_there_is_refused_before_loading():
    with pytest.raises(HastenError, match="device: 'cuda' is not possible: torch sees no CUDA here"):
        hasten.load("no such model", device="cuda")
    with pytest.raises(HastenError, match="device: 'quda' is not possible: Expected one of cpu"):
        hasten.load("digits", device="quda")
