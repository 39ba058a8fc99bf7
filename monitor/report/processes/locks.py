"""Which processes are alive: a lock on a file, held as long as its process lives.

POSIX record locks: the kernel releases them whatever way the process dies, forked children do not inherit them, and
network file systems know them.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from monitor.limits import legible
from monitor.posix import fcntl
from monitor.report.messages.ending import Ending, failed, preempted
from monitor.report.processes.signals import killed_by

TRAINER_LOCK = "trainer.lock"
UPLOADER_LOCK = "uploader.lock"

# Of what a holder says of itself.
_MOST_BYTES = 400
# errno of lockf where another process holds the lock.
_HELD = (errno.EACCES, errno.EAGAIN)


class ProcessLock:
    """A lock that one process at a time can hold.

    Closing any descriptor of the file releases the lock, so a process makes one ProcessLock per file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def acquire(self) -> bool:
        """Take the lock if no other process holds it, and return whether this process has it now."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                return False
            raise
        return True

    def sign(self) -> None:
        """Say in the file who has the lock, as far as the disk takes it; for whoever does not get it."""
        with suppress(OSError):
            # Nobody rather than another one, where there is no room.
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"process {os.getpid()} on {legible(socket.gethostname())}".encode(), 0)

    def holder(self) -> str:
        """Return who said last that it has the lock, in brackets and after a space; empty where nobody did."""
        with suppress(OSError):
            if text := os.pread(self._descriptor, _MOST_BYTES, 0).decode("utf-8", "replace"):
                return f" ({text})"
        return ""

    def is_in_place(self) -> bool:
        """Return whether the file is still the one that others would meet under its name."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except OSError:
            return False

    def release(self) -> None:
        """Give the lock up; it can be taken again."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the lock up for good."""
        # Linux closes it also where it reports an error, such as a file system in user space that has died.
        with suppress(OSError):
            os.close(self._descriptor)


class TrainerWatch:
    """Lets another process see whether the training process of a spool directory is alive.

    Args:
        directory: the spool's.
        parent: the training process, if it started this one. As long as it is the parent it is alive, lock or not: it
            loses the lock when anything in it reads the lock's file, such as an upload of the output directory.
        signals: what notes the signal that kills it, see `killed_by`.
    """

    def __init__(self, directory: Path, parent: int | None = None, signals: Mapping[str, int] | None = None) -> None:
        self._lock = ProcessLock(directory / TRAINER_LOCK)
        self._parent = parent
        self._signals = signals or {}

    def is_alive(self) -> bool:
        """Return whether a training process is there."""
        if self._parent is not None and os.getppid() == self._parent:
            return True
        if not self._lock.acquire():
            return True
        self._lock.release()
        return False

    def death(self) -> Ending:
        """Return how it ended, where it is gone without having said so."""
        if (signal := killed_by(self._signals)) is None:
            return failed("the training process ended without saying why; it may have been killed")
        # What Slurm sends before it takes the machine, and with `--signal`, is not told apart from what people send.
        if job := os.environ.get("SLURM_JOB_ID"):
            return preempted(f"killed by {signal}, in Slurm job {job}")
        return failed(f"killed by {signal}")
