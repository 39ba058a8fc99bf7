"""Progress bars on standard error, in a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_NAME_SHOWN = 40


@contextmanager
def advancing(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how far something is; called with what was done since."""
    with _bar(TaskProgressColumn()) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


@contextmanager
def reading(what: str, total_bytes: int, *, wanted: bool = True) -> Iterator[Callable[[int], None]]:
    """Show how many bytes were gone through, and how fast; called with the bytes since."""
    with _bar(DownloadColumn(), TransferSpeedColumn(), wanted=wanted) as bar:
        task = bar.add_task(what, total=total_bytes)
        yield lambda done: bar.advance(task, done)


@contextmanager
def naming(total: float) -> Iterator[Callable[[str, float], None]]:
    """Show what is being done, too; called with its name, and with the work that was done since."""
    with _bar() as bar:
        task = bar.add_task("", total=total)
        yield lambda name, done: bar.update(task, description=name[-_NAME_SHOWN:], advance=done)


def _bar(*numbers: ProgressColumn, wanted: bool = True) -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *numbers, TimeRemainingColumn())
    hidden = not (wanted and sys.stderr.isatty())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden)
