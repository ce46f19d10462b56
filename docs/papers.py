"""*Papers you can run*: a page a method, made of the method's class and of what the benchmarks measured of it.

Needs hasten and the benchmarks' results only, so that tests can make the pages without mkdocs.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from docstrings import documented

from hasten import methods, zoo
from hasten.core.errors import HastenError
from hasten.core.registry import plain

ROOT = Path(__file__).parent.parent
NOTES = yaml.safe_load((Path(__file__).parent / "notes.yml").read_text())
FAMILIES = {
    "solver": "Solvers", "start": "Starts", "guidance": "Guidance", "caches": "Caches", "prune": "Pruning",
    "quantize": "Quantizers", "compile": "Compilers",
}  # fmt: skip
MODELS = ("emoji-sd", "emoji-flux")
PROMPT, STEPS = "noto red apple", 10
LONG = 60  # characters of a default that a table shows


def slug(name: str) -> str:
    """The file that a method's page is called by."""
    return name.replace("+", "p")


def pages() -> dict[str, str]:
    """Every page, as Markdown by its path below docs/."""
    listed = {method["name"]: method for method in methods.methods()}
    made = {"papers/index.md": index(list(listed.values()))}
    for family, classes in methods.families().items():
        for cls in classes:
            made[f"papers/{slug(cls.name)}.md"] = page(family, cls, listed[cls.name])
    return made


def nav() -> list[Any]:
    """The pages in the order of families, for the menu."""
    inside = [
        {FAMILIES[family]: [{cls.name: f"papers/{slug(cls.name)}.md"} for cls in classes]}
        for family, classes in methods.families().items()
        if list(classes)
    ]
    return ["papers/index.md", *inside]


def index(listed: list[dict[str, Any]]) -> str:
    """All methods in one table a family."""
    text = [
        "---\nhide: [toc]\n---\n\n# Papers you can run",
        "Every method of hasten, with its paper. A page says what the method does, what can be set, the line that runs "
        "it on a model that ships with hasten, and what was measured.",
        "*calls*: network calls a step. *order*: of convergence in the size of the steps, 0 for solvers of "
        "[distilled models](../tutorials/distilled.md). Figures are of models of up "
        "to 64 pixels on two CPU cores; [how they are made](../measured/how.md). A solver's RMSE is the distance from "
        "the converged solution of the same noise and prompt, with the best of several grids. PSNR of a cache is taken "
        "to the default's own image, at the setting that halves the multiply-adds most nearly.",
    ]
    for family, title in FAMILIES.items():
        rows = [method for method in listed if method["family"] == family]
        solver = family == "solver"
        if not rows:
            continue
        text += [f"## {title}", '<div class="hasten-methods" markdown>', table(
            ["method", *(["calls", "order"] if solver else []), "paper", "figure"],
            [
                [f"[`{m['name']}`]({slug(m['name'])}.md)", *([methods.calls(m), m["order"]] if solver else []),
                 methods.link(m), m["figure"] or "–"]
                for m in rows
            ],
        ), "</div>"]  # fmt: skip
    return "\n\n".join(text) + "\n"


def page(family: str, cls: Any, method: dict[str, Any]) -> str:
    """What there is to know of one method."""
    about = documented(cls.__doc__ or "", [field.name for field in dataclasses.fields(cls)])
    title, _, rest = about.prose.partition("\n\n")
    file = Path(inspect.getsourcefile(cls) or "")
    where = f"`{file.relative_to(ROOT)}` ({len(file.read_text().splitlines())} lines)"
    also = f" · also called {', '.join(f'`{name}`' for name in method['aliases'])}" if method["aliases"] else ""
    note = NOTES.get(method["name"], {})
    text = [
        f"# {method['name']}",
        title,
        f"*[{method['paper']}]({method['link']})*, {method['year']}, {method['source']} · "
        f"[{FAMILIES[family].lower()}](index.md#{FAMILIES[family].lower()}) · {where}{also}",
    ]
    if method.get("warning"):
        text.append(f"!!! warning\n    {method['warning'][0].upper()}{method['warning'][1:]}.")
    text += [rest, "## Run it", *running(family, cls, note), "## Settings", settings(cls, about)]
    text += about.closing
    found = [note["found"]] if note.get("found") else []
    figure = "\n".join(f"- {part}" for part in method["figure"].split("; ") if part)
    measured = [figure, *found, *tables(method["name"])]
    text += [
        "## Measured",
        *(measured if any(measured) else ["It has no benchmark of its own yet; tests check what it does."]),
    ]
    return "\n\n".join(part for part in text if part) + "\n"


