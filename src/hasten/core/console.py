"""The terminal: progress where somebody watches, silence where libraries would chatter. The only place for either."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
Advance = Callable[..., None]


class Display:
    """Progress bars on stderr.

    shown: whether they are drawn; None means only where stderr is a terminal.
    """

    def __init__(self, shown: bool | None = None) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)
        self.shown = self.console.is_terminal if shown is None else shown

    @contextmanager
    def stage(self, text: str, total: float) -> Iterator[Advance]:
        """Show one bar while the context is open, and yield `advance(amount=0, text=None, to=None)`.

        text: what is being done.
        total: how much there is to do, in any unit; `amount` adds to what is done, `to` sets it.
        """
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self.console, disable=not self.shown) as bar:
            task = bar.add_task(text, total=total)

            def advance(amount: float = 0, text: str | None = None, to: float | None = None) -> None:
                changes: dict[str, Any] = {"advance": amount} if to is None else {"completed": min(to, total)}
                bar.update(task, description=text, **changes)

            yield advance
            bar.update(task, completed=total)


def tracked(items: Iterable[Item], text: str) -> Iterable[Item]:
    """The items, with a progress bar on stderr where that is a terminal.

    items: what is gone through; it is read to its end at once, so that the bar knows its length.
    text: what is being done to them.
    """
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(list(items), text, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def quiet(level: int = logging.WARNING) -> Iterator[None]:
    """Without what libraries write to Python's log; on exit everything is as it was.

    level: the highest level that is kept back. From `logging.WARNING` on, Python's warnings are kept back too.
    """
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, level))
    try:
        with warnings.catch_warnings():
            if level >= logging.WARNING:
                warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def no_bars() -> Iterator[None]:
    """Without the progress bars of diffusers, transformers and the hub; on exit each is as it was."""
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as transformers_logging

    showing = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    hub_is_silent = are_progress_bars_disabled()
    for library in showing:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in showing:
            library.enable_progress_bar()  # that of transformers switches the bars of the hub on as well
        if hub_is_silent:
            disable_progress_bars()
