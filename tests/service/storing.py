"""A store, written without the recorder."""

from __future__ import annotations

from collections.abc import Sequence

from monitor.service.store import Store
from monitor.service.stored import Batch
from monitor.wire import monitor_pb2 as pb


def add(
    store: Store, run_id: str, attempt: int, items: Sequence[pb.Item], heartbeat: pb.Heartbeat | None, now: float
) -> set[int]:
    """Store one batch, and return the sequence numbers that are new."""
    (new,) = store.add([Batch(run_id, attempt, items, heartbeat)], now)
    return new
