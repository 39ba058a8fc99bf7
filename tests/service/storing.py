"""A store, written without the recorder, and a recorder whose store is busy."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

from monitor.service.recorder import Recorder
from monitor.service.store import Store
from monitor.service.stored import Batch
from monitor.wire import monitor_pb2 as pb


def add(
    store: Store, run_id: str, attempt: int, items: Sequence[pb.Item], heartbeat: pb.Heartbeat | None, now: float
) -> set[int]:
    """Store one batch, and return the sequence numbers that are new."""
    (new,) = store.add([Batch(run_id, attempt, items, heartbeat)], now)
    return new


@contextlib.contextmanager
def store_busy(recorder: Recorder) -> Iterator[None]:
    """Let everything wait that is asked of the store meanwhile."""
    go_on = threading.Event()
    recorder._thread.submit(go_on.wait, 60)
    try:
        yield
    finally:
        go_on.set()
