"""The writer thread of the training process: takes items from a bounded queue and commits them to the spool.

The training thread only ever puts into the queue, and never waits. The thread alone has the spool and the uploader, and
goes on elsewhere with both where their directory breaks.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from monitor.report.log.seldom import Seldom
from monitor.report.log.shell import push_command, shown
from monitor.report.messages.ending import reason_of
from monitor.report.processes.locks import ProcessLock
from monitor.report.spool.attempt import NOTHING_TAKEN, UNREACHABLE
from monitor.report.spool.places import Elsewhere
from monitor.report.writer.backlog import MAX_BYTES, Backlog
from monitor.report.writer.home import Home, Reported
from monitor.wire import monitor_pb2 as pb

logger = logging.getLogger(__name__)

_QUEUE_SIZE = 1024
_BATCH = 256
_RETRY_SECONDS = 1.0
# How long a directory that broke may take to come back while the training goes on, and at its end.
_PATIENCE_SECONDS, _LAST_PATIENCE_SECONDS = 30.0, 1.0
# How long `close` waits for the delivery where the service is known to be out of reach.
_DELIVER_SECONDS_WITH_PROBLEM = 0.5
# How often the end looks whether the directory, or the delivery, is there.
_LOOK_SECONDS = 0.25

# Called in the writer thread, so that the conversion costs the training thread nothing.
MakeItem = Callable[[], pb.Item]


class SpoolWriter:
    """Commits items in the order of `put`, each with the next sequence number, and keeps an uploader running.

    Args:
        reported: the attempt that the items belong to.
        directory: the spool's; the attempt has begun there.
        lock: the one of this process on the directory.
        elsewhere: where to go on if the directory breaks and does not come back.

    Attributes:
        broke_off: the error with which reporting broke off before its end; empty where it did not.
    """

    def __init__(self, reported: Reported, directory: Path, lock: ProcessLock, elsewhere: Elsewhere) -> None:
        self.broke_off = ""
        self._reported = reported
        self._home = Home(reported, directory, lock)
        self._elsewhere = elsewhere
        self._backlog = Backlog(MAX_BYTES)
        self._queue: queue.Queue[tuple[int, MakeItem] | None] = queue.Queue(_QUEUE_SIZE)
        self._sequence = 0
        self._broken_since: float | None = None
        self._left_at = -math.inf
        self._is_closing = False
        self._give_up_at = math.inf
        self._deliver_seconds = 0.0
        self._is_delivered = False
        self._warn_of_full_queue = Seldom(logger.warning)
        self._warn_of_directory = Seldom(logger.warning)
        self._warn_of_uploader = Seldom(logger.warning)
        self._warn_of_item = Seldom(logger.exception)
        self._thread = threading.Thread(target=self._run, name="sparsity-monitor writer", daemon=True)
        self._thread.start()

    @property
    def directory(self) -> Path:
        """Where the spool is now."""
        return self._home.directory

    @property
    def uploader_pid(self) -> int | None:
        """Process id of the uploader; None before it is started."""
        return self._home.uploader.pid

    def uploader_has_ended(self) -> bool:
        """Return whether an uploader was started and runs no more."""
        return self._home.uploader.has_ended()

    def uploader_has_died(self) -> bool:
        """Return whether the uploader ended otherwise than by itself, and none was started in its place."""
        return self._home.uploader.has_died()

    def put(self, make_item: MakeItem) -> None:
        """Hand an item over without waiting. Its sequence number is set when it is written."""
        self._sequence += 1
        if not self._thread.is_alive():
            # It said why when it ended.
            return
        try:
            self._queue.put_nowait((self._sequence, make_item))
        except queue.Full:
            self._home.log.lose("lost because the disk is slower than the training")
            self._warn_of_full_queue(
                "sparsity-monitor: item %d is lost: the disk of %s is slower than the training, which goes on. Keep "
                "the spool on a faster one with `directory`, or observe less often with `every`.",
                self._sequence,
                shown(self.directory),
            )

    def close(self, commit_seconds: float, deliver_seconds: float = 0.0) -> bool:
        """Commit what is queued, wait for the uploader to deliver it, and return whether all of it is delivered.

        What is not committed within `commit_seconds` may be lost; what is not delivered within `deliver_seconds` the
        uploader goes on with.
        """
        self._deliver_seconds = deliver_seconds
        self._give_up_at = time.monotonic() + commit_seconds
        if self._thread.is_alive():
            try:
                self._queue.put(None, timeout=commit_seconds)
            except queue.Full:
                return False
            self._thread.join(commit_seconds + deliver_seconds)
        return not self._thread.is_alive() and self._is_delivered

    # ------------------------------------------------------------------------------------------------- in the thread

    def _run(self) -> None:
        try:
            self._keep_uploader()
            while not self._is_closing:
                self._take()
                self._write()
            while self._backlog and time.monotonic() < self._give_up_at:
                time.sleep(_LOOK_SECONDS)
                self._write()
            self._end()
        except BaseException as error:
            self.broke_off = reason_of(error)
            logger.exception("sparsity-monitor reports no more because of an error; training goes on")
        finally:
            self._home.close()
            self._backlog = Backlog(0)
            self._clear_queue()

    def _clear_queue(self) -> None:
        """Let go of what nobody takes any more, and of a `close` that waits for room."""
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    def _take(self) -> None:
        """Wait for an item and let all that came since wait in the backlog, or for the next try with what is there."""
        with suppress(queue.Empty):
            # A try that fails may take long, and what comes meanwhile has to find room here.
            for number in range(_BATCH if self._broken_since is None else _QUEUE_SIZE):
                if number and self._backlog.is_full:
                    return
                timeout = _RETRY_SECONDS if self._backlog else None
                entry = self._queue.get(block=number == 0, timeout=timeout)
                if entry is None:
                    self._is_closing = True
                    return
                self._make(*entry)

    def _make(self, sequence: int, make_item: MakeItem) -> None:
        """Make an item; one that cannot be made is lost, and what comes after it is not."""
        try:
            item = make_item()
            item.sequence = sequence
            left_out = self._backlog.add(sequence, item.SerializeToString(), finishes=item.HasField("finish"))
            self._home.log.lose(
                "left out in memory, which was full while nothing could be written to the spool: the first, the last "
                "and every few between them stay. Free some space there, or give another directory with `directory`",
                left_out,
            )
        except Exception:  # noqa: BLE001 (logged with its traceback, once a minute)
            self._home.log.lose("lost because no message could be made of them, which is logged with its error")
            self._warn_of_item("sparsity-monitor: item %d is lost, because of this error; training goes on", sequence)

    def _write(self) -> None:
        try:
            renewed = self._home.write(self._backlog)
        except OSError as error:
            self._wait_or_leave(error)
            return
        if renewed or self._broken_since is not None:
            logger.info("sparsity-monitor: observations are kept in %s again", shown(self.directory))
        self._broken_since = None
        self._keep_uploader()

    def _wait_or_leave(self, error: OSError) -> None:
        now = time.monotonic()
        if self._broken_since is None:
            self._broken_since = now
        patience = _PATIENCE_SECONDS if self._give_up_at == math.inf else _LAST_PATIENCE_SECONDS
        if now - max(self._broken_since, self._left_at) >= patience and self._leave(error):
            return
        self._warn_of_directory(
            "sparsity-monitor: %s Training goes on, and observations are kept in memory, up to %d MiB. If this lasts "
            "for %d seconds, or until the end, they are kept in a temporary folder.",
            error,
            MAX_BYTES // 2**20,
            _PATIENCE_SECONDS,
        )

    def _leave(self, reason: OSError) -> bool:
        """Go on elsewhere, and return whether there is a place."""
        self._left_at = time.monotonic()
        before = self._home
        for folder in self._elsewhere.folders():
            if folder == before.directory:
                continue
            home = Home(self._reported, folder, log=before.log.in_directory(folder))
            try:
                home.write(self._backlog, before)
            except OSError as error:
                home.discard()
                self._warn_of_directory("sparsity-monitor: %s", error)
                continue
            before.leave(folder)
            self._home = home
            self._broken_since = None
            self._keep_uploader()
            logger.warning(
                "sparsity-monitor: %s Observations are kept in %s from now on, and delivered from there. What is left "
                "after the training is delivered with: %s",
                reason,
                shown(folder),
                push_command(folder, self._reported.target),
            )
            return True
        return False

    def _keep_uploader(self) -> None:
        try:
            self._home.uploader.keep_running()
            self._home.uploader.wake()
        except OSError as error:
            # Committed items are safe, and the next commit tries again.
            self._warn_of_uploader(
                "sparsity-monitor: the uploader could not be looked after (%s); that is tried again, and observations "
                "are kept in %s. What is left after the training is delivered with: %s",
                error,
                shown(self.directory),
                push_command(self.directory, self._reported.target),
            )

    def _end(self) -> None:
        if self._backlog:
            logger.error(
                "sparsity-monitor: the last %d observations and messages of this run are lost, its end among them: "
                "nothing can be written to %s, nor to a temporary folder. Before the next training, free some space "
                "there, or give another directory with `directory`.",
                len(self._backlog),
                shown(self.directory),
            )
            # It would take the training for killed, whose end it cannot read.
            self._home.uploader.stop()
            return
        self._keep_uploader()
        self._is_delivered = self._wait_for_delivery(time.monotonic() + self._deliver_seconds)

    def _wait_for_delivery(self, until: float) -> bool:
        """Wait for the uploader to end, but not for a service that it cannot reach or that refuses the run."""
        is_hopeless = self._problem() != ""
        if is_hopeless:
            until = min(until, time.monotonic() + _DELIVER_SECONDS_WITH_PROBLEM)
        while True:
            now = time.monotonic()
            if not is_hopeless and any(words in self._problem() for words in (UNREACHABLE, NOTHING_TAKEN)):
                is_hopeless, until = True, min(until, now + _DELIVER_SECONDS_WITH_PROBLEM)
            left = until - now
            pause = min(max(left, 0.0), _LOOK_SECONDS)
            # One look: one that ends between two has delivered nothing by the first, and has ended by the second.
            is_delivered = self._home.uploader.wait(pause)
            if is_delivered is not None:
                return is_delivered
            if self._home.uploader.has_died():
                time.sleep(pause)
                self._keep_uploader()
            if left <= 0:
                return False

    def _problem(self) -> str:
        """Return why nothing is delivered now, as far as the spool says; empty where it does not."""
        with suppress(OSError):
            self._home.see(self._backlog)
        return "" if self._home.latest is None else self._home.latest.problem
