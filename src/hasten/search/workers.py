"""Helpers of a search: other processes, here or on a cluster, that try recipes of the same study."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from hasten.bridge import load
from hasten.core.errors import HastenError, positive_int
from hasten.evaluate.budget import Budget
from hasten.evaluate.problem import Problem
from hasten.evaluate.references import REFERENCES_FILE, References
from hasten.evaluate.samples import Samples, loadable
from hasten.search.judge import Judge
from hasten.search.space import Space
from hasten.search.study import Search

LAST_WORDS = 40  # of a helper's error that are told


@dataclass(frozen=True)
class Task:
    """What a helper has to know.

    source: what `hasten.load` takes to load the pipeline.
    samples, batch, call: of the problem.
    budget, seed, folder: of the search.
    until: when it ends, in seconds since 1970.
    most: how many proposals there are in all, or None for no limit.
    threads: that torch may use, at least 1.
    number: which helper it is, from 1.
    """

    source: str
    samples: Mapping[str, Samples]
    batch: int
    call: Mapping[str, Any]
    budget: str
    seed: int
    folder: Path
    until: float
    most: int | None
    threads: int
    number: int = 1


class Helper(Protocol):
    """A helper at work."""

    def wait(self) -> str | None:
        """Wait until it is done. Returns what went wrong, or None."""
        ...

    def stop(self) -> None:
        """End it."""
        ...


Starter = Callable[[Task], Helper]


def work(task: Task) -> None:
    """Load the model, join the search in the task's folder and try recipes until its time is up."""
    torch.set_num_threads(task.threads)
    problem = Problem(load(task.source), task.samples, batch=task.batch, call=task.call)
    budget = Budget.of(task.budget)
    judge = Judge(problem, References(problem, task.folder / REFERENCES_FILE), budget)
    search = Search.join(Space.of(problem), budget, task.seed, task.folder, task.number)
    search.run(judge, time.monotonic() + task.until - time.time(), task.most)


def starter(cluster: str | None) -> Starter:
    """How helpers are started.

    cluster: None for processes here; "local", or the address of a Ray cluster.

    Raises HastenError where Ray is not installed.
    """
    if cluster is None:
        return _Process
    try:
        import ray
    except ImportError:
        raise HastenError('cluster: Ray is not installed; pip install "hasten[cluster]"') from None
    if not ray.is_initialized():
        ray.init(address=None if cluster == "local" else cluster, log_to_driver=False, logging_level="error")
    return _Remote


@dataclass
class Helpers:
    """The helpers of one search.

    count: how many, from 0.
    start: starts one.
    task: what each has to know; None if there are none.
    failures: what went wrong with any, once they are done.
    """

    count: int
    start: Starter
    task: Task | None
    failures: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls, problem: Problem, budget: Budget, seed: int, folder: Path | None, most: int | None, workers: int,
        cluster: str | None,
    ) -> Helpers:  # fmt: skip
        """Those of a search by so many workers, of which this process is one.

        problem, budget, seed, folder, most: of the search.
        workers: at least 1.
        cluster: as in `starter`.

        Raises HastenError if there can be none.
        """
        if positive_int("workers", workers) == 1:
            return cls(0, starter(cluster), None)
        source = loadable(problem.pipe)
        if folder is None:
            raise HastenError("workers: several need a folder to meet in; give out")
        threads = max(1, torch.get_num_threads() // workers)
        task = Task(source, problem.samples, problem.batch, problem.call, str(budget), seed, folder, 0.0, most, threads)
        return cls(workers - 1, starter(cluster), task)

    @contextmanager
    def at_work(self, until: float) -> Iterator[None]:
        """Let them search, with the machine's cores shared out; they are stopped if the context is left early.

        until: the `time.monotonic()` at which they end.
        """
        if self.task is None:
            yield
            return
        threads = torch.get_num_threads()
        task = replace(self.task, until=time.time() + until - time.monotonic())
        started = [self.start(replace(task, number=number)) for number in range(1, self.count + 1)]
        torch.set_num_threads(task.threads)
        try:
            yield
            self.failures += [failure for failure in (helper.wait() for helper in started) if failure]
        finally:
            torch.set_num_threads(threads)
            for helper in started:
                helper.stop()


class _Process:
    """A helper in a process of its own on this machine."""

    def __init__(self, task: Task) -> None:
        context = multiprocessing.get_context("spawn")
        self.ours, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_report, args=(task, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def wait(self) -> str | None:
        self.process.join()
        try:
            return self.ours.recv()
        except EOFError:
            return f"it ended with exit code {self.process.exitcode}"

    def stop(self) -> None:
        self.process.kill()


def _report(task: Task, to: Any) -> None:
    try:
        work(task)
    except Exception as error:
        to.send(f"{type(error).__name__}: {error}")
    else:
        to.send(None)


class _Remote:
    """A helper that Ray places somewhere; the folder must be there, too."""

    def __init__(self, task: Task) -> None:
        import ray

        self.ray = ray
        self.result = ray.remote(num_cpus=task.threads)(work).remote(task)

    def wait(self) -> str | None:
        try:
            self.ray.get(self.result)
        except self.ray.exceptions.RayError as error:
            return " ".join(str(error).split()[-LAST_WORDS:])
        return None

    def stop(self) -> None:
        self.ray.cancel(self.result, force=True)
