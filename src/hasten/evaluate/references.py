"""What runs are measured against: the default's own images, and the converged ones of the same noise."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hasten.core.errors import HastenError
from hasten.core.files import save_tensors
from hasten.evaluate.identity import fingerprint
from hasten.evaluate.problem import Pictures, Problem, Ticks
from hasten.evaluate.samples import Samples
from hasten.grids import settling
from hasten.processes import from_config
from hasten.recipe import Recipe
from hasten.solvers import UniPC

TOLERANCE = 1e-3  # RMSE of an image in [0, 1]
REFERENCES_FILE = "references.safetensors"
FIRST, LAST = 32, 512  # steps, doubled from the first to the last


@dataclass(frozen=True)
class Convergence:
    """How far the references of some samples have converged.

    steps: with which each was solved.
    changes: RMSE between its image and the one at half the steps.
    """

    steps: tuple[int, ...]
    changes: tuple[float, ...]

    @property
    def unsettled(self) -> int:
        """How many samples still changed by more than the tolerance."""
        return sum(change >= TOLERANCE for change in self.changes)


class References:
    """Images of a problem's samples by the default, and the converged ones (the reference); drawn when asked for.

    problem: whose.
    file: a safetensors file to keep them in, and to read them from if it exists; None keeps them in memory.

    `seconds` tells how long "default" and "reference" took to draw here, for the first split of each.
    Raises HastenError for a file that was made of another model or other samples.
    """

    def __init__(self, problem: Problem, file: Path | None = None) -> None:
        self.problem, self.file = problem, file
        self.seconds: dict[str, float] = {}
        self._pictures: dict[tuple[str, str], Pictures] = {}
        self._convergence: dict[str, Convergence] = {}
        if file is not None and file.exists():
            self._load(file)

    def default(self, split: str, ticks: Ticks = lambda count: None) -> Pictures:
        """The samples of a split by the pipeline as shipped."""
        if ("default", split) not in self._pictures:
            with self._timed("default"):
                self._pictures["default", split] = self.problem.draw(None, self.problem.samples[split], ticks)
            self._save()
        return self._pictures["default", split]

    def reference(self, split: str, ticks: Ticks = lambda count: None) -> Pictures:
        """The samples of a split, converged: with so many steps that more of them change nothing."""
        if ("reference", split) not in self._pictures:
            with self._timed("reference"):
                solved = converge(self.problem, self.problem.samples[split], ticks)
            self._pictures["reference", split], self._convergence[split] = solved
            self._save()
        return self._pictures["reference", split]

    @property
    def convergence(self) -> Convergence:
        """That of every reference drawn so far."""
        splits = list(self._convergence.values())
        return Convergence(tuple(n for c in splits for n in c.steps), tuple(x for c in splits for x in c.changes))

    @property
    def folder(self) -> Path | None:
        """The folder of the file, where other work on the same problem is kept too; None without a file."""
        return None if self.file is None else self.file.parent

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self.seconds.setdefault(what, time.monotonic() - begin)

    def _save(self) -> None:
        if self.file is None:
            return
        tensors = {}
        for (what, split), made in self._pictures.items():
            tensors |= {f"{what}.{split}.images": made.images, f"{what}.{split}.latents": made.latents}
        convergence = {split: asdict(one) for split, one in self._convergence.items()}
        metadata = {"made of": fingerprint(self.problem), "convergence": json.dumps(convergence)}
        save_tensors(self.file, tensors, metadata)

    def _load(self, file: Path) -> None:
        with _opened(file) as kept:
            metadata = kept.metadata() or {}
            if metadata.get("made of") != fingerprint(self.problem):
                raise HastenError(
                    f"out: {file.parent} holds work on another model, other prompts, another call, device, seed or "
                    "version; repeat the settings it was made with or name another folder"
                )
            for split, one in json.loads(metadata["convergence"]).items():
                self._convergence[split] = Convergence(tuple(one["steps"]), tuple(one["changes"]))
            for name in {key.rsplit(".", 1)[0] for key in kept.keys()}:  # noqa: SIM118 (not a mapping)
                what, split = name.split(".")
                images, latents = (kept.get_tensor(f"{name}.{part}") for part in ("images", "latents"))
                self._pictures[what, split] = Pictures(images, latents)


def converge(problem: Problem, samples: Samples, ticks: Ticks = lambda count: None) -> tuple[Pictures, Convergence]:
    """Solve each sample with FIRST steps, and double them until its image changes by less than TOLERANCE.

    Samples that still change at LAST steps are taken as they are there.

    problem: whose pipeline solves them.
    samples: to solve.
    ticks: called as samples settle.

    Raises HastenError if the model gives values that are not finite.
    """
    made = problem.draw(reference_recipe(problem, FIRST), samples)
    steps, changes = [FIRST] * len(samples), [float("inf")] * len(samples)
    left = list(range(len(samples)))
    count = FIRST
    while left and 2 * count <= LAST:
        count *= 2
        finer = problem.draw(reference_recipe(problem, count), samples.pick(left))
        moved = (finer.images - made.images[left]).flatten(1).square().mean(1).sqrt().tolist()
        if not np.isfinite(moved).all():
            raise HastenError("model: the reference diverged to values that are not finite; is the model sound?")
        made.images[left], made.latents[left] = finer.images, finer.latents
        for i, change in zip(left, moved):
            steps[i], changes[i] = count, change
        settled = len(left)
        left = [i for i in left if changes[i] >= TOLERANCE]
        ticks(settled - len(left))
    ticks(len(left))
    return made, Convergence(tuple(steps), tuple(changes))


def reference_recipe(problem: Problem, steps: int) -> Recipe:
    """How references are solved: of the solvers we compared, by the one whose images settle with the fewest steps."""
    process = from_config(problem.pipe.scheduler.config)
    return Recipe(solver=UniPC(order=2), steps=steps, grid=settling(process))


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as kept:
            yield kept
    except SafetensorError as error:
        raise HastenError(f"out: {file} cannot be read ({error}); delete it or name another folder") from None
