"""Helpers of a search: other processes, here or on a cluster, that try recipes of the same study."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from hasten.core.errors import HastenError
from hasten.evaluate.problem import Problem
from hasten.evaluate.samples import Samples, loadable


@dataclass(frozen=True)
class Task:
    """What a helper has to know.

    until: seconds since 1970. most: proposals in all. threads: that torch may use. number: which helper it is, from 1.
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
        """Until it is done. What went wrong, if something did."""
        ...

    def stop(self) -> None: ...


Starter = Callable[[Task], Helper]


def work(task: Task) -> None:
    """Load the model, join the search in the task's folder and try recipes until its time is up."""
    import torch

    from hasten.bridge import load
    from hasten.evaluate.budget import Budget
    from hasten.evaluate.references import YARDSTICK, Yardstick
    from hasten.search.judge import Judge
    from hasten.search.space import Space
    from hasten.search.study import Search

    torch.set_num_threads(task.threads)
    problem = Problem(load(task.source), task.samples, batch=task.batch, call=task.call)
    budget = Budget.of(task.budget)
    judge = Judge(problem, Yardstick(problem, task.folder / YARDSTICK), budget)
    search = Search.join(Space.of(problem), budget, task.seed, task.folder, task.number)
    search.run(judge, time.monotonic() + task.until - time.time(), task.most)


def starter(cluster: str | None) -> Starter:
    """How helpers are started: as processes here, or by Ray ("local", or the address of a cluster).

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


@contextmanager
def helped(
    problem: Problem, budget: str, seed: int, folder: Path, count: int, until: float, most: int | None, start: Starter
) -> Iterator[list[str]]:
    """`count` helpers at work until `until` (of time.monotonic()); yields what went wrong with any, filled on exit.

    The machine's cores are shared out meanwhile. Helpers are stopped if the context is left by an exception.
    """
    import torch

    threads = torch.get_num_threads()
    share = max(1, threads // (count + 1))
    task = Task(
        loadable(problem.pipe), problem.samples, problem.batch, problem.call, budget, seed, folder,
        time.time() + until - time.monotonic(), most, share,
    )  # fmt: skip
    helpers = [start(replace(task, number=number)) for number in range(1, count + 1)]
    failures: list[str] = []
    torch.set_num_threads(share)
    try:
        yield failures
        failures += [failure for failure in (helper.wait() for helper in helpers) if failure]
    finally:
        torch.set_num_threads(threads)
        for helper in helpers:
            helper.stop()


class _Process:
    """A helper in a process of its own on this machine."""

    def __init__(self, task: Task) -> None:
        import multiprocessing

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
            return " ".join(str(error).split()[-40:])
        return None

    def stop(self) -> None:
        self.ray.cancel(self.result, force=True)
