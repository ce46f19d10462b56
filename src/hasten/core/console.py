"""Progress on the terminal; silent where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Advance = Callable[..., None]


class Display:
    """Progress bars on stderr. shown: None means only where stderr is a terminal."""

    def __init__(self, shown: bool | None = None) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)
        self.shown = self.console.is_terminal if shown is None else shown

    @contextmanager
    def stage(self, text: str, total: float) -> Iterator[Advance]:
        """A bar of `total`; yields advance(amount=0, text=None, to=None), where `to` sets how much is done."""
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
