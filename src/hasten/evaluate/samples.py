"""Which prompts and seeds are drawn: one set to search with, another to confirm with."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hasten import zoo
from hasten.core.errors import HastenError, positive_int, unknown
from hasten.runtime.samples import Samples

SPLITS = ("search", "confirm")
SPAN = 100_000  # seeds kept apart for each split of each tuning seed
FIT_SEEDS = 2**60  # above the seeds of every tuning

Prompts = Sequence[str] | Mapping[str, Sequence[str]]


def choose(prompts: Prompts, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Samples]:
    """Samples of each split; no prompt and no seed is in two of them.

    prompts: a list, which is shuffled by the seed and divided; or a list for each split, which share no prompt.
    sizes: split -> how many samples; where there are fewer prompts, they are used again with other seeds.
    seed: whole number from 0 to 2^40; another one gives other seeds and another division.

    Raises HastenError for too few or shared prompts, and for sizes or seeds that are not possible.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**40:
        raise HastenError(f"seed: {seed!r} is not possible; give a whole number from 0 to 2^40")
    for split, size in sizes.items():
        positive_int(f"samples.{split}", size)
        if size >= SPAN:
            raise HastenError(f"samples.{split}: {size} is too many; give fewer than {SPAN}")
    divided = _by_split(prompts, sizes, seed) if isinstance(prompts, Mapping) else _divided(prompts, sizes, seed)
    first = {split: (seed * len(SPLITS) + SPLITS.index(split)) * SPAN for split in sizes}
    return {
        split: Samples(
            tuple(divided[split][i % len(divided[split])] for i in range(size)),
            tuple(first[split] + i for i in range(size)),
        )
        for split, size in sizes.items()
    }


def to_fit(search: Samples, count: int) -> Samples:
    """Samples to fit solvers on: the prompts that are searched with, with seeds that nothing else has.

    search: the samples of the search.
    count: how many to make, at least 1.
    """
    prompts = tuple(search.prompts[i % len(search)] for i in range(count))
    return Samples(prompts, tuple(FIT_SEEDS + search.seeds[0] + i for i in range(count)))


def _divided(prompts: Sequence[str], sizes: Mapping[str, int], seed: int) -> dict[str, list[str]]:
    rest = _clean(prompts)
    if len(rest) < len(sizes):
        raise HastenError(
            f"prompts: {len(rest)} different prompts are too few; give at least {len(sizes)}, "
            "so that what is tuned on some can be confirmed on others"
        )
    random.Random(seed).shuffle(rest)
    left, divided = sum(sizes.values()), {}
    for number, (split, size) in enumerate(sizes.items(), 1):
        others = len(sizes) - number
        take = min(max(1, round(len(rest) * size / left)), len(rest) - others)
        divided[split], rest = rest[:take], rest[take:]
        left -= size
    return divided


def _by_split(prompts: Mapping[str, Sequence[str]], sizes: Mapping[str, int], seed: int) -> dict[str, list[str]]:
    for split in prompts:
        if split not in SPLITS:
            raise unknown("prompts", split, SPLITS)
    divided = {split: _clean(prompts.get(split, ())) for split in sizes}
    for split, given in divided.items():
        if not given:
            raise HastenError(f"prompts: there are none to {split} with; give at least one")
        random.Random(seed).shuffle(given)
    shared = sorted(set.intersection(*map(set, divided.values()))) if len(divided) > 1 else []
    if shared:
        raise HastenError(f"prompts: {shared[0]!r} is there both to search and to confirm with; leave it out of one")
    return divided


def _clean(prompts: Sequence[str]) -> list[str]:
    """Every prompt once, without the blanks around it."""
    if isinstance(prompts, str) or not all(isinstance(prompt, str) for prompt in prompts):
        raise HastenError(f"prompts: {prompts!r} is not a list of texts")
    return list(dict.fromkeys(prompt.strip() for prompt in prompts if prompt.strip()))


def read_prompts(file: str | Path) -> list[str]:
    """The prompts in a text file.

    file: UTF-8 text with one prompt a line; empty lines and lines that start with # are left out.

    Raises HastenError for a file that cannot be read or holds none.
    """
    path = Path(file)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HastenError(f"prompts: cannot read {path}: {_reason(error)}") from None
    prompts = _clean([line for line in lines if not line.lstrip().startswith("#")])
    if not prompts:
        raise HastenError(f"prompts: {path} holds none; write one a line")
    return prompts


def known_prompts(pipe: Any) -> Prompts:
    """Prompts that suit a pipeline: the captions of a zoo model, everyday ones for any other."""
    name = zoo_name(pipe)
    if name is None:
        return read_prompts(Path(__file__).parent / "prompts.txt")
    return {split: zoo.captions(name, split) for split in SPLITS}


def zoo_name(pipe: Any) -> str | None:
    """Which model of the zoo a pipeline was loaded from; None if it is not from the zoo."""
    path = Path(str(getattr(pipe, "name_or_path", None) or "."))
    return next((name for name in zoo.names() if zoo.folder(name).resolve() == path.resolve()), None)


def loadable(pipe: Any) -> str:
    """What `hasten.load` takes to load a pipeline again. Raises HastenError if it was not loaded from anywhere."""
    path = str(getattr(pipe, "name_or_path", None) or "")
    if not path:
        raise HastenError(
            "workers: this pipeline was not loaded from a name or a folder, so that others cannot load it"
        )
    return zoo_name(pipe) or path


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "it is not UTF-8 text"
