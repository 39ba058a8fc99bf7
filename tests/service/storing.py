"""A store, written without the recorder, and a recorder whose store is busy."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

from monitor.service.commits import Outcome
from monitor.service.received import Received
from monitor.service.recorder import Attempt, Recorder
from monitor.service.store import Store
from monitor.service.stored import Batch
from monitor.wire import monitor_pb2 as pb


def add(
    store: Store, run_id: str, attempt: int, items: Sequence[pb.Item], heartbeat: pb.Heartbeat | None, now: float
) -> set[int]:
    """Store one batch, and return the sequence numbers that are new."""
    (new,) = store.add([Batch(run_id, attempt, [Received(item) for item in items], heartbeat)], now)
    return new


async def record(
    recorder: Recorder, attempt: Attempt, items: Sequence[pb.Item], heartbeat: pb.Heartbeat | None = None
) -> list[Outcome]:
    """Have items recorded as they come in requests of their own."""
    return await recorder.record(attempt, [Received(item) for item in items], heartbeat)


@contextlib.contextmanager
def store_busy(recorder: Recorder) -> Iterator[None]:
    """Let everything wait that is asked of the store meanwhile."""
    go_on = threading.Event()
    recorder._thread.submit(go_on.wait, 60)
    try:
        yield
    finally:
        go_on.set()
