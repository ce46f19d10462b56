"""What hasten computes is what it computed when tests/golden.json was written, by `python tests/golden.py --write`."""

import golden
import pytest

SLOW = ("zoo ", "fit caches", "folder digits")  # those that load the models that ship
NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name.startswith(SLOW) else ()) for name in golden.recorded()["entries"]
]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_recorded_is_what_comes_out(name):
    old = golden.recorded()["entries"][name]
    assert name in golden.entries(), "is no longer made"
    try:
        new = golden.produce_or_error(name) if "error" in old else golden.produce(name)
    except golden.Missing as package:
        pytest.skip(f"needs {package}")
    told = golden.differences(old, new, golden.allowed(name))
    assert not told, "\n".join(told)


def test_everything_is_recorded():
    assert set(golden.entries()) == set(golden.recorded()["entries"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"x": [1.0, 5.00004]}, ""),
        ({"x": [1.0 + 2e-6, 5.0]}, "x: numbers are up to 2e-06 away"),
        ({"x": [1.0, 5.0, 0.0]}, "x: was float64 [2], is float64 [3]"),
        ({"x": [1.0, float("nan")]}, "x: numbers are up to inf away"),
        ({"recipe": {"b": 2, "a": 1}}, "recipe: the same in another order"),
        ({"recipe": {"a": 1, "b": 3}}, "recipe.b: was 2, is 3"),
        ({"more": 1}, "more is new"),
        ({"x": None}, "x: was"),
    ],
)
def test_a_difference_is_seen(changed, said):
    def made(found):
        as_tensor = golden.torch.tensor
        return {
            label: golden.summary(as_tensor(value, dtype=golden.torch.float64)) if isinstance(value, list) else value
            for label, value in found.items()
        }

    old = {"x": [1.0, 5.0], "recipe": {"a": 1, "b": 2}}
    told = golden.differences(made(old), made(old | changed), golden.EXACT)
    assert [line[: len(said)] for line in told] == ([said] if said else [])
