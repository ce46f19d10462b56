"""What a registry lists and what it refuses, methods from outside of the package, and what is said of unknown names."""

import os
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest

import hasten.cli
from hasten.caches import CACHES, FORECASTERS, GATES, INDICATORS, SITES, Cache, Gate
from hasten.core import plugins
from hasten.core.errors import HastenError, unknown
from hasten.core.registry import Registry
from hasten.discrete import UNMASKERS
from hasten.grids import GRIDS
from hasten.methods import families, markdown, methods, parts
from hasten.quantize import QUANTIZERS
from hasten.recipe import Recipe
from hasten.solvers import DDIM, SOLVERS


class Shape(ABC):
    name: ClassVar[str]

    @abstractmethod
    def area(self) -> float: ...


class Solid(Shape):
    def area(self):
        return 1.0

    def heat(self): ...

    def light(self): ...


@pytest.fixture
def shapes() -> Registry:
    return Registry("shape", Shape)


@pytest.fixture(autouse=True)
def restored():
    """What a test lists is gone afterwards, and what was loaded may be loaded again."""
    before = {registry: dict(registry._classes) for registry in Registry.every}
    loaded = set(plugins._loaded)
    yield
    for registry, classes in before.items():
        registry._classes.clear()
        registry._classes.update(classes)
    plugins._loaded.clear()
    plugins._loaded.update(loaded)


def run(*arguments) -> None:
    with pytest.raises(SystemExit) as end:
        hasten.cli.main([str(argument) for argument in arguments])
    assert not end.value.code


def refused(registry, cls) -> str:
    before = dict(registry._classes)
    with pytest.raises(HastenError) as caught:
        registry.add(cls)
    assert registry._classes == before and "\n" not in str(caught.value)
    return str(caught.value)


# --- what is listed


def test_a_name_that_is_taken_is_refused_naming_both_classes(shapes):
    @dataclass(frozen=True)
    class Mine(DDIM):
        name = "ddim"

    told = refused(SOLVERS, Mine)
    assert told.startswith("Mine: 'ddim' is the name of hasten.solvers.ddim.DDIM already; give test_registry.")
    assert SOLVERS.build("ddim") == DDIM()

    @dataclass(frozen=True)
    class Unnamed(DDIM):  # has its parent's
        extra: int = 1

    assert "'ddim' is the name of hasten.solvers.ddim.DDIM already" in refused(SOLVERS, Unnamed)


def test_names_of_methods_and_other_names_exclude_one_another(shapes):
    @dataclass(frozen=True)
    class Square(Solid):
        name = "square"

    shapes.add(Square)
    shapes.alias("box", "square")
    with pytest.raises(HastenError, match="shape: 'square' is the name of a method already"):
        shapes.alias("square", "square")

    @dataclass(frozen=True)
    class Box(Solid):
        name = "box"

    assert "'box' is another name of 'square' already" in refused(shapes, Box)


def test_the_own_class_is_first_even_if_it_comes_second(shapes):
    theirs, own = (dataclass(frozen=True)(type("Square", (Solid,), {"name": "square"})) for _ in range(2))
    theirs.__module__, own.__module__ = "theirs", "hasten.shapes"
    shapes.add(theirs)
    told = refused(shapes, own)
    assert "is the name of hasten.shapes.Square already; give theirs.Square a `name` of its own" in told


def test_a_class_may_be_listed_again_and_when_its_module_is_loaded_again(shapes):
    def define():
        @dataclass(frozen=True)
        class Square(Solid):
            name = "square"

        return Square

    first, again = define(), define()
    assert shapes.add(first) is shapes.add(first) is first
    shapes.add(again)
    assert list(shapes) == [again] and first is not again


def test_what_cannot_be_built_from_its_fields_is_refused(shapes):
    class Plain(Solid):
        name = "plain"

    @dataclass
    class Soft(Solid):
        name = "soft"

    @dataclass(frozen=True)
    class Hard(Solid):
        name = "hard"

    class Undecorated(Hard):
        name = "undecorated"
        more: int = 1

    for cls in (Plain, Soft, Undecorated):
        told = refused(shapes, cls)
        assert told.startswith(f"{cls.__name__}: is not a frozen dataclass; write @dataclass(frozen=True)"), told

    @dataclass(frozen=True)
    class Open(Solid):
        side: float
        made: float = field(init=False)
        factory: tuple = field(default_factory=tuple)
        name = "open"

    assert refused(shapes, Open) == "Open: give `side` a default; a method can be made by its name alone"
    assert "list the class itself" in refused(shapes, Hard())

    @dataclass(frozen=True)
    class Stranger:
        name = "stranger"

    assert refused(shapes, Stranger) == "Stranger: is no Shape; derive it from test_registry.Shape"


