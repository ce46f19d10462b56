"""What mkdocs adds to the pages that are written: a page a paper, a page a room, pictures, and counted lines."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "src"))
import papers
import pipeline_classes
import schedulers
import tables

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "hasten"
RESULTS = "benchmarks/results"
ROOMS = (
    "recipe", "search", "evaluate", "measure", "solvers", "sampling", "grids", "denoisers", "processes", "predictions",
    "starts", "guidance", "caches", "caching", "prune", "quantize", "compilers", "fit", "edit", "train",
    "interpolants", "discrete", "runtime", "bridge", "zoo", "methods", "bench", "core",
)  # fmt: skip


def on_config(config: Any) -> Any:
    """Add the made pages to the menu."""
    config.nav.insert(3, {"Papers you can run": papers.nav()})
    config.nav.insert(4, {"Pipelines": pipeline_classes.PATH})
    config.nav.insert(5, {"Schedulers": schedulers.PATH})
    rooms = [{room: f"api/{room}.md"} for room in ROOMS if _module(room).exists()]
    config.nav.append({"API": ["api/index.md", *rooms]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the made pages, the tables of the benchmarks against other packages, and every picture of a result."""
    made = {pipeline_classes.PATH: pipeline_classes.page(), schedulers.PATH: schedulers.page()}
    for path, text in (papers.pages() | made | api()).items():
        files.append(File.generated(config, path, content=text))
    for file in sorted((ROOT / RESULTS).iterdir()):
        if file.suffix in (".png", ".md"):
            files.append(File.generated(config, f"results/{file.name}", abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Count the lines of files that a page names, and point to pictures."""
    markdown = re.sub(r"<!-- lines: (\S+) ?(\S*) -->", lambda m: f"({tables.told(m[1], m[2])})", markdown)
    up = "../" * page.file.src_uri.count("/")
    return re.sub(rf"(?:\.\./)+{RESULTS}/", f"{up}results/", markdown)


def api() -> dict[str, str]:
    """A page a room, made of docstrings; by path."""
    rooms = {room: _module(room) for room in ROOMS}
    rooms = {room: file for room, file in rooms.items() if file.exists()}
    lines = [f"- [`hasten.{room}`]({room}.md): {_first_line(file)}" for room, file in rooms.items()]
    index = f"# API\n\nA page a room, made of the docstrings. What most users need:\n\n{ENTRY}\n\n## Rooms\n\n"
    made = {"api/index.md": index + "\n".join(lines) + "\n"}
    for room, file in rooms.items():
        made[f"api/{room}.md"] = f"# hasten.{room}\n\n" + "\n\n".join(_shown(f"hasten.{room}", file)) + "\n"
    return made


ENTRY = """\
- `hasten.load`: a pipeline by zoo name, folder or hub id ([bridge](bridge.md))
- `hasten.accelerate`, `hasten.Recipe`: run a pipeline by a recipe ([recipe](recipe.md))
- `hasten.tune`, `hasten.compare`: search and measure recipes ([search](search.md))
- `hasten.sample`: run a solver on any denoiser ([sampling](sampling.md), [denoisers](denoisers.md))
- `hasten.invert`: from data to noise ([edit](edit.md))
- `hasten.HastenError`: what every wrong input raises, in one line ([core](core.md))"""


def _module(room: str) -> Path:
    package = SOURCE / room / "__init__.py"
    return package if package.exists() else SOURCE / f"{room}.py"


def _first_line(file: Path) -> str:
    return (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].replace("\n", " ")


def _exported(file: Path) -> list[str]:
    """The names in a module's `__all__`."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return sorted(ast.literal_eval(node.value), key=str.lower)
    return []


def _defines(file: Path) -> bool:
    return any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.parse(file.read_text()).body)


def _shown(module: str, file: Path) -> list[str]:
    """Instructions to mkdocstrings: what a room exports, or all files of a room that exports nothing."""
    if file.name != "__init__.py":
        return [f"::: {module}"]
    names = _exported(file)
    if names:
        return [f"::: {module}\n    options:\n      members: {names}"]
    own = [] if any(file.parent.glob("[a-z]*.py")) and not _defines(file) else [f"::: {module}"]
    return own + [
        f"## {other.stem}\n\n::: {module}.{other.stem}\n    options:\n      heading_level: 3"
        for other in sorted(file.parent.glob("*.py"))
        if not other.stem.startswith("_")
    ]
