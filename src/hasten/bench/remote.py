"""A peer under another Python: its process, and the requests that it answers (see `worker.py`)."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import IO, Any

import torch

from hasten.bench.setting import Setting
from hasten.core.console import no_bars
from hasten.core.errors import HastenError
from hasten.evaluate.problem import Cost, Pictures, Problem
from hasten.evaluate.samples import Samples
from hasten.runtime.anatomy import network_of

SCRIPT = Path(__file__).with_name("worker.py")
PATIENCE = 600.0  # seconds for one request; compilers are slow
CLOSE = 0.01  # by how much (RMSE) the default's latents may differ there


class PeerError(HastenError):
    """A peer cannot run, or has stopped; the message says why."""


class Remote:
    """A process of a peer. Close it, or use it as a context. `versions` tells what it runs with.

    name: of the peer.
    package: what it is imported as.
    python: the interpreter.
    patience: seconds that one request may take.

    Raises PeerError where it does not start or cannot import its package.
    """

    def __init__(self, name: str, package: str, python: str, patience: float = PATIENCE) -> None:
        self.name, self.patience = name, patience
        self.folder = tempfile.TemporaryDirectory(prefix="hasten-")
        self._said = (Path(self.folder.name) / "stderr").open("w+", encoding="utf-8", errors="replace")
        self._answers: queue.Queue[str | None] = queue.Queue()
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
        try:
            self._process = subprocess.Popen(
                [python, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said,
                encoding="utf-8", env=environment,
            )  # fmt: skip
        except OSError as error:
            self._clear()
            raise PeerError(f"{name}: cannot run {python}: {error.strerror or error}") from None
        threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()
        try:
            self.versions: dict[str, str] = self.ask("hello", package=package)["versions"]
        except PeerError:
            self.close()
            raise

    def ask(self, what: str, **request: Any) -> dict[str, Any]:
        """What the worker answers to a request.

        what: the name of the request.
        request: its fields.

        Raises PeerError if the worker refuses, stops, or takes longer than the patience.
        """
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError):  # where it has ended the answer is None
            stdin.write(json.dumps({"do": what, **request}) + "\n")
            stdin.flush()
        try:
            line = self._answers.get(timeout=self.patience)
        except queue.Empty:
            self._process.kill()
            raise PeerError(f"{self.name}: no answer to {what!r} in {self.patience:g} seconds") from None
        if line is None:
            self._answers.put(None)
            code = self._process.wait()
            raise PeerError(f"{self.name}: its process ended with code {code}: {self._last_words()}")
        answer = json.loads(line)
        if not answer.pop("ok"):
            raise PeerError(f"{self.name}: {' '.join(answer['error'].split())}")
        return answer

    @property
    def alive(self) -> bool:
        """Whether it can be asked more."""
        return self._process.poll() is None

    def load(self, problem: Problem) -> None:
        """Hand over a copy of the pipeline, and what every call gets."""
        folder = Path(self.folder.name) / "model"
        if not folder.exists():
            with no_bars():
                problem.pipe.save_pretrained(folder)
        parameter = next(network_of(problem.pipe).parameters())
        try:
            json.dumps(problem.call)
        except TypeError:
            raise PeerError(f"{self.name}: the call of the pipeline has what no JSON can hold") from None
        self.ask(
            "load", folder=str(folder), dtype=str(parameter.dtype).removeprefix("torch."), call=problem.call,
            device=str(parameter.device), threads=torch.get_num_threads(), steps=problem.steps,
        )  # fmt: skip

    def differs(self, problem: Problem, samples: Samples, default: Pictures) -> float:
        """RMSE between the default's latents here and there.

        problem: whose default.
        samples: that are drawn there.
        default: their pictures here.

        Raises PeerError where it is too large for the peer to be compared.
        """
        there = self.draw(None, samples, problem.batch)
        far = float((there.latents - default.latents).square().mean().sqrt())
        if not far <= CLOSE:
            raise PeerError(f"{self.name}: draws other images by the default there (latent RMSE {far:.3g})")
        return far

    def draw(self, setting: Setting | None, samples: Samples, batch: int) -> Pictures:
        """The samples by a setting, `batch` at a time; None is the default."""
        from safetensors.torch import load_file

        file = Path(self.folder.name) / "drawn.safetensors"
        self.ask(
            "draw", setting=None if setting is None else setting.to_dict(), prompts=samples.prompts,
            seeds=samples.seeds, batch=batch, file=str(file),
        )  # fmt: skip
        return Pictures(**load_file(file))

    def ratios(self, setting: Setting, one: Samples, rounds: int, steps: int) -> list[float]:
        """The default's time over a setting's, in turn in the process there, one ratio a round.

        setting: that is timed.
        one: the sample.
        rounds: at least 1.
        steps: of the default.
        """
        answer = self.ask(
            "time", setting=setting.to_dict(), prompts=one.prompts, seeds=one.seeds, rounds=rounds, steps=steps
        )
        return [default / other for default, other in answer["seconds"]]

    def cost(self, setting: Setting, one: Samples) -> Cost:
        """What one image costs, counted and not timed."""
        return Cost(**self.ask("cost", setting=setting.to_dict(), prompts=one.prompts, seeds=one.seeds))

    def close(self) -> None:
        """End the process and remove its files."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()
        self._clear()

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _listen(self, stdout: IO[str]) -> None:
        """Put every answer into the queue, and None at the end; other lines are not for us."""
        with contextlib.suppress(ValueError, OSError):
            for line in stdout:
                if line.startswith('{"ok":'):
                    self._answers.put(line)
        self._answers.put(None)

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read().splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"

    def _clear(self) -> None:
        self._said.close()
        self.folder.cleanup()
