"""The house keeps its own rules: arrows between rooms, light imports, no pickles, a README that is true."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "hasten"
FILES = sorted(SOURCE.rglob("*.py"))

# from the ground up: a room imports only rooms before it
ROOMS = [
    "core", "processes", "predictions", "grids", "zoo", "denoisers", "solvers", "sampling", "starts", "interpolants",
    "discrete", "train", "measure", "runtime", "bridge", "guidance", "caching", "caches", "quantize", "compilers",
    "fit", "distill", "edit", "zoo_training", "recipe", "methods", "evaluate", "report", "search", "bench", "cli",
]  # fmt: skip


def room(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hasten"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("hasten.")}
    return found & set(ROOMS)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_rooms_import_only_rooms_above_them(file):
    here = room(file)
    if here.startswith("__"):
        return
    assert here in ROOMS, f"{here} is a new room: place it in the list above"
    below = {other for other in imported_rooms(ast.parse(file.read_text())) if ROOMS.index(other) > ROOMS.index(here)}
    assert not below, f"{file.name} imports {below}, which lie below {here}"


def test_importing_hasten_loads_nothing_heavy():
    heavy = ["torch", "diffusers", "transformers", "accelerate", "optuna", "scipy", "pydantic", "typer", "rich", "PIL"]
    code = f"import sys, hasten; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_sampling_needs_no_diffusers():
    code = "import sys; from hasten import sample; import hasten.solvers; print('diffusers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_rooms_are_attributes_and_unknown_names_are_not():
    import hasten

    assert hasten.solvers.all() and hasten.sampling.sample is hasten.sample
    with pytest.raises(AttributeError, match="no attribute 'solverz'"):
        hasten.solverz  # noqa: B018


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_no_file_loads_a_pickle(file):
    if file.name == "convert.py":  # run once by hand, with weights_only=True, to make the safetensors that ship
        assert "weights_only=True" in file.read_text()
        return
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {"pickle", "joblib", "dill", "cloudpickle"} & set(names)
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("torch.load", "torch.save")


def test_only_tensors_that_cannot_run_code_ship():
    assert not [p for p in ROOT.rglob("src/**/*") if p.suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl")]
    assert sum(p.stat().st_size for p in SOURCE.rglob("*.safetensors")) < 60e6


def test_the_readme_lists_every_method_with_its_figures():
    from hasten import methods

    table = (ROOT / "README.md").read_text().split("<!-- hasten methods --markdown -->\n")[1].split("\n<!-- end -->")[0]
    assert table == methods.markdown(methods.methods()), "run benchmarks/figures.py"
