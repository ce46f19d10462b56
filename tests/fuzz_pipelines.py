"""Random recipes and call arguments on random pipeline classes of diffusers, each against the plain pipeline.

    python tests/fuzz_pipelines.py [--cases 2000] [--first 0] [--workers 2]

A case is drawn from its number alone. Half of the recipes have to change nothing (the solver that the shipped
scheduler is, and methods at the settings that switch them off), and are compared with what the plain pipeline makes of
the same call; the others have to run. Outcomes are those of `every_pipeline`; a fault is printed as it can be repeated.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import diffusers
import every_pipeline
import torch
from every.case import Case, NotHere, works
from every.checks import _guided_less, _halved, _interrupted, method_dict
from torch import Tensor

from hasten.recipe import FAMILIES

SOLVERS = ["euler", "dpm++", "unipc", "heun", "ddim", "deis", "pndm", "euler-ancestral", "ipndm", "edm"]
GRIDS = [None, None, None, "karras", "trailing", "linspace", "exponential"]
OPTIONS = {  # arguments of calls that pipelines may have, and values to try
    "guidance_scale": [1.0, 1.5, 4.0, 7.5],
    "true_cfg_scale": [1.0, 3.0],
    "guidance_rescale": [0.0, 0.7],
    "eta": [0.0, 0.5, 1.0],
    "num_images_per_prompt": [1, 2],
    "num_videos_per_prompt": [1, 2],
    "num_waveforms_per_prompt": [1, 2],
    "strength": [0.05, 0.3, 0.6, 1.0],
    "denoising_end": [0.5, 0.8],
    "clip_skip": [1],
    "image_guidance_scale": [1.0, 1.5],
    "controlnet_conditioning_scale": [0.0, 0.5],
    "output_type": ["latent", "pt"],
}


def added(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"latents": tensors["latents"] + 0.2} if step == 1 else {}


CALLBACKS = [None, None, None, _halved, _guided_less, _interrupted, added]


def drawn(number: int) -> tuple[str, dict[str, Any], dict[str, Any], bool, int | None]:
    """Pipeline class, recipe, call arguments, whether it is to be exact, and the number of steps."""
    draw = random.Random(f"hasten {number}")
    name, exact = draw.choice(every_pipeline.built()), draw.random() < 0.5
    recipe: dict[str, Any] = {} if draw.random() < 0.2 else {"solver": "own" if exact else draw.choice(SOLVERS)}
    if not exact and recipe:
        recipe["grid"] = draw.choice(GRIDS)
    for field in ("guidance", "caches", "quantize", "compile"):
        methods = [m for m in FAMILIES[field] if m.name not in ("torch-compile", "cache-dit") and (not exact or m.off)]
        if methods and draw.random() < 0.35:
            method = draw.choice(methods)
            part = {"name": method.name, **(method.off if exact else method_dict(method))}
            recipe[field] = [part] if field == "caches" else part
    call = {key: draw.choice(values) for key, values in OPTIONS.items() if draw.random() < 0.3}
    call |= {"callback_on_step_end": draw.choice(CALLBACKS)}
    return name, recipe, call, exact, draw.choice([1, 2, 3, 4, 7])


def check(case: Case, recipe: dict[str, Any], call: dict[str, Any], exact: bool, steps: int | None) -> str:
    """What comes of one case."""
    more = {key: value for key, value in call.items() if case.takes(key) and value is not None}
    if recipe.get("solver") == "own":
        recipe = recipe | {"solver": case.own()}
    if call["callback_on_step_end"] is _guided_less and not hasattr(case.pipe, "_guidance_scale"):
        more.pop("callback_on_step_end", None)
    if exact:
        plain = "solver" not in recipe  # then the scheduler is the pipeline's own, which may end elsewhere than on data
        return case.same(recipe, steps=steps, more=more, shipped=plain)
    try:
        like = every_pipeline.every.call(case.pipe, case.arguments, steps=steps, more=more)
    except Exception as error:
        raise NotHere(f"the pipeline itself raises {type(error).__name__}") from None
    if not like.numel():
        raise NotHere("the pipeline itself makes nothing")
    return works(case.accelerated(recipe, steps=steps, more=more), like)


def outcome(number: int) -> tuple[int, str]:
    """What comes of the case of a number."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    name, recipe, call, exact, steps = drawn(number)
    case = Case(name)
    said = every_pipeline.outcome_of(case, lambda one: check(one, recipe, call, exact, steps))
    if said.startswith("fault: differs") and exact:
        alike = ("own solver", "callback", "interrupt", "strength 0.5", *call)
        said = next((f"differs: {why}" for check in alike if (why := every_pipeline.known(name, check))), said)
    return number, said


def outcomes(numbers: range, workers: int) -> Iterator[tuple[int, str]]:
    """What comes of many cases, as they come."""
    if workers == 1:
        yield from map(outcome, numbers)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(outcome, numbers, chunksize=4)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    began, counted = time.time(), Counter[str]()
    for number, said in outcomes(range(asked.first, asked.first + asked.cases), asked.workers):
        counted[said.split(":")[0]] += 1
        if said.startswith("fault"):
            name, recipe, call, exact, steps = drawn(number)
            given = {key: getattr(value, "__name__", value) for key, value in call.items() if value is not None}
            print(f"{number} {name} {recipe} {given} steps={steps} exact={exact}\n    {said}", flush=True)
        if sum(counted.values()) % 100 == 0:
            print(f"{sum(counted.values())} in {time.time() - began:.0f} s: {dict(counted)}", flush=True)
    print(dict(counted))
    sys.exit(min(99, counted["fault"]))


if __name__ == "__main__":
    main()
