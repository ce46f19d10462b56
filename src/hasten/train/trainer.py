"""The training loop: deterministic order, moving average, exact resume, pictures while it runs."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from hasten.core.errors import HastenError
from hasten.train.checkpoints import load_checkpoint, read_facts, save_checkpoint
from hasten.train.objectives import Objective
from hasten.train.pictures import draw_curve

Sampler = Callable[[Any], Any]
"""Draws a PIL image from the averaged objective; saved beside the loss curve while training runs."""


@dataclass
class Trainer:
    """Trains an Objective on a mapping of equally long tensors, in one process or under `accelerate launch`.

    Every random number of a step (order, noise, times, dropped captions) is drawn from (seed, step, process), so a run
    that was killed and resumed ends with the weights of one that was not. SIGINT and SIGTERM stop after the current
    step with a checkpoint written.

    objective: what is trained.
    data: the tensors, by the names that the objective reads, each (samples, ...).
    folder: for the checkpoint, the log and pictures.
    steps: of training, at least 1; a run that is resumed may have others, which moves the end.
    batch: samples a step, over all processes, at least 1.
    lr: the highest learning rate, above 0.
    warmup: how many first steps the learning rate rises over.
    decay: the last share of the steps, over which it falls linearly to 0.
    average: decay of the moving average of the weights a step, at least 0 and below 1.
    weight_decay: of AdamW.
    clip: the largest norm of the gradient; 0 is no limit.
    seed: of every random number.
    bf16: compute in bfloat16 where autocast does.
    save_every: steps between checkpoints.
    draw_every: steps between pictures.
    draw: the averaged objective -> a PIL picture of samples; None draws the loss alone.
    quiet: no progress bar.
    step: an attribute; how many steps are done.
    """

    objective: Objective
    data: Mapping[str, Tensor]
    folder: Path
    steps: int
    batch: int = 64
    lr: float = 5e-4
    warmup: int = 100
    decay: float = 0.2
    average: float = 0.999
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    bf16: bool = False
    save_every: int = 500
    draw_every: int = 1000
    draw: Sampler | None = None
    quiet: bool = False
    step: int = field(default=0, init=False)
    main: bool = field(default=True, init=False)
    """Whether this process is the one that writes files."""

    def run(self, resume: bool = True) -> Objective:
        """Train until `steps` (or a stop signal: then `finished` is False) and return the averaged objective."""
        self._check()
        from accelerate import Accelerator

        accelerator = Accelerator(cpu=not torch.accelerator.is_available())  # else processes on CPUs would not join
        self.folder.mkdir(parents=True, exist_ok=True)
        averaged = self.objective.averaged().to(accelerator.device)
        optimizer = torch.optim.AdamW(self.objective.trained(), self.lr, weight_decay=self.weight_decay, fused=True)
        model, optimizer = accelerator.prepare(self.objective.train(), optimizer)
        inner = accelerator.unwrap_model(model)
        self.step = 0
        if resume and self.checkpoint.exists():
            facts = load_checkpoint(self.checkpoint, inner, averaged, optimizer)
            self.step = facts["step"]
        self.main = accelerator.is_main_process
        log = Log(self.folder / "log.jsonl", self.step, silent=not self.main)

        def save() -> None:
            if self.main:
                facts = {"step": self.step, "settings": self.settings()}
                save_checkpoint(self.checkpoint, inner, averaged, optimizer, facts)

        def picture() -> None:
            if self.main:
                draw_curve(log.rows(), self.folder / "loss.png")
                if self.draw is not None:
                    self.draw(averaged).save(self.folder / "samples.png")

        with torch.random.fork_rng(), stop_requests() as stop, self._progress() as show:
            stopped = False
            while self.step < self.steps and not stopped:
                loss = self._step(accelerator, model, optimizer)
                self._follow(averaged, inner)
                self.step += 1
                loss, stopped = agree(accelerator, loss, stop.is_set())
                show(self.step, log.add(self.step, loss, self.learning_rate(self.step - 1)))
                if self.step % self.save_every == 0:
                    save()
                if self.step % self.draw_every == 0:
                    picture()
        save()
        if self.finished:
            picture()
        accelerator.wait_for_everyone()
        return averaged

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def finished(self) -> bool:
        return self.step >= self.steps

    def settings(self) -> dict[str, Any]:
        """The hyper-parameters, as JSON."""
        names = ["steps", "batch", "lr", "warmup", "decay", "average", "weight_decay", "clip", "seed", "bf16"]
        return {name: getattr(self, name) for name in names}

    def learning_rate(self, step: int) -> float:
        """The rate of the step that follows `step` finished ones."""
        falling = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.lr * min(1.0, (step + 1) / max(1, self.warmup), falling)

    def order(self, step: int) -> Tensor:
        """Indices of one step's batch: a fresh permutation each epoch, the rest of a permutation is never lost."""
        size = len(next(iter(self.data.values())))
        places = torch.arange(step * self.batch, (step + 1) * self.batch)
        epochs = places // size
        permutations = {
            int(e): torch.randperm(size, generator=torch.Generator().manual_seed(mix(self.seed, int(e), 7)))
            for e in epochs.unique()
        }
        return torch.stack([permutations[int(e)][p] for e, p in zip(epochs, places % size, strict=True)])

    def _step(self, accelerator: Any, model: Any, optimizer: Any) -> Tensor:
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        rank, world, device = accelerator.process_index, accelerator.num_processes, accelerator.device
        chosen = self.order(self.step)[rank::world]
        batch = {name: tensor[chosen].to(device) for name, tensor in self.data.items()}
        torch.manual_seed(mix(self.seed, self.step, rank))
        with torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext():
            loss = model(batch)
        accelerator.backward(loss)
        if self.clip:
            accelerator.clip_grad_norm_(model.parameters(), self.clip)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    def _follow(self, averaged: Objective, model: Objective) -> None:
        """Exponential moving average, shorter at the start so that the random beginning is forgotten."""
        keep = min(self.average, (1 + self.step) / (10 + self.step))
        get_ema_multi_avg_fn(keep)(averaged.trained(), model.trained(), self.step)

    def _check(self) -> None:
        sizes = {name: len(tensor) for name, tensor in self.data.items()}
        if len(set(sizes.values())) != 1 or 0 in sizes.values():
            raise HastenError(f"data: every tensor needs the same length > 0, got {sizes}")
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                raise HastenError(f"{name}: {getattr(self, name)} is not a positive number")
        if not self.objective.trained():
            raise HastenError(f"objective: no parameter of {type(self.objective).__name__} takes gradients")
        if not self.lr > 0:
            raise HastenError(f"lr: {self.lr} is not a positive number")
        if not 0 <= self.average < 1:
            raise HastenError(f"average: {self.average} should be at least 0 and below 1")
        if self.checkpoint.exists():
            old = read_facts(self.checkpoint)["settings"]
            for name in ("batch", "seed"):
                if old[name] != getattr(self, name):
                    raise HastenError(
                        f"{name}: {getattr(self, name)} differs from {old[name]} of the run in {self.folder}; "
                        "resume with the same or choose another folder"
                    )

    @contextmanager
    def _progress(self) -> Iterator[Callable[[int, float], None]]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=self.quiet or not self.main) as bar:
            task = bar.add_task("training", total=self.steps, completed=self.step)

            def show(step: int, loss: float) -> None:
                bar.update(task, completed=step, description=f"loss {loss:.4f}")

            yield show


