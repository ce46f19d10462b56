"""A peer in its own Python: a script that loads a pipeline, draws by settings and times them beside the default.

It speaks JSON, a line a message: a request on stdin ({"do": "draw", ...}), its answer on stdout ({"ok": true, ...}
or {"ok": false, "error": ...}); whatever libraries print goes to stderr. It imports torch, diffusers, safetensors
and the peer, and nothing of hasten. A setting is {"scheduler": [class, changes] or null, "steps": int or null,
"method": {"name": ..., ...} or null}; null in its place is the default.
"""

from __future__ import annotations

import copy
import gc
import importlib
import importlib.metadata
import json
import os
import sys
import time
import warnings
from typing import Any

SKRAMPLE = "skrample"  # in place of the name of a diffusers scheduler class


def scheduler_of(scheduler: Any, spec: Any) -> Any:
    """A new scheduler, made from the pipeline's own as users do.

    scheduler: the pipeline's own.
    spec: the name of a scheduler class and what is changed of its config; None makes a copy of the pipeline's own.
    """
    if spec is None:
        return copy.deepcopy(scheduler)
    name, changes = spec
    if name == SKRAMPLE:
        return _skrample(scheduler, **changes)
    import diffusers

    config = {**scheduler.config, **changes}
    usual = config.get("_use_default_values", ())  # what diffusers fills in anew for another class
    return getattr(diffusers, name).from_config(
        {**config, "_use_default_values": [key for key in usual if key not in changes]}
    )


def _skrample(scheduler: Any, sampler: str, order: int = 0, schedule: str = "", shift: float = 0.0) -> Any:
    from skrample import scheduling
    from skrample.diffusers import SkrampleWrapperScheduler
    from skrample.sampling import structured

    chosen: dict[str, Any] = {"sampler": getattr(structured, sampler)}
    if order:
        chosen["sampler_props"] = {"order": order}
    if schedule:
        chosen["subschedule"] = getattr(scheduling, schedule)
    if shift:
        chosen |= {"schedule_modifiers": [(scheduling.FlowShift, {"shift": shift})], "allow_dynamic": False}
    return SkrampleWrapperScheduler.from_diffusers_config(scheduler, **chosen)


def deepcached(pipe: Any, interval: int, branch: int) -> Any:
    """The pipeline, with its network patched by the package DeepCache.

    pipe: a diffusers pipeline with a U-Net.
    interval: steps from one full call to the next, at least 1.
    branch: how many blocks still run in between, from 0.
    """
    from DeepCache import DeepCacheSDHelper

    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=interval, cache_branch_id=branch)
    helper.enable()
    return pipe


def _pruna(pipe: Any, algorithms: dict[str, Any]) -> Any:
    from pruna import SmashConfig, smash

    config = SmashConfig(device=pipe.device.type)
    config.add(algorithms)
    return smash(model=pipe, smash_config=config)


METHODS = {"deepcache": deepcached, "pruna": _pruna}


