"""The house keeps its own rules: arrows between rooms, light imports, no pickles."""

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
    "discrete", "train", "measure", "runtime", "bridge", "guidance", "caching", "caches", "prune", "quantize",
    "compilers", "fit", "distill", "edit", "zoo_training", "recipe", "methods", "evaluate", "report", "search", "bench",
    "cli",
]  # fmt: skip
SHARE = 0.15  # of all lines that a room may have
LINES = 300  # that a file may have without saying why in its docstring
SCREEN = 50  # lines that a function may have


def room(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def module(file: Path) -> str:
    parts = ("hasten", *file.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(file): file for file in FILES}


def imported(tree: ast.AST) -> set[str]:
    """The modules of hasten that are imported anywhere in a file: at the top, in functions, for type checkers."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hasten":
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else str(node.module) for name in inner}
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.split(".")[0] == "hasten"}
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_rooms_import_only_rooms_above_them(file):
    here = room(file)
    if here.startswith("__"):
        return
    assert here in ROOMS, f"{here} is a new room: place it in the list above"
    rooms = {name.split(".")[1] for name in imported(ast.parse(file.read_text())) if "." in name}
    below = {other for other in rooms if ROOMS.index(other) > ROOMS.index(here)}
    assert not below, f"{file.name} imports {below}, which lie below {here}"


def test_no_modules_import_each_other_in_a_circle():
    arrows = {name: imported(ast.parse(file.read_text())) - {name} for name, file in MODULES.items()}
    for name, file in MODULES.items():
        if file.name == "__init__.py":  # gathers what its room offers
            arrows[name] = {other for other in arrows[name] if not other.startswith(f"{name}.")}
    left = dict(arrows)
    while left:
        free = [name for name, others in left.items() if not others & left.keys()]
        assert free, f"these import each other: {sorted(left)}"
        for name in free:
            del left[name]


def test_no_room_is_a_palace():
    lines: dict[str, int] = {}
    for file in FILES:
        lines[room(file)] = lines.get(room(file), 0) + len(file.read_text().splitlines())
    largest = max(lines, key=lines.__getitem__)
    assert lines[largest] <= SHARE * sum(lines.values()), f"{largest} has {lines[largest]} of {sum(lines.values())}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_files_and_functions_can_be_read_to_their_end(file):
    text = file.read_text()
    tree = ast.parse(text)
    if len(text.splitlines()) > LINES:
        assert "Longer than" in (ast.get_docstring(tree) or ""), f"{file.name} is long and does not say why"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node, clean=False)
            length = (node.end_lineno or 0) - node.lineno - len((documented or "").splitlines())
            assert length <= SCREEN, f"{file.name}: {node.name} has {length} lines"


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
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {"pickle", "joblib", "dill", "cloudpickle"} & set(names)
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("torch.load", "torch.save")


def test_only_tensors_that_cannot_run_code_ship():
    assert not [p for p in ROOT.rglob("src/**/*") if p.suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl")]
    assert sum(p.stat().st_size for p in SOURCE.rglob("*.safetensors")) < 60e6
