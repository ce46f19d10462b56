"""How the network's code is run: memory layout and compilation, which change results by rounding only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hasten.core.errors import UnsupportedModel, one_of
from hasten.core.registry import Paper, Registry
from hasten.quantize.cast import retype
from hasten.runtime.acceleration import Acceleration, Phase
from hasten.runtime.run import Run
from hasten.runtime.view import wrap

SHAPES = 64  # variants of one function (sizes, batch sizes) that are compiled before torch gives up on it


class Compiler(Acceleration):
    """A change to how the network's code is run. Listed in `COMPILERS`.

    prepares: whether that takes long for each new size of batch.
    """

    phase = Phase.COMPILE
    prepares: ClassVar[bool] = False


COMPILERS: Registry[Compiler] = Registry("compile", Compiler)


@COMPILERS.add
@dataclass(frozen=True)
class ChannelsLast(Compiler):
    """Keep pictures with their channels last in memory, which convolutions are faster with on many machines."""

    name = "channels-last"
    paper = Paper("PyTorch: An Imperative Style, High-Performance Deep Learning Library", 2019, "1912.01703")
    search_space: ClassVar[Mapping[str, Any]] = {}

    def check(self, network: nn.Module) -> None:
        if not any(p.ndim == 4 for p in network.parameters()):
            raise UnsupportedModel(
                f"compile: {type(network).__name__} has no convolutions for channels-last to serve; leave it out"
            )

    def attach(self, network: nn.Module, run: Run) -> None:
        for module in network.modules():
            retype(module, _channels_last)


@COMPILERS.add
@dataclass(frozen=True)
class TorchCompile(Compiler):
    """Compile the largest parts of the network that nothing else has changed the inside of.

    The first call compiles, for seconds to minutes; later views of the same network find the code again.

    channels_last: lay out convolutions so as well, as `ChannelsLast` does.
    backend: of torch.compile.
    dynamic: one code for all sizes, as torch.compile's own; with False each size of batch and picture is compiled when
        it is first seen.

    Source: Ansel et al. 2024.
    """

    channels_last: bool = False
    backend: str = "inductor"
    dynamic: bool = False

    name = "torch-compile"
    paper = Paper(
        "PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph Compilation",
        2024, doi="10.1145/3620665.3640366",
    )  # fmt: skip
    label = "compiled"
    search_space: ClassVar[Mapping[str, Any]] = {"channels_last": (False, True)}
    prepares = True

    def __post_init__(self) -> None:
        one_of("backend", self.backend, torch.compiler.list_backends(exclude_tags=()))

    def check(self, network: nn.Module) -> None:
        if self.channels_last:
            ChannelsLast().check(network)
        if self.backend == "inductor" and next(network.parameters()).device.type == "cpu":
            _needs_compiler()

    def attach(self, network: nn.Module, run: Run) -> None:
        if self.channels_last:
            ChannelsLast().attach(network, run)
        for part in untouched(network):
            wrap(part, self._compiled(part))

    def _compiled(self, part: nn.Module) -> Callable[..., Any]:
        plain = type(part).forward.__get__(part)
        compiled = torch.compile(plain, backend=self.backend, dynamic=self.dynamic)

        def forward(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            with torch._dynamo.config.patch(recompile_limit=SHAPES):  # type: ignore[attr-defined]
                return compiled(*args, **kwargs)

        return forward


def untouched(module: nn.Module) -> Iterator[nn.Module]:
    """The largest parts of a view, with children of their own, inside of which no forward is replaced or hooked."""
    inside = [part for part in module.modules() if part is not module]
    runs = type(module).forward is not nn.Module.forward  # containers do not
    if runs and inside and not any(_touched(part) for part in inside):
        yield module
        return
    for child in module.children():
        yield from untouched(child)


def _touched(module: nn.Module) -> bool:
    return "forward" in module.__dict__ or bool(module._forward_hooks or module._forward_pre_hooks)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _needs_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # torch has a class of its own for it, elsewhere in each release
        raise UnsupportedModel(f"compile: torch.compile on a CPU needs a C++ compiler such as g++ ({error})") from None
