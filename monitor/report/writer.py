"""The writer thread of the training process: takes items from a bounded queue and commits them to the spool.

The training thread only ever puts into the queue, and never waits. The thread alone has the spool and the uploader.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from monitor.errors import SpoolError
from monitor.report.delivery_log import DeliveryLog
from monitor.report.spool import AttemptKey, Spool
from monitor.report.uploader_process import UploaderProcess
from monitor.wire import monitor_pb2 as pb

logger = logging.getLogger(__name__)

_QUEUE_SIZE = 1024
_BATCH = 256
_RETRY_SECONDS = 1.0
# How long `close` waits for the delivery where the service is known to be out of reach.
_DELIVER_SECONDS_WITH_PROBLEM = 0.5

# Called in the writer thread, so that the conversion costs the training thread nothing.
MakeItem = Callable[[], pb.Item]


class SpoolWriter:
    """Commits items in the order of `put`, each with the next sequence number, and keeps an uploader running.

    Args:
        directory: the spool's.
        key: attempt that the items belong to; it has begun there.
        max_bytes: bound on the spool.
        target: gRPC address of the service, host:port. None starts no uploader.
    """

    def __init__(self, directory: Path, key: AttemptKey, max_bytes: int, target: str | None) -> None:
        self._directory = directory
        self._key = key
        self._max_bytes = max_bytes
        self._uploader = UploaderProcess(directory, target, key)
        self._log = DeliveryLog(directory, target)
        self._queue: queue.Queue[tuple[int, MakeItem] | None] = queue.Queue(_QUEUE_SIZE)
        self._sequence = 0
        self._give_up_at = math.inf
        self._deliver_seconds = 0.0
        self._is_delivered = False
        self._thread = threading.Thread(target=self._run, name="sparsity-monitor writer", daemon=True)
        self._thread.start()

    @property
    def uploader_pid(self) -> int | None:
        """Process id of the uploader; None before it is started."""
        return self._uploader.pid

    def uploader_has_ended(self) -> bool:
        """Return whether an uploader was started and runs no more."""
        return self._uploader.has_ended()

    def put(self, make_item: MakeItem) -> None:
        """Hand an item over without waiting. Its sequence number is set when it is written."""
        self._sequence += 1
        try:
            self._queue.put_nowait((self._sequence, make_item))
        except queue.Full:
            self._log.lose("lost because the disk is slower than the training")
            logger.warning("item %d is lost: the disk is slower than the training", self._sequence)

    def close(self, commit_seconds: float, deliver_seconds: float = 0.0) -> bool:
        """Commit what is queued, wait for the uploader to deliver it, and return whether all of it is delivered.

        What is not committed within `commit_seconds` may be lost; what is not delivered within `deliver_seconds` the
        uploader goes on with.
        """
        self._deliver_seconds = deliver_seconds
        self._give_up_at = time.monotonic() + commit_seconds
        try:
            self._queue.put(None, timeout=commit_seconds)
        except queue.Full:
            return False
        self._thread.join(commit_seconds + deliver_seconds)
        return not self._thread.is_alive() and self._is_delivered

    # ------------------------------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        with closing(self._uploader):
            with self._trouble_logged():
                self._uploader.keep_running()
            spool = self._open()
            if spool is not None:
                with closing(spool):
                    self._write(spool)

    def _write(self, spool: Spool) -> None:
        while batch := self._take():
            self._commit(spool, self._make(batch))
            with self._trouble_logged():
                self._uploader.keep_running()
                self._uploader.wake()
                self._log.update(spool.attempt(self._key))
        with self._trouble_logged():
            self._uploader.keep_running()
            problem = spool.attempt(self._key).problem
            seconds = min(self._deliver_seconds, _DELIVER_SECONDS_WITH_PROBLEM if problem else math.inf)
            self._is_delivered = self._uploader.wait(seconds)

    @contextmanager
    def _trouble_logged(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            # Committed items are safe, and the next commit tries again.
            logger.exception("the uploader could not be looked after; observations are kept in %s", self._directory)

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
            # The end was taken from the queue together with the last items; put it back for the next call.
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
                self._log.lose("lost because no message could be made of them, which is logged with its error")
                logger.exception("item %d is lost", sequence)
        return items

    def _commit(self, spool: Spool, made: list[pb.Item]) -> None:
        items = [(item.sequence, item.SerializeToString()) for item in made]
        finished = any(item.HasField("finish") for item in made)
        while items:
            try:
                spool.append(self._key, items, finished=finished)
                return
            except SpoolError as error:
                if not self._may_try_again(error):
                    return

    def _may_try_again(self, error: Exception) -> bool:
        """Wait a moment, unless the time to close is over: then what is queued is lost."""
        left = self._give_up_at - time.monotonic()
        if left <= 0:
            logger.error("items are lost: %s", error)
            return False
        logger.warning("trying again: %s", error)
        time.sleep(min(_RETRY_SECONDS, left))
        return True
