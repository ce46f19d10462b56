"""What a run costs: network evaluations, multiply-adds, seconds as a ratio, memory, bytes of weights."""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, overload

import torch
from torch import Tensor, nn

from hasten.core.console import tracked
from hasten.core.errors import HastenError, positive_int
from hasten.core.estimates import Estimate, bootstrap

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
    Compiled parts run uncompiled meanwhile, because the counter cannot look inside kernels; kernels from
    outside torch that it does not know count as nothing too.

    run: what is to be counted.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False, custom_mapping=_flops_torch_leaves_out())
    with torch.compiler.set_stance("force_eager"), counter:
        run()
    return counter.get_total_flops() // 2


@overload
def timed_ratio(
    default: Job,
    others: Job,
    *,
    repeats: int = ...,
    warmup: int = ...,
    seed: int = ...,
    progress: bool = ...,
    clock: Callable[[], float] = ...,
) -> Estimate: ...
@overload
def timed_ratio(
    default: Job,
    others: Mapping[str, Job],
    *,
    repeats: int = ...,
    warmup: int = ...,
    seed: int = ...,
    progress: bool = ...,
    clock: Callable[[], float] = ...,
) -> dict[str, Estimate]: ...
def timed_ratio(
    default: Job,
    others: Job | Mapping[str, Job],
    *,
    repeats: int = 10,
    warmup: int = 1,
    seed: int = 0,
    progress: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> Estimate | dict[str, Estimate]:
    """Speed-up over the default: its time over the other's, median of rounds with a bootstrap interval.

    Every round times each run once, so that a slow minute of the machine hits all of them; the order is
    random in even rounds and the reverse of it in odd ones, so that what a predecessor leaves behind (caches,
    heat) cancels. Accelerators are waited for; garbage is collected between rounds, not within.

    default: the run that the others are compared with.
    others: one run, or several by name.
    repeats: rounds, at least 1.
    warmup: how often each runs before anything is timed.
    seed: of the orders and the bootstrap.
    progress: whether to show a bar.
    clock: a function to seconds; time.process_time on a CPU with one thread is blind to what other processes do.
    Returns the speed-up, 2 meaning twice as fast, or one for each name.
    """
    runs = {"": others} if callable(others) else dict(others)
    rounds = positive_int("repeats", repeats)
    for run in (default, *runs.values()):
        for _ in range(warmup):
            run()
    names: list[str | None] = [None, *runs]
    shuffle = random.Random(seed).shuffle
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    numbers = range(rounds)
    for number in tracked(numbers, "timing") if progress else numbers:
        if number % 2:
            names.reverse()
        else:
            shuffle(names)
        gc.collect()
        seconds = {name: _seconds(default if name is None else runs[name], clock) for name in names}
        for name in runs:
            ratios[name].append(seconds[None] / seconds[name])
    gains = {name: bootstrap(x, seed=seed).named(f"speed-up {name}".rstrip(), "x") for name, x in ratios.items()}
    return gains[""] if callable(others) else gains


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

    Shared storage counts once; low-bit tensors count with their packed data and scales.

    model: a torch module or a diffusers pipeline.
    Raises HastenError for anything else.
    """
    parts = [model] if isinstance(model, nn.Module) else list(getattr(model, "components", {}).values())
    modules = [part for part in parts if isinstance(part, nn.Module)]
    if not modules:
        raise HastenError(f"model: {type(model).__name__} is neither a torch module nor a pipeline with modules")
    storages = {}
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            for plain in _plain_tensors(tensor):
                storage = plain.untyped_storage()
                storages[storage._cdata] = storage.nbytes()
    return sum(storages.values())


def _seconds(run: Job, clock: Callable[[], float]) -> float:
    enabled = gc.isenabled()
    gc.disable()
    try:
        wait()
        start = time.perf_counter()
        run()
        wait()
        return time.perf_counter() - start
    finally:
        if enabled:
            gc.enable()


def wait() -> None:
    """Return when accelerators have done what they were told."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()


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


def _plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """The ordinary tensors inside a tensor subclass, or the tensor itself."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()  # pyright: ignore
        for name in names:
            yield from _plain_tensors(getattr(tensor, name))
    else:
        yield tensor


def _flops_torch_leaves_out() -> dict[Any, Callable[..., int]]:
    """Attention on the CPU and 8-bit products, which torch's own counter takes for nothing."""
    from torch.utils.flop_counter import mm_flop, sdpa_flop_count

    aten = torch.ops.aten

    def attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)

    def product(a: Any, b: Any, *_: Any, **__: Any) -> int:
        return mm_flop(a, b)

    return {aten._scaled_dot_product_flash_attention_for_cpu: attention, aten._int_mm: product}
