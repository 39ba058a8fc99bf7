"""The home of an attempt: the directory that has its lock and its spool, and from which an uploader delivers."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from monitor.errors import DamagedSpoolError, SpoolError, SpoolInUseError
from monitor.report.log.delivery import DeliveryLog
from monitor.report.log.seldom import Seldom
from monitor.report.log.shell import shown
from monitor.report.processes.locks import TRAINER_LOCK, ProcessLock
from monitor.report.spool.attempt import AttemptKey, Counts, SentRecord, SpooledAttempt
from monitor.report.spool.file import SPOOL_FILE, damaged, unusable
from monitor.report.spool.items import Spool
from monitor.report.spool.on_the_way import new_record
from monitor.report.spool.places import leave_link
from monitor.report.writer.backlog import Backlog
from monitor.report.writer.damage import set_aside
from monitor.report.writer.uploader_process import UploaderProcess

logger = logging.getLogger(__name__)

_LOCK_SECONDS = 1.0
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Reported:
    """What is reported, wherever it is kept.

    Attributes:
        registration: serialized Registration message.
        max_bytes: bound on the spool.
        target: gRPC address of the service, host:port. None starts no uploader.
    """

    key: AttemptKey
    registration: bytes
    max_bytes: int
    target: str | None


class Home:
    """One directory that keeps an attempt. The writer thread alone uses it.

    Args:
        directory: of the spool.
        lock: the one of this training process on the directory; None takes it when something is first written.
        log: how the delivery went so far, from another home.
    """

    def __init__(
        self, reported: Reported, directory: Path, lock: ProcessLock | None = None, *, log: DeliveryLog | None = None
    ) -> None:
        self.directory = directory
        self.uploader = UploaderProcess(directory, reported.target, reported.key)
        # What the spool said last of the attempt; None before the first time.
        self.latest: SpooledAttempt | None = None
        self._reported = reported
        self._lock = lock
        self._spool: Spool | None = None
        self._warn_of_damage = Seldom(logger.warning)
        self.log = log or DeliveryLog(directory, reported.target)
        # None where it cannot be looked at now: it is when something is first written.
        self._device: int | None = None
        with suppress(OSError):
            self._device = directory.parent.stat().st_dev

    def write(self, backlog: Backlog, before: Home | None = None) -> bool:
        """Commit what waits, to the spool that the directory's name leads to, which is made again if it was lost.

        Args:
            before: where the attempt was kept until now.

        Returns:
            whether the spool was made again.

        Raises:
            SpoolError: it cannot be; everything is still in the backlog.
        """
        try:
            return self._write(backlog, before or self)
        except DamagedSpoolError as error:
            self._set_aside(error)
            return self._write(backlog, before or self)

    def _write(self, backlog: Backlog, before: Home) -> bool:
        if self.uploader.has_found_damage():
            raise damaged(self.directory, "a part of it that is read at the delivery is not what was written")
        renewed = self._renew(backlog, before)
        spool, key = self._open_spool, self._reported.key
        if waiting := backlog.waiting():
            spool.append(key, waiting, finished=backlog.is_finished)
        spool.check_in_place()
        backlog.commit()
        self.see(backlog)
        return renewed

    def see(self, backlog: Backlog) -> None:
        """Find out how the delivery goes, and log it."""
        spool, key = self._open_spool, self._reported.key
        self.latest = spool.attempt(key)
        backlog.acknowledge(self.latest.first_unsent)
        self.log.update(self.latest, spool.refusing())

    def _set_aside(self, error: DamagedSpoolError) -> None:
        """Give a damaged file another name, and read nothing of it: a new one begins with what is in memory."""
        self._stop_uploader()
        if self._spool is not None:
            with suppress(SpoolError):
                self._spool.close()
            self._spool = None
        place = set_aside(self.directory)
        self._warn_of_damage(
            "sparsity-monitor: %s It was set aside as %s, and a new one begins with what memory still has of what was "
            "not delivered. Training goes on.",
            error,
            shown(place),
        )

    def _stop_uploader(self) -> None:
        """End the uploader: it reads a file that was lost. Another one begins with the next commit."""
        self.uploader.stop()
        self.uploader = UploaderProcess(self.directory, self._reported.target, self._reported.key)

    @property
    def _open_spool(self) -> Spool:
        if self._spool is None:
            raise unusable(self.directory, "it is not open")
        return self._spool

    def _renew(self, backlog: Backlog, before: Home) -> bool:
        if self._spool is not None:
            try:
                self._spool.check_in_place()
            except DamagedSpoolError:
                raise
            except SpoolError:
                pass
            else:
                return False
        self._check_directory()
        if self._lock is None or not self._lock.is_in_place():
            lost_lock, self._lock = self._lock, lock_directory(self.directory)
            if lost_lock is not None:
                lost_lock.close()
        is_first = before._spool is None and before is self
        spool = self._made_again(backlog, before)
        if self._spool is not None:
            self._spool.close()
            self._stop_uploader()
        self._spool = spool
        return not is_first

    def _made_again(self, backlog: Backlog, before: Home) -> Spool:
        spool = Spool(self.directory, self._reported.max_bytes)
        try:
            counts, lost = before._counts(backlog, self.directory)
            spool.take_over(
                self._reported.key,
                self._reported.registration,
                backlog.committed(),
                lost=before._spool,
                counts=counts,
            )
        except SpoolError:
            spool.close()
            raise
        self.log.lose(
            "lost with the spool, which was damaged or could not be read any more, and memory had no room for them. "
            "If it happens again, give another disk with `directory`",
            lost,
        )
        return spool

    def _counts(self, backlog: Backlog, directory: Path) -> tuple[Counts, int]:
        """Return what was counted so far, and how many of the dropped are lost with the spool, which cannot be read.

        Args:
            directory: where the attempt goes on, and what may have been delivered is noted.
        """
        if self._spool is not None:
            with suppress(SpoolError):
                counts = self._spool.counts(self._reported.key)
                # It may have committed what the backlog was not told of.
                return replace(counts, last_sequence=max(counts.last_sequence, backlog.last_committed)), 0
        if (latest := self.latest) is None:
            return Counts(backlog.last_committed, 0), 0
        # All that was committed, but for what is still in memory and what the service had when that was last seen.
        delivered = latest.last_sequence - latest.dropped - latest.unsent
        dropped = backlog.last_committed - len(backlog.committed()) - delivered
        doubtful = self._doubtful(backlog)
        sent = SentRecord(new_record(directory, doubtful)) if doubtful else SentRecord()
        return Counts(backlog.last_committed, dropped, sent), dropped - latest.dropped

    def _doubtful(self, backlog: Backlog) -> range:
        """Return the numbers of what is lost with a spool that cannot be read, unless it was delivered meanwhile.

        None where something between them had been left out: which, is lost, too.
        """
        if (latest := self.latest) is None or (first := latest.first_unsent) is None:
            return range(0)
        is_whole = latest.unsent == latest.last_sequence - first + 1
        return range(first, backlog.last_forgotten + 1) if is_whole else range(0)

    def _check_directory(self) -> None:
        """Make sure that there is something to make the directory in, on the same file system."""
        try:
            device = self.directory.parent.stat().st_dev
        except OSError as error:
            raise unusable(self.directory, error) from error
        if self._device is None:
            self._device = device
        if device != self._device and not self.directory.is_dir():
            # A place to mount at is a directory, too.
            raise unusable(self.directory, "another file system is there than when the training began")

    def leave(self, folder: Path) -> None:
        """Give the directory up, for a folder that has taken over all of the attempt."""
        self.uploader.stop()
        if self._spool is not None:
            with suppress(SpoolError):
                self._spool.check_in_place()
                self._spool.leave(self._reported.key)
        leave_link(self.directory, self._reported.key, folder)
        self.close()

    def discard(self) -> None:
        """Close it, and remove what was begun there in vain."""
        self.close()
        for name in (SPOOL_FILE, TRAINER_LOCK):
            with suppress(OSError):
                (self.directory / name).unlink()

    def close(self) -> None:
        """Close the spool and give the lock up. The uploader goes on by itself with what is left to deliver."""
        self.uploader.close()
        if self._spool is not None:
            with suppress(SpoolError):
                self._spool.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def lock_directory(directory: Path) -> ProcessLock:
    """Make a directory, if it is not there, and take the lock of the training process that reports from there.

    Raises:
        SpoolError: it cannot be made or locked, or another training process has the lock.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = ProcessLock(directory / TRAINER_LOCK)
    except OSError as error:
        raise unusable(directory, error) from error
    try:
        acquired = _acquire(lock, time.monotonic() + _LOCK_SECONDS)
    except OSError as error:
        # Such as ENOLCK, of a network file system that does not lock.
        lock.close()
        raise unusable(directory, error) from error
    if not acquired:
        holder = lock.holder()
        lock.close()
        raise SpoolInUseError(
            f"another training process{holder} reports from {str(directory)!r}. Of the processes that train together, "
            "only the first makes a Reporter (observer.is_first). Give each run its own output directory, or end the "
            "other process."
        )
    lock.sign()
    return lock


def _acquire(lock: ProcessLock, deadline: float) -> bool:
    while not (acquired := lock.acquire()) and time.monotonic() < deadline:
        # The uploader of an earlier attempt takes the lock for a moment, to see whether a training process holds it.
        time.sleep(_POLL_SECONDS)
    return acquired
