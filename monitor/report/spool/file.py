"""The SQLite file of a spool: opened, changed all or nothing, and looked after where its directory may go away.

A rollback journal, not WAL, so that it works on a network file system.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from monitor.errors import DamagedSpoolError, SpoolError
from monitor.report.spool.forks import Undivided

SPOOL_FILE = "spool.sqlite"
# How long a connection waits while another one commits; one whose process is stopped meanwhile never ends. For so long,
# the writer's queue has room for what a training hands over that takes a hundred steps in a second.
_BUSY_SECONDS = 10.0
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class SpoolFile:
    """One connection to the file in `directory`, which is made where it is not there; use it from one thread.

    Args:
        schema: the tables, where the file is new.
        version: of the format; the file of a greater one is refused.
        read_only: of a file that is there and stays as it is; whoever commits to it meanwhile never waits for long.

    Raises, from the constructor and from every method:
        DamagedSpoolError: the file is not what was written to it.
        SpoolError: the directory cannot be written, or the file is no spool or a newer one; later, the disk is full or
            away, or another process holds the file for too long. A change that raises leaves the file as it was.
    """

    def __init__(self, directory: Path, schema: str, version: int, *, read_only: bool = False) -> None:
        self.directory = directory
        self._read_only = read_only
        self._opened: os.stat_result | None = None
        self._process = os.getpid()
        self._undivided = Undivided()
        is_new = not os.path.exists(directory / SPOOL_FILE)
        try:
            with self._undivided:
                self._connection = _connected_to_read(directory) if read_only else _connected(directory)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error
        _open.add(self)
        try:
            with self._wrapped_errors():
                if not read_only:
                    self._connection.execute("PRAGMA journal_mode=DELETE")
                    self._connection.execute("PRAGMA synchronous=FULL")
                self._prepare(schema, version)
                self._opened = os.stat(directory / SPOOL_FILE)
        except SpoolError:
            with self._undivided:
                self._connection.close()
            if is_new:
                self._unmake()
            raise

    def _unmake(self) -> None:
        """Remove the empty file that a full disk leaves: it would look like one that was cut to nothing."""
        with suppress(OSError):
            if os.stat(self.directory / SPOOL_FILE).st_size == 0:
                os.unlink(self.directory / SPOOL_FILE)

    def _prepare(self, schema: str, version: int) -> None:
        (found,) = self._connection.execute("PRAGMA user_version").fetchone()
        if found > version:
            raise sqlite3.DatabaseError(f"the file has format version {found}, this version reads up to {version}")
        if found == version:
            # No write, so that a spool on a full disk can be read.
            return
        if self._read_only:
            raise sqlite3.DatabaseError("the file is no spool")
        with self._transaction() as connection:
            for statement in schema.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {version}")

    @contextmanager
    def _wrapped_errors(self) -> Iterator[None]:
        try:
            with self._undivided:
                yield
        except SpoolError:
            raise
        except (OSError, sqlite3.Error) as error:
            # SQLite calls it a disk I/O error when the directory is gone.
            raise self._unusable(self._displaced() or error) from error

    def _unusable(self, reason: object) -> SpoolError:
        # The extended codes hold the code in their lowest byte.
        if getattr(reason, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
            return damaged(self.directory, reason)
        return unreadable(self.directory, reason) if self._read_only else unusable(self.directory, reason)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what is done to the connection, or nothing."""
        with self._wrapped_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                # Inside `try`: a commit that finds the file locked leaves the transaction open.
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _one_moment(self) -> Iterator[None]:
        """Read several things as they are together. Also on a disk that cannot be written."""
        with self._wrapped_errors():
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def _change(self, statement: str, parameters: Sequence[object]) -> None:
        with self._transaction() as connection:
            connection.execute(statement, parameters)

    def _read(self, query: str, parameters: Sequence[object] = ()) -> list[Any]:
        with self._wrapped_errors():
            return self._connection.execute(query, parameters).fetchall()

    def check_sound(self) -> None:
        """Check that the whole file can be read, as far as SQLite tells. Free space in it costs nothing.

        Raises:
            DamagedSpoolError: it cannot.
        """
        ((found,),) = self._read("PRAGMA quick_check(1)")
        if found != "ok":
            raise damaged(self.directory, " ".join(found.removeprefix("*** in database main ***").split()))

    def check_in_place(self) -> None:
        """Check that the file which is open is the one that its name leads to.

        SQLite keeps writing to one that was deleted, moved away or replaced, and all of it is gone at the close.

        Raises:
            DamagedSpoolError: it is, and was cut to nothing.
            SpoolError: it is not, or the name cannot be looked at.
        """
        if displaced := self._displaced():
            raise unusable(self.directory, displaced)
        with self._wrapped_errors():
            size = os.stat(self.directory / SPOOL_FILE).st_size
        if size == 0:
            raise damaged(self.directory, "the file is empty")

    def _displaced(self) -> str:
        """Return why the name of the open file does not lead to it; empty where it does."""
        if self._opened is None:
            return ""
        try:
            found = os.stat(self.directory / SPOOL_FILE)
        except FileNotFoundError:
            gone = SPOOL_FILE if os.path.isdir(self.directory) else "the directory"
            return f"{gone} was removed or moved away while it was in use"
        except OSError as error:
            return str(error)
        if os.path.samestat(found, self._opened):
            return ""
        return f"{SPOOL_FILE} was replaced by another file while it was open"

    def close(self) -> None:
        """Close the connection, unless it is one of the process that this one was forked from."""
        if self._process != os.getpid():
            return
        with self._wrapped_errors():
            self._connection.close()


_open: weakref.WeakSet[SpoolFile] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """Let a forked child never close what is open in its parent, whose journal that takes away in mid-transaction.

    Not even when the child collects garbage, or ends: so no list holds them, which would be cleared then.
    """
    for file in _open:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(file._connection))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def unusable(directory: Path, reason: object) -> SpoolError:
    """Return the error for a spool directory that cannot be used."""
    return SpoolError(
        f"cannot keep observations in {str(directory)!r}: {reason}. Expected a directory that this process can write, "
        "on a disk with space; free some, or give another one with `directory`."
    )


def damaged(directory: Path, reason: object) -> DamagedSpoolError:
    """Return the error for a spool whose file is not what was written to it."""
    return DamagedSpoolError(
        f"{SPOOL_FILE} in {str(directory)!r} is damaged: {reason}. Something else wrote to it, or its disk lost a part "
        "of it: look after the disk."
    )


def unreadable(directory: Path, reason: object) -> SpoolError:
    """Return the error for a spool that is there, and cannot be read."""
    return SpoolError(
        f"cannot read {SPOOL_FILE} in {str(directory)!r}: {reason}. Expected the spool of a training with "
        "SparsityCallback; if its process was killed while it wrote, `sparsity-monitor push` mends the file."
    )


def _connected(directory: Path) -> sqlite3.Connection:
    directory.mkdir(parents=True, exist_ok=True)
    return sqlite3.connect(directory / SPOOL_FILE, timeout=_BUSY_SECONDS, isolation_level=None)


def _connected_to_read(directory: Path) -> sqlite3.Connection:
    address = f"{(directory / SPOOL_FILE).absolute().as_uri()}?mode=ro"
    return sqlite3.connect(address, timeout=_BUSY_SECONDS, isolation_level=None, uri=True)