def test_a_name_is_set_and_is_no_setting(shapes):
    @dataclass(frozen=True)
    class Nameless(Solid): ...

    @dataclass(frozen=True)
    class Empty(Solid):
        name = ""

    for cls in (Nameless, Empty):
        assert refused(shapes, cls).startswith(f"{cls.__name__}: set `name`")

    @dataclass(frozen=True)
    class Annotated(Solid):
        name: str = "annotated"  # type: ignore[misc]

    @dataclass(frozen=True)
    class Promised(Solid):
        name: str  # type: ignore[misc]

    for cls in (Annotated, Promised):
        assert refused(shapes, cls).startswith(f"{cls.__name__}: `name` has a type, which makes it a setting")


def test_methods_that_are_left_to_be_written_are_named(shapes):
    @dataclass(frozen=True)
    class Idea(Shape):
        name = "idea"

    assert refused(shapes, Idea) == "Idea: write `area`; see test_registry.Shape"
    lamps = Registry("lamp", Solid, needs=("heat", "light"))

    @dataclass(frozen=True)
    class Dark(Solid):
        name = "dark"

    assert refused(lamps, Dark) == "Dark: write `heat` or `light`; see test_registry.Solid"

    @dataclass(frozen=True)
    class Lit(Solid):
        name = "lit"

        def light(self): ...

    assert list(lamps) == [] and lamps.add(Lit) is Lit


def test_a_gate_without_a_rule_and_a_cache_without_rules_are_refused():
    @dataclass(frozen=True)
    class Ajar(Gate):
        name = "ajar"

        def open(self, run):  # should be `opens`
            return True

    @dataclass(frozen=True)
    class Bare(Cache):
        name = "bare"

    @dataclass(frozen=True)
    class Half(QUANTIZERS.base):
        name = "half"

    assert refused(GATES, Ajar) == "Ajar: write `opens` or `decide`; see hasten.caching.gates.Gate"
    assert refused(CACHES, Bare).startswith("Bare: write `rules` or `attach`; see")
    assert refused(QUANTIZERS, Half).startswith("Half: write `attach` and `check`; see")


@dataclass(frozen=True)
class Squares(Gate):
    """Full on squares."""

    name = "squares"

    def opens(self, run):
        return round(run.step**0.5) ** 2 == run.step


def test_a_method_without_a_paper_is_listed_without_one(capsys):
    @dataclass(frozen=True)
    class Unwritten(QUANTIZERS.base):
        """What nobody has written about."""

        name = "unwritten"

        def check(self, network): ...

        def attach(self, network, run): ...

    QUANTIZERS.add(Unwritten)
    (listed,) = (method for method in methods("quantize") if method["name"] == "unwritten")
    assert (listed["paper"], listed["year"], listed["link"]) == ("", None, "")
    assert "| `unwritten` | quantize |  |  | – |  |" in markdown([listed])
    run("methods", "--family", "quantize")
    said = capsys.readouterr().out
    assert "unwritten" in said and "None" not in said


# --- what is listed of it


@pytest.mark.parametrize("family", ["site", "gate", "forecaster", "indicator", "grid", "unmasker"])
def test_parts_are_listed_by_their_family_alone(family):
    assert [m["name"] for m in methods(family)] == [cls.name for cls in parts()[family]] != []
    assert all(m["family"] == family and m["about"] and not m["figure"] for m in methods(family))
    assert family not in {m["family"] for m in methods()}


def test_every_registry_can_be_listed_and_told_by_the_help(capsys):
    known = families() | parts()
    assert {*known.values()} >= {SITES, GATES, FORECASTERS, INDICATORS, GRIDS, UNMASKERS, SOLVERS}
    own = {registry for registry in Registry.every if registry.base.__module__.startswith("hasten.")}
    assert own == {*known.values()}
    run("methods", "--help")
    told = capsys.readouterr().out
    assert all(family in told for family in known)
    with pytest.raises(HastenError, match="family: 'gates' is not known; did you mean 'gate'"):
        methods("gates")


# --- what is said of unknown names


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        (
            {"quantize": {"name": "bfloat16", "bits": 4}},
            "quantize.bfloat16: 'bits' is not known; 'bfloat16' takes no settings",
        ),
        ({"caches": ["squares"]}, "caches: 'squares' is a gate: {'name': 'cache', 'gate': 'squares'}"),
        ({"caches": [{"name": "unet-deep"}]}, "caches: 'unet-deep' is a site: {'name': 'cache', 'site': 'unet-deep'}"),
        ({"quantize": "deepcache"}, "quantize: 'deepcache' is a cache; give it as 'caches'"),
        ({"guidance": "karras"}, "guidance: 'karras' is a grid; give it as 'grid'"),
        ({"solver": "interval"}, "solver: 'interval' is a guidance method; give it as 'guidance'"),
        ({"caches": ["shown"]}, "caches: 'shown' is an indicator; give it as 'indicator'"),
        ({"caches": [{"name": "cache", "gate": "unet-deep"}]}, "gate: 'unet-deep' is a site; give it as 'site'"),
        ({"prune": "nothing"}, "prune: 'nothing' is not known; choose one of: (none exist yet)"),
        ({"solver": "DDIM"}, "solver: 'DDIM' is not known; did you mean 'ddim'?"),
    ],
)
def test_an_unknown_name_says_where_it_belongs(recipe, told):
    GATES.add(Squares)
    with pytest.raises(HastenError) as caught:
        Recipe(**recipe)
    example = """squares' is a gate: {"name": "cache", "gate": "squares"}"""  # JSON, to be copied
    assert str(caught.value).replace('"', "'") == told and ("squares" not in told or example in str(caught.value))


