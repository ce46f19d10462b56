"""The pages of docs/ and the README: what they show runs, what they name exists, and every method has a page."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
sys.path.insert(0, str(DOCS))

import papers  # noqa: E402 docs/papers.py
import tables  # noqa: E402 docs/tables.py
from docstrings import documented  # noqa: E402

from hasten import methods  # noqa: E402
from hasten.core.registry import Registry  # noqa: E402

MADE = ("papers/", "api/", "results/", "schedulers.md", "pipelines.md")  # pages that are made when the site is built
READ, WRITTEN = 300, 30  # lines from the README to a gate of one's own


@pytest.fixture
def registries_restored():
    """Methods that a page or example lists are gone afterwards."""
    registries: list[Registry[Any]] = [*methods.families().values(), *methods.parts().values()]
    before = [dict(registry._classes) for registry in registries]
    yield
    for registry, classes in zip(registries, before):
        registry._classes.clear()
        registry._classes.update(classes)


def blocks(text: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page.read_text())], ids=name_of)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch, registries_restored):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks(page.read_text())):
        exec(compile(block, f"{page.name}, block {number}", "exec", dont_inherit=True), names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)", page.read_text()):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = (page.parent / file).resolve() if file else page
        if DOCS in there.parents and str(there.relative_to(DOCS)).startswith(MADE):
            continue
        assert there.exists(), f"{page.name} points to {target}"
        headings = re.findall(r"^#+ (.+)$", there.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings]


@pytest.mark.parametrize(
    ("tutorial", "first"), [("add-a-gate", "class Widening"), ("add-a-quantizer", "class RoundedWeights")]
)
def test_a_newcomer_adds_one_in_few_lines(tutorial, first):
    page = (DOCS / "tutorials" / f"{tutorial}.md").read_text()
    spans = [tables.lines(*place) for place in re.findall(r"<!-- lines: (\S+) ?(\S*) -->", page)]
    source = sum(end - begin + 1 for begin, end in spans)
    read = len((ROOT / "README.md").read_text().splitlines()) + len(page.splitlines()) + source
    assert source > 30 and read <= READ and len(page.splitlines()) < 100
    written = blocks(page)[0]
    assert first in written and len(written.splitlines()) <= WRITTEN


def test_tables_in_pages_are_as_they_would_be_written():
    pages = {page: page.read_text() for page in DOCS.rglob("*.md")}
    stale = [page.name for page, text in pages.items() if tables.written(text) != text]
    assert not stale, "run `python docs/tables.py`"
    made = [name for text in pages.values() for name in re.findall(r"<!-- table: (\w+) -->", text)]
    assert sorted(made) == ["FORECASTERS", "GATES", "GRIDS", "INDICATORS", "SITES", "conflicts"]
    recipe = pages[DOCS / "tutorials" / "recipe.md"]
    own = [cls for registry in methods.parts().values() for cls in registry if cls.__module__.startswith("hasten.ca")]
    assert own and all(f"\n| `{cls.name}` | " in recipe for cls in own)
    assert tables.written("<!-- table: GATES -->\nold\n<!-- end -->") != "<!-- table: GATES -->\nold\n<!-- end -->"


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text()
    assert [p for p in DOCS.rglob("*.md") if f" {p.relative_to(DOCS)}\n" not in menu] == []


def test_the_readme_is_short_and_says_where_its_figures_come_from():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    measured = text.split("## Measured\n\n")[1].split("\n## ")[0]
    assert measured.startswith("**Every figure is of models of up to 64 pixels on two CPU cores**")
    rows = [line.strip("| ").split(" | ") for line in measured.splitlines() if line.startswith("|")][2:]
    assert 5 <= len(rows) <= 7
    assert all(re.fullmatch(r"`(hasten|python benchmarks/\w+\.py) ?[^`]*`", command) for *_, command in rows)
    whole = (DOCS / "measured" / "index.md").read_text()
    for figures in [re.findall(r"\d[\d.e-]*", figure) for _, figure, _ in rows]:
        assert all(number in whole for number in figures), f"{figures} differ from those of docs/measured"
    for script in re.findall(r"python (benchmarks/\w+\.py)", text + whole + (DOCS / "measured/how.md").read_text()):
        assert (ROOT / script).exists(), script


def test_the_recipe_page_names_every_field():
    from hasten import Recipe

    page = (DOCS / "tutorials" / "recipe.md").read_text()
    for field in Recipe.model_fields:
        assert f"\n| `{field}` |" in page


def test_every_benchmark_is_explained():
    page = (DOCS / "measured" / "how.md").read_text()
    scripts = [file for file in (ROOT / "benchmarks").glob("*.py") if "\n    python benchmarks/" in file.read_text()]
    assert scripts and all(f"python benchmarks/{file.name}" in page for file in scripts)


def test_the_glossary_is_short_and_says_each_word_once():
    words = re.findall(r"^\| \*\*(.+?)\*\* \| (.+) \|$", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    assert 20 < len(words) <= 40
    assert [word for word, _ in words] == sorted({word for word, _ in words}, key=str.lower)


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return papers.pages()


def test_every_method_has_a_page_that_says_what_it_is(made):
    for method in methods.methods():
        page = made[f"papers/{papers.slug(method['name'])}.md"]
        for said in (f"# {method['name']}\n", method["link"], method["paper"], "\n## Measured\n", "```python\n"):
            assert said in page, (method["name"], said)
        assert all(f"| `{setting}` |" in page for setting in method["settings"])
        assert all(part in page for part in method["figure"].split("; "))
        assert f"[`{method['name']}`]({papers.slug(method['name'])}.md)" in made["papers/index.md"]
    assert len(made) == 1 + len(methods.methods()), "two methods share a page"
    assert papers.NOTES.keys() <= {method["name"] for method in methods.methods()}


COMMANDS = r'^hasten generate (\S+) "(.+)" \\\n +--recipe \'(.+)\'$'


@pytest.mark.slow
def test_the_commands_of_pages_run(made, monkeypatch):
    """With two steps. What takes minutes to compile is only put together."""
    import hasten

    pipes = {model: hasten.load(model) for model in papers.MODELS}
    commands = {name: re.findall(COMMANDS, page, re.MULTILINE) for name, page in made.items()}
    assert sum(map(bool, commands.values())) > len(made) / 2
    for name, lines in commands.items():
        for model, prompt, text in lines:
            recipe = hasten.Recipe.from_json(text)
            with hasten.accelerate(pipes[model], recipe) as fast:
                if not (recipe.compile and recipe.compile.prepares):
                    images = fast(prompt, seed=0, num_inference_steps=2, output_type="pt").images
                    assert images.isfinite().all(), name


@pytest.mark.slow
def test_the_python_of_method_pages_runs(made, monkeypatch):
    import torch

    import hasten
    from hasten.denoisers import GaussianMixture
    from hasten.processes import RectifiedFlow

    pipes = {model: hasten.load(model) for model in papers.MODELS}
    monkeypatch.setattr(hasten, "load", pipes.__getitem__)
    draw = torch.Generator().manual_seed(0)
    denoiser = GaussianMixture(torch.randn(4, 6, generator=draw).numpy(), 0.3, None, RectifiedFlow())
    noises, data = torch.randn(16, 6, dtype=torch.float64, generator=draw), denoiser.sample(64, draw)
    names = {
        "denoiser": denoiser, "noise": noises[:4], "noises": noises, "data": data, "candidates": noises[:4],
        "inputs": data[:5], "truths": data[:5], "solve": lambda noise, inputs: hasten.sample(denoiser, noise, steps=3),
        "distance": lambda a, b: (a - b).square().mean(1),
    }  # fmt: skip
    left_out = ["torch-compile"] + ["cache-dit"] * (importlib.util.find_spec("cache_dit") is None)
    for name, page in made.items():
        for block in blocks(page):
            if not any(part in name for part in left_out) and "PFGMPlusPlus" not in block:
                exec(compile(block, name, "exec", dont_inherit=True), dict(names))


def test_docstrings_are_taken_apart_however_their_parameters_stand():
    text = """What it does, and: more.

    steps: at least 1; see the
        next line. order, of both: 1 or 2. mode(x): "a" or "b".
    Raises HastenError for others.
    Source: Somebody 2020, eq. (1).
    """
    told = documented(text, ["steps", "order", "mode"])
    assert told.prose == "What it does, and: more."
    assert told.of("steps") == "at least 1; see the next line." and told.of("order") == "1 or 2."
    assert told.of("mode") == '"a" or "b".' and told.of("and") == ""
    assert told.closing == ["Raises HastenError for others.", "Source: Somebody 2020, eq. (1)."]


def test_tables_hold_every_setting_that_was_measured():
    rows = json.loads((ROOT / "benchmarks/results/caches.json").read_text())["models"]["emoji-sd"]["rows"]
    measured = [row for row in rows if row["label"].startswith("deepcache ") and row["group"] == "paper"]
    (table,) = [text for text in papers.tables("deepcache") if "PSNR" in text]
    assert measured and table.count("\n| emoji-sd") == len(measured)
