"""How the network is run: casts, memory layout, compilation, as part of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pipelines
import pytest
import torch
from tiny import fingerprint
from torch import Tensor

from hasten import accelerate
from hasten.compilers import ChannelsLast, TorchCompile, untouched
from hasten.core.errors import HastenError, UnsupportedModel
from hasten.quantize import BFloat16, Float16, Quantizer
from hasten.quantize.cast import retype
from hasten.recipe import Recipe
from hasten.runtime.anatomy import network_of
from hasten.runtime.view import view

torch.set_num_threads(1)


def drawn(pipe: Any, recipe: Any) -> Tensor:
    with accelerate(pipe, recipe) as fast:
        return pipelines.call(fast, steps=3)


def weights(pipe: Any) -> list[Tensor]:
    return [p.detach().clone() for p in network_of(pipe).parameters()]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", ["sd", "pixart", "flux"])
@pytest.mark.parametrize("method", [BFloat16(), Float16()])
def test_a_cast_computes_in_16_bits_and_nothing_else_changes(name: str, method: Any) -> None:
    pipe = pipelines.make(name)
    before, plain = weights(pipe), drawn(pipe, {})
    with method.applied(pipe):
        inside = network_of(pipe)
        assert {p.dtype for p in inside.parameters()} == {method.dtype}
        assert inside is not before
    cast = drawn(pipe, {"quantize": method})
    if getattr(pipe, "text_encoder", None) is not None:
        assert cast.dtype == plain.dtype
    assert 0 < relative(cast.float(), plain) < 0.1
    assert all(torch.equal(a, b) for a, b in zip(before, weights(pipe))) and torch.equal(drawn(pipe, {}), plain)


def test_channels_last_changes_the_layout_alone() -> None:
    pipe = pipelines.make("sd")
    plain = drawn(pipe, {})
    with ChannelsLast().applied(pipe):
        kernels = [p for p in network_of(pipe).parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
        assert kernels and all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    assert relative(drawn(pipe, {"compile": "channels-last"}), plain) < 1e-5
    assert all(p.is_contiguous() for p in network_of(pipe).parameters()) and torch.equal(drawn(pipe, {}), plain)


def test_a_network_that_nobody_touched_is_compiled_whole() -> None:
    network = view(network_of(pipelines.make("sd")))
    assert list(untouched(network)) == [network]


@pytest.mark.parametrize(
    "cache", [{"name": "deepcache", "interval": 2}, {"name": "tome"}, {"name": "taylorseer", "interval": 2}]
)
def test_what_a_cache_has_changed_is_compiled_in_its_untouched_parts(cache: dict[str, Any]) -> None:
    pipe = pipelines.make("sd")
    with accelerate(pipe, {"caches": [cache]}):
        parts = list(untouched(network_of(pipe)))
        assert parts and network_of(pipe) not in parts
        for part in parts:
            assert not any("forward" in inner.__dict__ for inner in part.modules() if inner is not part)
    eager = TorchCompile(backend="eager")
    assert relative(drawn(pipe, {"caches": [cache], "compile": eager}), drawn(pipe, {"caches": [cache]})) < 1e-5


@pytest.mark.slow
def test_inductor_gives_the_same_pictures_and_nothing_is_left() -> None:
    pipe = pipelines.make("sd")
    plain = drawn(pipe, {})
    assert relative(drawn(pipe, {"compile": {"name": "torch-compile", "channels_last": True}}), plain) < 1e-4
    assert torch.equal(drawn(pipe, {}), plain)


def test_nothing_goes_inside_of_what_is_compiled() -> None:
    pipe = pipelines.make("sd")
    with TorchCompile(backend="eager").applied(pipe), pytest.raises(HastenError, match="must be applied before"):
        BFloat16().applied(pipe).__enter__()


def test_they_are_fields_of_a_recipe() -> None:
    recipe = Recipe(quantize="bfloat16", compile={"name": "torch-compile", "channels_last": True})
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert [a.name for a in recipe.accelerations] == ["bfloat16", "torch-compile"]
    with pytest.raises(HastenError, match="quantize"):
        Recipe(quantize="int3")
    with pytest.raises(HastenError, match="backend"):
        Recipe(compile={"name": "torch-compile", "backend": "wishes"})
    with pytest.raises(UnsupportedModel, match="no convolutions"):
        ChannelsLast().check(torch.nn.Linear(2, 2))


def test_retype_leaves_what_it_does_not_change_the_very_same() -> None:
    layer = torch.nn.BatchNorm2d(3)
    network = torch.nn.Sequential(layer, torch.nn.Linear(3, 3, bias=False))
    twin = view(network)
    weight, mean, count = layer.weight, layer.running_mean, layer.num_batches_tracked
    retype(twin[0], lambda x: x.half() if x.shape == (3,) and x.sum() == 3 else x)
    assert twin[0].weight.dtype == twin[0].running_var.dtype == torch.float16 and twin[0].weight.requires_grad
    assert twin[0].bias is layer.bias and twin[0].running_mean is mean and twin[0].num_batches_tracked is count
    assert twin[1].weight is network[1].weight
    assert layer.weight is weight and weight.dtype == torch.float32, "the original is another tensor"


def test_tensors_that_a_cast_keeps_are_the_very_same() -> None:
    pipe = pipelines.make("sd")
    pipe.unet.conv_in.half()
    kept = pipe.unet.conv_in.weight
    with BFloat16().applied(pipe):
        assert pipe.unet.conv_in.weight is kept and pipe.unet.conv_out.weight.dtype == torch.bfloat16


def test_a_write_into_a_tensor_is_what_the_behaviour_matrix_sees() -> None:
    """Views share tensors: `test_undo_is_exact` compares this fingerprint before and after."""

    @dataclass(frozen=True)
    class Writing(Quantizer):
        name = "writing"

        def check(self, network: Any) -> None: ...

        def attach(self, network: Any, run: Any) -> None:
            network.conv_in.weight.data.mul_(0.5)

    pipe = pipelines.make("sd")
    before = fingerprint(pipe)
    with Writing().applied(pipe):
        pass
    assert fingerprint(pipe) != before