def test_names_that_begin_like_the_input_come_first():
    def told(value, *names):
        return str(unknown("quantize", value, names)).partition("; ")[2]

    names = ("bfloat16", "float16", "float8-weights", "int8")
    assert told("float8", *names) == "did you mean 'float8-weights'?"
    assert told("float", *names) == "did you mean 'float16' or 'float8-weights'?"
    assert told("flaot16", *names) == "did you mean 'float16'?"
    assert told("a", "a1", "a4", "a33", "a2222") == "did you mean 'a1' or 'a4' or 'a33'?"
    assert told("", "b", "a") == told("xyz", "b", "a") == "choose one of: a, b"


# --- from outside of the package


FILE = '''
from __future__ import annotations

from dataclasses import dataclass

from hasten.caching.gates import GATES, Gate


@GATES.add
@dataclass(frozen=True)
class Cubes(Gate):
    """Full on cubes."""

    most: int | None = None
    name = "cubes"

    def opens(self, run):
        return round(run.step ** (1 / 3)) ** 3 == run.step
'''
CUBES = '{"steps": 2, "caches": [{"name": "cache", "gate": {"name": "cubes", "most": 3}}]}'


@pytest.fixture
def cubes(tmp_path):
    file = tmp_path / "my-cubes.py"
    file.write_text(FILE)
    return file


def test_a_file_is_imported_by_the_environment(cubes, monkeypatch):
    with pytest.raises(HastenError, match="gate: 'cubes' is not known"):
        Recipe.of(CUBES)
    monkeypatch.setenv(plugins.FILES, str(cubes))
    recipe = Recipe.of(CUBES)
    assert recipe.caches[0].gate.most == 3 and Recipe.from_json(recipe.to_json()) == recipe  # type: ignore[attr-defined]
    assert "cubes" in GATES.names() and "cubes" in [m["name"] for m in methods("gate")]
    with pytest.raises(HastenError, match="give a value of type int"):
        GATES.build({"name": "cubes", "most": "3"})


def test_a_file_is_imported_from_the_command_line_wherever_the_option_stands(cubes, monkeypatch, capsys):
    monkeypatch.chdir(cubes.parent)
    monkeypatch.delenv(plugins.FILES, raising=False)
    command = ["methods", "--family", "gate", "--markdown"]
    for at, option in [(0, ["--import", cubes.name]), (1, [f"--import={cubes.name}"]), (4, ["--import", cubes])]:
        GATES._classes.pop("cubes", None)
        plugins._loaded.clear()
        run(*command[:at], *option, *command[at:])
        assert "| `cubes` |" in capsys.readouterr().out
        assert plugins.FILES not in os.environ


def complaint(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as end:
        hasten.cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr().err
    assert end.value.code == 1 and len(said.splitlines()) == 1
    return said


def test_a_file_that_cannot_be_imported_is_named_in_one_line(tmp_path, monkeypatch, capsys):
    for name, text in {"bad.py": "1 +", "text.txt": "", "taken.py": FILE.replace('"cubes"', '"every"')}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    for name, told in {
        "bad.py": "SyntaxError", "text.txt": "must end in .py", "gone.py": "no such file",
        "taken.py": "Cubes: 'every' is the name of hasten.caching.gates.Every already",
    }.items():  # fmt: skip
        for _ in range(2):  # it is not taken for loaded
            said = complaint(capsys, "methods", "--import", name)
            assert f"{name} cannot be imported: " in said and told in said
    assert "give --import FILE" in complaint(capsys, "methods", "--import")


def test_an_installed_package_is_asked_when_a_name_is_not_known(cubes, monkeypatch):
    (cubes.parent / "cube_gates.py").write_text(FILE)
    monkeypatch.syspath_prepend(str(cubes.parent))
    points = [EntryPoint("cubes", "cube_gates", plugins.GROUP)]
    monkeypatch.setattr(plugins, "_entry_points", lambda: tuple(points))
    monkeypatch.delitem(sys.modules, "cube_gates", raising=False)
    assert GATES.build("every") and "cube_gates" not in sys.modules
    assert GATES.build("cubes").name == "cubes" and "cube_gates" in sys.modules
    points.append(EntryPoint("broken", "no_such_module_here", plugins.GROUP))
    with pytest.raises(HastenError, match=r"the entry point 'broken' \(no_such_module_here\) cannot be imported: Mod"):
        list(GATES)
    assert GATES.build("cubes")


def test_another_process_that_is_started_knows_it_too(cubes):
    code = "from hasten.caches import GATES; print(GATES.build('cubes'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {plugins.FILES: str(cubes)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "Cubes(most=None)", done.stderr