def running(family: str, cls: Any, note: dict[str, Any]) -> Iterator[str]:
    """The recipe's line, the command and the Python that run a method."""
    if note.get("needs"):
        yield note["needs"]
    fit = getattr(cls(), "needs_fit", False)
    recipe = recipe_of(family, cls, note)
    if recipe is not None and not fit:
        yield "As a recipe, on a model that ships with hasten:"
        line = json.dumps(recipe)
        for model in suiting(family, cls, note)[:1]:
            yield f"```bash\nhasten generate {model} \"{PROMPT}\" \\\n    --recipe '{line}'\n```"
    elif fit:
        yield "It is fitted to a model before it is of use" + (
            "; `hasten tune` does that inside of a pipeline."
            if family == "solver" or getattr(cls, "search_space", None)
            else "."
        )
    yield f"```python\n{python(family, cls, note).strip()}\n```"


def recipe_of(family: str, cls: Any, note: dict[str, Any]) -> dict[str, Any] | None:
    """A recipe with the method as it is; None for what no recipe holds."""
    spec = {"name": cls.name, **note.get("settings", {})}
    if family == "solver":
        return {"solver": spec, "steps": STEPS} if not cls.adaptive and cls().convergence else None
    return {family: [spec] if family == "caches" else spec} if family != "start" else None


def python(family: str, cls: Any, note: dict[str, Any]) -> str:
    """The Python that runs a method."""
    if "run" in note:
        return note["run"]
    module = cls.__module__ if family == "compile" else ".".join(cls.__module__.split(".")[:2])
    name = cls.__name__
    if family == "solver":
        return (
            f"import hasten\nfrom {module} import {name}\n\n"
            f"x = hasten.sample(denoiser, noise, solver={name}(), steps={STEPS})"
        )
    model = (suiting(family, cls, note) or MODELS)[0]
    made = f"{name}({', '.join(f'{key}={value!r}' for key, value in note.get('settings', {}).items())})"
    value = f"[{made}]" if family == "caches" else made
    return (
        f'import hasten\nfrom {module} import {name}\n\npipe = hasten.load("{model}")\n'
        f"with hasten.accelerate(pipe, hasten.Recipe({family}={value})) as fast:\n"
        f'    image = fast("{PROMPT}", seed=0).images[0]'
    )


def settings(cls: Any, about: Any) -> str:
    """A table of the fields with their defaults."""
    rows = []
    for field in dataclasses.fields(cls):
        default = json.dumps(plain(getattr(cls(), field.name)), default=str)
        shown = default if len(default) <= LONG else default[: LONG - 1] + "…"
        rows.append([f"`{field.name}`", f"`{shown}`", about.of(field.name).removesuffix(".") or "–"])
    return table(["setting", "default", "meaning"], rows) if rows else "None."


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *cells])


@cache
def networks() -> dict[str, Any]:
    """The networks of the zoo's models, without their weights."""
    import diffusers
    import torch

    made = {}
    for model in MODELS:
        file = next(f for part in ("unet", "transformer") for f in zoo.folder(model).glob(f"{part}/config.json"))
        config = json.loads(file.read_text())
        with torch.device("meta"):
            made[model] = getattr(diffusers, config["_class_name"]).from_config(config)
    return made


def suiting(family: str, cls: Any, note: dict[str, Any]) -> list[str]:
    """The models of the zoo that can have a method."""
    if family in ("solver", "start"):
        return list(MODELS)
    able = []
    for model, network in networks().items():
        try:
            cls(**note.get("settings", {})).check(network)
        except HastenError:
            continue
        able.append(model)
    return able


@cache
def _figures() -> Any:
    """benchmarks/figures.py, which reads the benchmarks' results."""
    spec = importlib.util.spec_from_file_location("hasten_figures", ROOT / "benchmarks" / "figures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _tables() -> dict[str, list[str]]:
    return _figures().tables()


def tables(name: str) -> list[str]:
    """Everything that was measured of a method, as Markdown."""
    return _tables().get(name, [])
