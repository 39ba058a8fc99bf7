"""The writer thread of the training process: takes items from a bounded queue and commits them to the spool.

The training thread only ever puts into the queue, and never waits.
"""

from __future__ import annotations

import logging
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

from monitor.errors import SpoolError
from monitor.report.spool import AttemptKey, Spool
from monitor.wire import monitor_pb2 as pb

logger = logging.getLogger(__name__)

_QUEUE_SIZE = 1024
_BATCH = 256
_RETRY_SECONDS = 1.0

# Makes the item in the writer thread, so that converting costs the training thread nothing.
MakeItem = Callable[[], pb.Item]


class SpoolWriter:
    """Commits items in the order of `put`, each with the next sequence number.

    Args:
        directory: the spool's.
        key: attempt that the items belong to.
        max_bytes: bound on the spool.
        on_commit: called in the writer thread after each commit.
    """

    def __init__(self, directory: Path, key: AttemptKey, max_bytes: int, on_commit: Callable[[Spool], None]) -> None:
        self._directory = directory
        self._key = key
        self._max_bytes = max_bytes
        self._on_commit = on_commit
        self._queue: queue.Queue[tuple[int, MakeItem] | None] = queue.Queue(_QUEUE_SIZE)
        self._sequence = 0
        self._give_up_at = math.inf
        self._thread = threading.Thread(target=self._write, name="sparsity-monitor writer", daemon=True)
        self._thread.start()

    def put(self, make_item: MakeItem) -> None:
        """Hand an item over without waiting. Its sequence number is set when it is written."""
        self._sequence += 1
        try:
            self._queue.put_nowait((self._sequence, make_item))
        except queue.Full:
            logger.warning("item %d is lost: the disk is slower than the training", self._sequence)

    def close(self, timeout: float) -> bool:
        """Commit what is queued, and say whether that was done within `timeout` seconds."""
        self._give_up_at = time.monotonic() + timeout
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return False
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _write(self) -> None:
        spool = self._open()
        if spool is None:
            return
        try:
            while batch := self._take():
                self._commit(spool, self._make(batch))
                self._look_after_delivery(spool)
        finally:
            spool.close()

    def _open(self) -> Spool | None:
        while True:
            try:
                return Spool(self._directory, self._max_bytes)
            except SpoolError as error:
                if not self._may_try_again(error):
                    return None

    def _take(self) -> list[tuple[int, MakeItem]]:
        """Wait for an item and return it with all that came since; empty when closing and nothing is left."""
        batch = []
        entry = self._queue.get()
        while entry is not None:
            batch.append(entry)
            if len(batch) == _BATCH:
                return batch
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return batch
        if batch:
            # The end was read together with the last items; leave it for the next call.
            self._queue.put(None)
        return batch

    def _make(self, batch: list[tuple[int, MakeItem]]) -> list[pb.Item]:
        """Make the items; one that cannot be made is lost, and what comes after it is not."""
        items = []
        for sequence, make_item in batch:
            try:
                item = make_item()
                item.sequence = sequence
                items.append(item)
            except Exception:
                logger.exception("item %d is lost", sequence)
        return items

    def _look_after_delivery(self, spool: Spool) -> None:
        try:
            self._on_commit(spool)
        except Exception:
            # What is committed is safe, and the next commit tries again.
            logger.exception("the uploader could not be looked after; observations are kept in %s", self._directory)

    def _commit(self, spool: Spool, made: list[pb.Item]) -> None:
        items = [(item.sequence, item.SerializeToString()) for item in made]
        finished = any(item.HasField("finish") for item in made)
        while items:
            try:
                spool.append(self._key, items, finished=finished)
                return
            except sqlite3.Error as error:
                if not self._may_try_again(error):
                    return

    def _may_try_again(self, error: Exception) -> bool:
        """Wait a moment, unless the time to close is over: then what is queued is lost."""
        left = self._give_up_at - time.monotonic()
        if left <= 0:
            logger.error("items are lost: the spool in %s cannot be written: %s", self._directory, error)
            return False
        logger.warning("cannot write to the spool in %s, trying again: %s", self._directory, error)
        time.sleep(min(_RETRY_SECONDS, left))
        return True
