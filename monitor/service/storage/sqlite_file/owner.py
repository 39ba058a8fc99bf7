"""Which process has a SQLite store: the one that holds the lock on a file beside it, for as long as it lives.

The operating system gives the lock back when the process ends, however it ends: a file that was left is no trouble.
"""

from __future__ import annotations

import datetime
import errno
import json
import os
import socket
from pathlib import Path

from monitor.posix import fcntl
from monitor.service.errors import StoreError, StoreInUseError

_MAX_BYTES = 4096


def lock_of(database: Path) -> Path:
    """Return the file beside a store that is locked."""
    return database.with_name(f"{database.name}.lock")


class Owner:
    """Holds the lock on the store `database` until it is closed.

    Raises:
        StoreInUseError: another process has it.
        StoreError: the file system cannot lock.
        OSError: there can be no file beside the store.
    """

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path = lock_of(database)
        self._shown: dict[str, str | int] = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        }
        self._descriptor = self._locked()

    def announce(self, **addresses: str) -> None:
        """Let others know where this process serves the store."""
        self._shown.update(addresses)
        self._write(self._descriptor)

    def keep(self) -> None:
        """Make sure that the lock is still the one that others would meet, for its file may have been deleted.

        Raises:
            StoreInUseError, StoreError, OSError: as at the beginning.
        """
        if not _is_at(self._descriptor, self._path):
            held, self._descriptor = self._descriptor, self._locked()
            os.close(held)

    def close(self) -> None:
        """Give the store back."""
        if _is_at(self._descriptor, self._path):
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _locked(self) -> int:
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                self._lock(descriptor)
                # Whoever had it may have deleted the file between the two.
                if _is_at(descriptor, self._path):
                    self._write(descriptor)
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreInUseError(
                f"the store {self._database} is served already, by {_described(os.pread(descriptor, _MAX_BYTES, 0))}. "
                "Report to that service, stop it, or give another place with --store-url"
            ) from error
        except OSError as error:
            raise StoreError(
                f"the file system of the store {self._database} cannot lock files ({error.strerror}), and two services "
                "would damage it: keep the store on a local disk, or in PostgreSQL"
            ) from error

    def _write(self, descriptor: int) -> None:
        text = json.dumps(self._shown).encode()
        os.ftruncate(descriptor, 0)
        try:
            os.pwrite(descriptor, text, 0)
        except OSError as error:
            # The lock holds without it.
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise


def _described(text: bytes) -> str:
    try:
        shown = json.loads(text)
        where = "".join(f", {name} {shown[name]}" for name in ("gRPC", "HTTP") if name in shown)
        return f"process {shown['pid']} on {shown['host']}{where}, since {shown['since']}"
    except (ValueError, KeyError, TypeError):
        # It has the lock, and has not written yet.
        return "another process"


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
