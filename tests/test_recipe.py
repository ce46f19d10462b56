"""A recipe is data: it survives the trip to JSON and back, and says exactly what is wrong with it."""

import json
from dataclasses import dataclass

import pytest
import torch

from hasten import Recipe
from hasten.core.errors import HastenError
from hasten.core.registry import Paper
from hasten.grids import Explicit, Karras
from hasten.runtime.acceleration import Acceleration, Phase, ordered
from hasten.solvers import SOLVERS, UniPC
from hasten.solvers import all as all_solvers

FULL = {
    "version": 2,
    "solver": {"name": "unipc", "order": 3, "variant": "bh1"},
    "steps": 8,
    "grid": {"name": "karras", "rho": 5.0},
    "guidance": {"scale": 5.0, "name": "interval", "low": 0.3, "high": 6.0},
    "caches": [{"name": "deepcache", "interval": 2, "branch": 1}],
}


def test_plain_data_becomes_methods():
    recipe = Recipe(**FULL)
    assert recipe.solver == UniPC(order=3, variant="bh1") and recipe.grid == Karras(rho=5.0)
    assert recipe.guidance is not None and recipe.guidance.scale == 5.0 and recipe.guidance.method.name == "interval"
    assert [cache.name for cache in recipe.caches] == ["deepcache"]


def test_json_round_trip_is_exact_and_leaves_defaults_out(tmp_path):
    recipe = Recipe(**FULL)
    assert json.loads(recipe.to_json()) == FULL
    assert Recipe.from_json(recipe.to_json()) == recipe
    recipe.save(tmp_path)
    assert Recipe.load(tmp_path) == Recipe.load(tmp_path / "recipe.json") == Recipe.of(str(tmp_path)) == recipe
    assert Recipe.of(recipe.to_json()) == Recipe.of(FULL) == recipe
    assert Recipe().to_dict() == {"version": 2}


@pytest.mark.parametrize("solver", all_solvers(), ids=lambda cls: cls.name)
def test_every_solver_can_be_in_a_recipe(solver):
    recipe = Recipe(solver=solver(), steps=5, grid="trailing")
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_shorthands():
    assert Recipe(guidance=3).to_dict()["guidance"] == {"scale": 3.0}
    assert Recipe(guidance="interval").guidance.method.name == "interval"
    assert Recipe(caches="deepcache") == Recipe(caches=["deepcache"])
    explicit = Recipe(solver="ddim", grid=[900.0, 300.0, 0.0])
    assert explicit.steps == 2 and explicit.grid == Explicit((900.0, 300.0, 0.0))
    assert Recipe.from_json(explicit.to_json()) == explicit


@dataclass(frozen=True)
class Fitted(UniPC):
    table_of_something: object = None
    name = "fitted-for-the-test"


def test_fitted_tensors_are_kept_beside_the_recipe(tmp_path):
    SOLVERS.add(Fitted)
    try:
        recipe = Recipe(solver=Fitted(table_of_something=torch.arange(3.0)), steps=4)
        with pytest.raises(HastenError, match=r"solver.table_of_something.*save\(folder\)"):
            recipe.to_json()
        recipe.save(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["recipe.json", "tensors.safetensors"]
        assert torch.equal(Recipe.load(tmp_path).solver.table_of_something, torch.arange(3.0))
        (tmp_path / "tensors.safetensors").write_bytes(b"not tensors")
        with pytest.raises(HastenError, match="cannot read fitted tensor"):
            Recipe.load(tmp_path)
    finally:
        SOLVERS._classes.pop(Fitted.name)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"solvr": "ddim"}, "recipe: 'solvr' is not known; did you mean 'solver'"),
        ({"solver": "dpmpp"}, "solver: 'dpmpp' is not known"),
        ({"solver": {"name": "unipc", "ordr": 2}}, "solver.unipc: 'ordr' is not known; did you mean 'order'"),
        ({"solver": {"name": "unipc", "order": "two"}}, "order: 'two'"),
        ({"solver": 3}, "solver: 3"),
        ({"steps": 0}, "steps: 0"),
        ({"steps": 2.5}, "steps: 2.5"),
        ({"steps": True}, "steps: True"),
        ({"grid": "karras"}, "name a solver as well"),
        ({"solver": "ddim", "grid": "karas"}, "did you mean 'karras'"),
        ({"solver": "ddim", "grid": [9.0, 1.0], "steps": 5}, "steps: 5 contradicts the 1 steps"),
        ({"solver": "ddim", "end": "dta"}, "did you mean 'data'"),
        ({"guidance": {"scale": -1}}, "guidance.scale: -1"),
        ({"guidance": {"scale": "strong"}}, "scale: 'strong'"),
        ({"guidance": {"scal": 3}}, "did you mean 'scale'"),
        ({"guidance": {"name": "intervall"}}, "did you mean 'interval'"),
        ({"caches": ["deepcach"]}, "did you mean 'deepcache'"),
        ({"caches": [{"name": "deepcache", "interval": 0}]}, "interval"),
        ({"caches": ["deepcache", "deepcache"]}, "'deepcache' is there twice"),
        ({"quantize": "int8"}, "quantize: 'int8'"),
        ({"version": 7}, "version: 7"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(fields, message):
    with pytest.raises(HastenError, match=message) as caught:
        Recipe(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ("[1]", "must be a JSON object"), ('{"steps": 0}', "steps: 0")]
)
def test_corrupt_files_are_refused(tmp_path, text, message):
    file = tmp_path / "r.json"
    file.write_text(text)
    with pytest.raises(HastenError, match=message):
        Recipe.load(file)
    with pytest.raises(HastenError, match="there is no file"):
        Recipe.load(tmp_path / "absent.json")


def test_order_and_conflicts():
    class Fake(Acceleration):
        paper = Paper("", 2001, "0")

        phase = Phase.CACHE

        def __init__(self, name, after=(), conflicts=()):
            self.name, self.after, self.conflicts = name, after, conflicts

        def check(self, network): ...
        def attach(self, network, run): ...

    def names(*accelerations):
        return [a.name for a in ordered(list(accelerations))]

    assert names(Fake("b", after=("a",)), Fake("a")) == ["a", "b"]
    assert names(Fake("c", after=("b",)), Fake("b", after=("a",)), Fake("a")) == ["a", "b", "c"]
    with pytest.raises(HastenError, match="cannot work together"):
        names(Fake("a", conflicts=("b",)), Fake("b"))
    with pytest.raises(HastenError, match="want to come first"):
        names(Fake("a", after=("b",)), Fake("b", after=("a",)))


def test_recipes_of_version_1_are_brought_up_to_date():
    moved = {"name": "moved", "eye": {"name": "added", "blocks": 1}, "threshold": 0.2}
    cache = {"name": "cache", "site": "blocks", "gate": moved, "forecaster": {"name": "then", "first": "drift"}}
    old = Recipe(version=1, solver="ddim", caches=[cache, {"name": "deepcache", "interval": 2}])
    assert old.version == 2 and old.caches[0].gate.indicator.name == "added"
    assert old.caches[0].forecaster.first.name == "difference"
    assert Recipe.from_json(old.to_json()) == old
    assert Recipe(version=1, caches=[{"name": "taylorseer", "phase": 4}]).caches[0].offset == 4
    with pytest.raises(HastenError, match="indicator"):
        Recipe(version=2, caches=[cache])
