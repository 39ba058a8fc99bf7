"""A store, written without the recorder, and a recorder whose store is busy."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

from monitor.service.recording.commits import Attempt, Outcome
from monitor.service.recording.received import Received
from monitor.service.recording.recorder import Recorder
from monitor.service.storage.store import Store
from monitor.service.storage.stored import Batch, Storable
from monitor.service.storage.tables.index_rows import Index
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import registration


def add(
    store: Store,
    run_id: str,
    attempt: int,
    items: Sequence[pb.Item],
    heartbeat: pb.Heartbeat | None,
    now: float,
    described: pb.Registration | None = None,
) -> set[int]:
    """Store one batch of an attempt, and return the sequence numbers that are new.

    Args:
        described: how it registered, where that is not as `registration` has it.
    """
    (new,) = store.add([batch(described or registration(run_id, attempt), items, heartbeat)], now)
    return new


def batch(described: pb.Registration, items: Sequence[pb.Item], heartbeat: pb.Heartbeat | None = None) -> Batch:
    """Return what one stream brings at once of an attempt that registered so."""
    index = Index(described)
    storable = [Storable(item, item.SerializeToString(), index.of(item)) for item in items]
    return Batch(described.run_id, described.attempt, storable, heartbeat)


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
