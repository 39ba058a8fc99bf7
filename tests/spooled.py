"""What a callback has recorded: the items in its spool."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from monitor import SparsityCallback
from monitor.report.spool.attempt import SpooledAttempt
from monitor.report.spool.items import Spool
from monitor.report.spool.places import DIRECTORY
from monitor.wire import monitor_pb2 as pb


def spooled(callback: SparsityCallback, kind: str) -> list[Any]:
    """The spooled items of a kind, of all attempts in turn."""
    return _items(callback.directory, kind)


def recorded_in(output: Path, kind: str) -> list[Any]:
    """The same of a loop of one's own, by its output directory."""
    return _items(output / DIRECTORY, kind)


def _items(directory: Path, kind: str) -> list[Any]:
    with closing(Spool(directory)) as spool:
        items = [
            pb.Item.FromString(item) for attempt in spool.attempts() for _, item in spool.unsent(attempt.key, 0, 10_000)
        ]
    return [getattr(item, kind) for item in items if item.HasField(kind)]


def attempts(callback: SparsityCallback) -> list[SpooledAttempt]:
    """What the spool knows of each attempt."""
    with closing(Spool(callback.directory)) as spool:
        return spool.attempts()