class Worker:
    """Answers requests, each by the method that it names."""

    method: Any = None  # what is on the network of `made`
    made: Any = None  # the pipeline of the latest method
    own: Any = None  # its own scheduler

    def hello(self, package: str) -> dict[str, Any]:
        """Import the peer, and tell the versions of what it runs with."""
        importlib.import_module(package)
        names = ("torch", "diffusers", "safetensors", package)
        versions = {name: importlib.metadata.version(name) for name in reversed(names)}
        return {"versions": {"python": sys.version.split()[0], **versions}}

    def load(
        self, folder: str, dtype: str, device: str, threads: int, call: dict[str, Any], steps: int
    ) -> dict[str, Any]:
        """Load the pipeline.

        folder: as written by save_pretrained.
        dtype, device: of the pipeline.
        threads: that torch uses.
        call: what every call gets.
        steps: of the default.
        """
        import torch

        torch.set_num_threads(threads)
        self.folder, self.dtype, self.device = folder, getattr(torch, dtype), device
        self.call = {"num_inference_steps": steps, **call}
        self.default = self._fresh()
        self.own = self.default.scheduler
        return {}

    def draw(
        self, setting: dict[str, Any] | None, prompts: list[str], seeds: list[int], batch: int, file: str
    ) -> dict[str, Any]:
        """Write images (N, C, H, W) in [0, 1] and final latents to a safetensors file.

        setting: how they are drawn; None is the default.
        prompts, seeds: of the images.
        batch: how many run at once.
        file: that is written.
        """
        import torch
        from safetensors.torch import save_file

        run = self._run(setting)
        parts = [run(prompts[i : i + batch], seeds[i : i + batch]) for i in range(0, len(prompts), batch)]
        images, latents = (torch.cat(side).float().cpu().contiguous() for side in zip(*parts))
        save_file({"images": images, "latents": latents}, file)
        return {}

    def time(
        self, setting: dict[str, Any], prompts: list[str], seeds: list[int], rounds: int, steps: int
    ) -> dict[str, Any]:
        """Seconds of the default and of a setting, in turn, after a run of each.

        setting: that is timed.
        prompts, seeds: of one image.
        rounds: how many pairs of seconds.
        steps: of the default.
        """
        default, run = self._run(None, steps), self._run(setting)
        seconds: list[list[float]] = []
        for number in range(-1, rounds):
            gc.collect()
            pair = [0.0, 0.0]
            for which in (0, 1) if number % 2 else (1, 0):
                begin = time.perf_counter()
                (default, run)[which](prompts, seeds)
                self._wait()
                pair[which] = time.perf_counter() - begin
            seconds.append(pair)
        return {"seconds": seconds[1:]}

    def cost(self, setting: dict[str, Any], prompts: list[str], seeds: list[int]) -> dict[str, Any]:
        """Network calls and multiply-adds of a run; the parameters are those of `time`."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

        pipe, call = self._prepared(setting)
        inner, calls = getattr(pipe, "model", pipe), 0

        def count(*_: Any) -> None:
            nonlocal calls
            calls += 1

        network = getattr(inner, "unet", None) or inner.transformer
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # torch's counter leaves it out
        kinds = {attention: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
        counter = FlopCounterMode(display=False, custom_mapping=kinds)
        handle = network.register_forward_pre_hook(count)
        try:
            with torch.compiler.set_stance("force_eager"), counter:
                _call(pipe, call, prompts, seeds)
        finally:
            handle.remove()
        return {"calls": calls, "macs": counter.get_total_flops() // 2}

    def _run(self, setting: dict[str, Any] | None, steps: int | None = None) -> Any:
        pipe, call = self._prepared(setting)
        chosen = call if steps is None else {**call, "num_inference_steps": steps}
        return lambda prompts, seeds: _call(pipe, chosen, prompts, seeds)

    def _prepared(self, setting: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
        """A pipeline that runs by a setting, and its call. Only the default's and the latest method's are kept."""
        if setting is None:
            return self.default, self.call
        method = setting["method"] or {}
        if method != self.method:
            self.method = self.made = None  # frees the memory of the one before
            pipe = self._fresh()
            self.own = pipe.scheduler
            fields = {key: value for key, value in method.items() if key != "name"}
            self.made = METHODS[method["name"]](pipe, **fields) if method else pipe
            self.method = method
        getattr(self.made, "model", self.made).scheduler = scheduler_of(self.own, setting["scheduler"])
        steps = {} if setting["steps"] is None else {"num_inference_steps": setting["steps"]}
        return self.made, {**self.call, **steps}

    def _fresh(self) -> Any:
        from diffusers import DiffusionPipeline

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pipe = DiffusionPipeline.from_pretrained(self.folder, torch_dtype=self.dtype).to(self.device)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _wait(self) -> None:
        import torch

        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


def _call(pipe: Any, call: dict[str, Any], prompts: list[str], seeds: list[int]) -> tuple[Any, Any]:
    """Images and final latents. Seeds are an image's each, on the CPU, as hasten's."""
    import torch

    last: dict[str, Any] = {}

    def keep(_pipe: Any, _step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        last.update(tensors)
        return {}

    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    made = pipe(prompt=list(prompts), generator=generators, output_type="pt", callback_on_step_end=keep, **call)
    return made.images, last["latents"]


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print as they like
    sys.stdout = sys.stderr
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": True, **getattr(worker, request.pop("do"))(**request)}
        except Exception as error:
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose names are no modules for others
    main()
