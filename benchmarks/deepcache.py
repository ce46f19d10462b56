"""How much of the multiply-adds that DeepCache saves become time: measured speed-up / speed-up by MACs.

    python benchmarks/deepcache.py [--model emoji-sd] [--images 4] [--out benchmarks/results/deepcache.json]

Whole runs of the pipeline, from prompt embeddings to latents, with and without the cache, take turns in one
process. Without the zoo's model a U-Net of the same shape with random weights stands in: speed does not depend
on the weights. --profile prints where the time of a cached step goes instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from report import save

import hasten
from hasten.caches import DeepCache
from hasten.core.errors import HastenError
from hasten.measure import macs, timed_ratio

TOKENS = 24


def stand_in() -> Any:
    """A pipeline with a random U-Net of the shape of emoji-sd's."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=16, layers_per_block=1, block_out_channels=(64, 128, 160), cross_attention_dim=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, skip_prk_steps=True
    )
    return StableDiffusionPipeline(
        vae=None, text_encoder=None, tokenizer=None, unet=unet.eval(), scheduler=scheduler, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def pipeline(model: str) -> tuple[str, Any]:
    try:
        name, pipe = model, hasten.load(model)
    except HastenError as error:
        print(f"{error}; a random U-Net of the same shape stands in")
        name, pipe = "random U-Net of the shape of emoji-sd's", stand_in()
    pipe.set_progress_bar_config(disable=True)
    return name, pipe


def prompt_embeddings(pipe: Any, images: int) -> tuple[torch.Tensor, torch.Tensor]:
    if pipe.text_encoder is None:
        shape = (images, TOKENS, pipe.unet.config.cross_attention_dim)
        return torch.randn(shape), torch.zeros(shape)
    with torch.no_grad():
        return pipe.encode_prompt(["red apple"] * images, pipe.device, 1, True, [""] * images)[:2]


def runner(pipe: Any, images: int, steps: int) -> Callable[[], Any]:
    positive, negative = prompt_embeddings(pipe, images)

    def run() -> Any:
        return pipe(
            prompt_embeds=positive, negative_prompt_embeds=negative, num_inference_steps=steps,
            generator=torch.Generator().manual_seed(0), output_type="latent",
        )  # fmt: skip

    return run


def accelerated(pipe: Any, cache: DeepCache, run: Callable[[], Any]) -> Callable[[], Any]:
    """The run with the cache on; applying it is part of the run, because it takes turns with the plain one."""

    def with_cache() -> Any:
        with cache.applied(pipe):
            return run()

    return with_cache


def label(cache: DeepCache) -> str:
    return f"interval {cache.interval} branch {cache.branch}"


def measure(pipe: Any, run: Callable[[], Any], branches: list[int], rounds: int) -> list[dict[str, Any]]:
    caches = [DeepCache(interval=interval, branch=branch) for branch in branches for interval in (2, 3, 5)]
    runs = {label(cache): accelerated(pipe, cache, run) for cache in caches}
    full = macs(run)
    ratios = timed_ratio(run, runs, repeats=rounds, progress=True)
    table = []
    for cache in caches:
        saved = full / macs(runs[label(cache)])
        speed = ratios[label(cache)]
        table.append({
            "interval": cache.interval, "branch": cache.branch, "macs": saved, "speed": speed.to_json(),
            "efficiency": speed.value / saved,
        })  # fmt: skip
        print(f"{speed:.2f} of {saved:.2f} by MACs = {speed.value / saved:.2f}")
    return table


def profile(pipe: Any, run: Callable[[], Any]) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with ExitStack() as stack:
        stack.enter_context(DeepCache(interval=1000).applied(pipe))
        recorded = stack.enter_context(record(activities=[ProfilerActivity.CPU]))
        run()
    print(recorded.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    whole = partial(parser.add_argument, type=int)
    parser.add_argument("--model", default="emoji-sd")
    whole("--images", default=4)
    whole("--steps", default=30)
    whole("--rounds", default=10)
    whole("--threads", default=1)
    whole("--branches", nargs="+", default=[0, 2])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "deepcache.json")
    given = parser.parse_args()

    torch.set_num_threads(given.threads)
    name, pipe = pipeline(given.model)
    run = runner(pipe, given.images, given.steps)
    if given.profile:
        profile(pipe, run)
        return
    table = measure(pipe, run, given.branches, given.rounds)
    result = {
        "model": name, "images": given.images, "steps": given.steps, "threads": given.threads, "results": table,
        "scheduler": type(pipe.scheduler).__name__,
    }  # fmt: skip
    save(result, given.out)


if __name__ == "__main__":
    main()
