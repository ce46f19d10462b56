"""What a run costs, counted: network evaluations, multiply-adds, memory, bytes of weights."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hasten.core.errors import HastenError

Job = Callable[[], Any]


@dataclass
class Calls:
    """What `count_calls` saw.

    calls: how often the network was called (NFE).
    rows: the batch entries of all calls.
    """

    calls: int = 0
    rows: int = 0


@contextmanager
def count_calls(module: nn.Module) -> Iterator[Calls]:
    """Count the forward calls of a module while the context is open; afterwards it is as it was.

    With classifier-free guidance in one batch, a step is one call and two rows an image. The rows of a call are the
    first dimension of the first tensor argument that has at least two dimensions, 1 if there is none.

    module: the network.
    """
    seen = Calls()

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = (x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim >= 2)
        seen.calls += 1
        seen.rows += next((len(x) for x in tensors), 1)

    handle = module.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def macs(run: Job) -> int:
    """Multiply-adds of one run: half the FLOPs of its matrix products, convolutions and attentions.

    Everything else (norms, activations, softmax, sampling arithmetic) counts as nothing, as is usual.
    Compiled parts run uncompiled meanwhile, and the attentions and encoder layers of `torch.nn` without their fused
    kernels, because the counter cannot look inside these; kernels from outside torch that it does not know count as
    nothing too.

    run: what is to be counted.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False, custom_mapping=_flops_torch_leaves_out())
    with torch.compiler.set_stance("force_eager"), _part_by_part(), counter:
        run()
    return counter.get_total_flops() // 2


def peak_memory(run: Job, device: str | torch.device | None = None) -> int:
    """Bytes by which the tensors alive during a run exceed, at the worst moment, those alive before it.

    Weights loaded before the run are not in it (`weight_bytes` has them). On CUDA this is the caching
    allocator's peak, on the CPU the running sum of the allocator's events, which torch's profiler records:
    exact and repeatable for what torch allocates, blind to what other libraries allocate themselves.

    run: what is to be measured; CUDA's peak statistics are reset before it.
    device: "cuda" or "cpu"; if None, "cuda" if CUDA is in use, else "cpu".
    Raises HastenError for another device, and if torch's profiler is already recording.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_initialized() else "cpu"))
    gc.collect()
    if place.type == "cuda":
        torch.cuda.synchronize(place)
        torch.cuda.reset_peak_memory_stats(place)
        before = torch.cuda.memory_allocated(place)
        run()
        torch.cuda.synchronize(place)
        return torch.cuda.max_memory_allocated(place) - before
    if place.type != "cpu":
        raise HastenError(f"device: peak memory can be measured on 'cpu' and 'cuda', not on {place.type!r}")
    return max(accumulate(_cpu_allocations(run)), default=0)


def weight_bytes(model: Any) -> int:
    """Bytes that the parameters and buffers of a module, or of all modules of a pipeline, occupy.

    What tensors share counts once, and of a view what it shows; low-bit tensors count with their packed data and
    scales.

    model: a torch module or a diffusers pipeline.
    Raises HastenError for anything else.
    """
    parts = [model] if isinstance(model, nn.Module) else list(getattr(model, "components", {}).values())
    modules = [part for part in parts if isinstance(part, nn.Module)]
    if not modules:
        raise HastenError(f"model: {type(model).__name__} is neither a torch module nor a pipeline with modules")
    pieces: dict[int, list[NDArray[np.int64]]] = {}
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            for plain in plain_tensors(tensor):
                pieces.setdefault(plain.untyped_storage()._cdata, []).append(_pieces(plain))
    return sum(_covered(np.concatenate(parts)) for parts in pieces.values())


def _pieces(tensor: Tensor) -> NDArray[np.int64]:
    """The runs of bytes (N, 2: begin and end) of its storage that a tensor shows."""
    if not tensor.numel():
        return np.zeros((0, 2), dtype=np.int64)
    dims = sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape) if size > 1 and stride)
    length, begins = 1, np.array([tensor.storage_offset()], dtype=np.int64)
    for stride, size in dims:
        if stride == length and len(begins) == 1:
            length *= size
        else:
            begins = (begins[:, None] + stride * np.arange(size)).reshape(-1)
    return np.stack([begins, begins + length], 1) * tensor.element_size()


def _covered(pieces: NDArray[np.int64]) -> int:
    """How many bytes lie in at least one of the runs (N, 2)."""
    if not len(pieces):
        return 0
    begins, ends = pieces[np.argsort(pieces[:, 0], kind="stable")].T
    reached = np.maximum.accumulate(np.concatenate([[begins[0]], ends[:-1]]))
    return int(np.maximum(ends - np.maximum(begins, reached), 0).sum())


def _cpu_allocations(run: Job) -> list[int]:
    """Bytes taken (positive) and given back (negative) by the CPU allocator during a run, in order."""
    from torch.autograd import DeviceType
    from torch.autograd.profiler import profile

    if torch.autograd._profiler_enabled():
        raise HastenError("peak_memory needs torch's profiler, which is already recording")
    level = os.environ.get("KINETO_LOG_LEVEL")
    os.environ["KINETO_LOG_LEVEL"] = level or "99"  # the profiler would announce itself on stderr
    try:
        recorded: Any = profile(profile_memory=True)
        with recorded:
            run()
    finally:
        if level is None:
            del os.environ["KINETO_LOG_LEVEL"]
    events = [e for e in recorded.kineto_results.events() if e.name() == "[memory]"]
    return [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()) if e.device_type() == DeviceType.CPU]


def plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """The ordinary tensors inside a tensor subclass, or the tensor itself."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()  # pyright: ignore
        for name in names:
            yield from plain_tensors(getattr(tensor, name))
    else:
        yield tensor


@contextmanager
def _part_by_part() -> Iterator[None]:
    """Run the attentions and encoder layers of `torch.nn` without their fused kernels."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _flops_torch_leaves_out() -> dict[Any, Callable[..., int]]:
    """Attention on the CPU and 8-bit products, which torch's own counter takes for nothing."""
    from torch.utils.flop_counter import mm_flop, sdpa_flop_count

    aten = torch.ops.aten

    def attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)

    def product(a: Any, b: Any, *_: Any, **__: Any) -> int:
        return mm_flop(a, b)

    return {aten._scaled_dot_product_flash_attention_for_cpu: attention, aten._int_mm: product}