class Log:
    """Mean loss and rate of every `every` steps, one JSON line each; a resumed run cuts what came after its step."""

    def __init__(self, path: Path, step: int, every: int = 20, silent: bool = False):
        self.path, self.every, self.silent = path, every, silent
        self.pending: list[float] = []
        self.mean = math.nan
        self.start = time.monotonic()
        if silent:
            return
        kept = [row for row in self.rows() if row["step"] <= step]
        path.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def rows(self) -> list[dict[str, float]]:
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def add(self, step: int, value: float, rate: float) -> float:
        """Note one step's loss; returns the latest mean, for display."""
        if not math.isfinite(value):
            raise HastenError(f"loss: {value} at step {step}; lower the learning rate and resume")
        if self.silent:
            return value
        self.pending.append(value)
        if step % self.every == 0:
            self.mean = sum(self.pending) / len(self.pending)
            self.pending.clear()
            row = {"step": step, "loss": self.mean, "lr": rate, "seconds": round(time.monotonic() - self.start, 1)}
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        return value if math.isnan(self.mean) else self.mean


def agree(accelerator: Any, loss: Tensor, stop: bool) -> tuple[float, bool]:
    """The mean loss over all processes, and whether any of them was asked to stop."""
    if accelerator.num_processes == 1:
        return float(loss), stop
    both = accelerator.reduce(torch.stack([loss.float(), torch.tensor(float(stop), device=loss.device)]), "mean")
    return float(both[0]), bool(both[1] > 0)


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event set by the first SIGINT or SIGTERM; a second one acts as if this were not here."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def request(number: int, frame: Any) -> None:
        stop.set()
        restore()

    for number in before:
        signal.signal(number, request)
    try:
        yield stop
    finally:
        restore()


def mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers, with no simple relation between neighbours."""
    import hashlib

    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
