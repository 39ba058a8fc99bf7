"""Whether the name of a SQLite store still leads to the file that is open, and how what is open gets its name back.

A process keeps writing to a file that was deleted, moved away or replaced, and all of it is gone with the process. What
is acknowledged has to be in the file that the next process finds.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import sqlite3
import stat
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import cast

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from monitor.service.errors import StoreError

logger = logging.getLogger(__name__)

_NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
_FIND = "SELECT 1 FROM items WHERE run_id = ? AND attempt = ? AND sequence = ?"

Identity = tuple[int, int]
Key = tuple[str, int, int]
"""Run, attempt and sequence number of an item."""


class Place:
    """One open database, its log and its index, under their names.

    Raises, from its methods:
        StoreError: the name leads to something else, and nothing may be written until a person has decided.
        OSError: it cannot be looked at, or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._damaged = ""
        self._shrinks_to = math.inf

    def remember(self) -> None:
        """Take what the names lead to now for what is open. To be called when the database has been written to."""
        self._real = Path(os.path.realpath(self._path))
        self._mode = stat.S_IMODE(self._real.stat().st_mode)
        self._device = self._real.parent.stat().st_dev
        self._database = _identity(self._path)
        self._beside = {path: _identity(path) for path in self._names_beside()}
        self.wrote()

    def wrote(self, shrinks_to: int | None = None) -> None:
        """Remember the database as this process left it: whoever else writes to it is found out.

        Args:
            shrinks_to: bytes that it has after this, once what is in its log is in it: perhaps by another process.
        """
        found = self._path.stat()
        self._left = (found.st_size, found.st_mtime_ns)
        if shrinks_to is not None:
            self._shrinks_to = shrinks_to
        if found.st_size <= self._shrinks_to:
            self._shrinks_to = math.inf

    def hold(self, engine: Engine) -> bool:
        """Make sure that the names lead to what is open; write it under its name again where nothing is there.

        Returns whether the database was closed for that, and is to be remembered anew.
        """
        if self._damaged:
            raise StoreError(self._damaged)
        found = _identity(self._path)
        if found is not None and found != self._database:
            raise self._replaced(engine)
        if found is None:
            self._write_again(engine)
        elif any(_identity(path) != known for path, known in self._beside.items()):
            try:
                self._renew_log(engine)
            except (StoreError, sqlite3.Error, SQLAlchemyError):
                # Of a database that was written over it cannot be said that its log alone is gone.
                self.check_contents(None)
                raise
        else:
            return False
        return True

    def check_contents(self, newest: Key | None) -> None:
        """Make sure that nobody wrote over the database, where somebody may have; `newest` is an item to be in it."""
        found = self._path.stat()
        if (found.st_size, found.st_mtime_ns) == self._left:
            return
        if found.st_size < min(self._left[0], self._shrinks_to):
            raise self._lost()
        self.check_sound(newest)
        self._left = (found.st_size, found.st_mtime_ns)

    def check_sound(self, newest: Key | None = None) -> None:
        """Make sure that the database can be read, and has `newest`."""
        if not self._is_sound(newest):
            raise self._lost()

    def _lost(self) -> StoreError:
        self._damaged = (
            f"the store {self._path} was overwritten or truncated by another program while it was served, and what "
            "was in it is lost. Nothing is acknowledged, and what runs report waits in their spools: stop the "
            "service, put a backup there or remove the file, and start it again"
        )
        return StoreError(self._damaged)

    def _names_beside(self) -> list[Path]:
        return [self._real.with_name(self._real.name + suffix) for suffix in ("-wal", "-shm")]

    def _replaced(self, engine: Engine) -> StoreError:
        if _identity(self._real) != self._database:
            # It would be written into what is there now, by whoever opens that.
            with suppress(StoreError):
                self._write_back(engine)
            self._take_away_log()
        return StoreError(
            f"{self._path} is another file than the one that was opened: it was replaced while it was served. Nothing "
            "is acknowledged, and what runs report waits in their spools. Restart the service to go on with the file "
            "that is there now (what it holds is then left beside that); or move that away, and the service writes its "
            "own there again, whole"
        )

    def save(self, engine: Engine) -> None:
        """At the end, where the name leads to another file: leave what was served beside it."""
        if self._damaged or _identity(self._path) in (None, self._database):
            return
        copy = self._copied(engine)
        saved = copy.with_suffix(f".saved-{time.time():.0f}")
        copy.rename(saved)
        logger.error("what the service held of the store %s is in %s", self._path, saved)

    def check_directory(self) -> None:
        """Make sure that there is a directory, on the same file system."""
        try:
            device = self._real.parent.stat().st_dev
        except FileNotFoundError as error:
            raise StoreError(
                f"the directory of the store {self._path} is gone. Nothing is acknowledged, and what runs report waits "
                "in their spools: make the directory again, and the service writes the store there again, whole"
            ) from error
        if device != self._device:
            raise StoreError(
                f"the directory of the store {self._path} lies on another file system than when it was opened. Nothing "
                "is acknowledged, and what runs report waits in their spools: mount the file system again, or restart "
                "the service to begin a store where it is now"
            )

    def _write_again(self, engine: Engine) -> None:
        if _identity(self._real) == self._database:
            raise StoreError(
                f"{self._path} does not lead to the store any more, which is at {self._real}. Nothing is acknowledged, "
                "and what runs report waits in their spools: make the link again"
            )
        self._put(self._copied(engine), Path(os.path.realpath(self._path)))
        engine.dispose()
        logger.error(
            "the store %s was deleted or moved away while it was served. It was written there again, whole: nothing is "
            "lost. To begin anew, stop the service before deleting its store",
            self._path,
        )

    def _put(self, copy: Path, real: Path) -> None:
        try:
            # A log beside another database than its own would be written into it.
            self._take_away_log()
            for path in self._beside:
                if _identity(path) is not None:
                    raise StoreError(f"{path} belongs to no database that is there; move it away")
            move_without_replacing(copy, real)
        finally:
            copy.unlink(missing_ok=True)

    def _copied(self, engine: Engine) -> Path:
        """Return a copy of all that is in the database, beside where it was."""
        copy = self._real.with_name(f"{self._real.name}.copy")
        copy.unlink(missing_ok=True)
        with suppress(StoreError):
            # What was moved away is whole, too, where there is room.
            self._write_back(engine)
        raw = engine.raw_connection()
        try:
            with closing(sqlite3.connect(copy)) as target:
                target.execute("PRAGMA synchronous = FULL")
                cast(sqlite3.Connection, raw.driver_connection).backup(target)
            copy.chmod(self._mode)
        except sqlite3.Error as error:
            copy.unlink(missing_ok=True)
            raise StoreError(
                f"the store {self._path} was deleted or moved away, and cannot be written again: {error}. Nothing is "
                "acknowledged, and what runs report waits in their spools"
            ) from error
        finally:
            raw.close()
        return copy

    def _write_back(self, engine: Engine) -> None:
        """Bring what is in the log into the database, wherever both are."""
        raw = engine.raw_connection()
        try:
            opened = cast(sqlite3.Connection, raw.driver_connection)
            busy = opened.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.Error as error:
            raise self._unwritten(str(error)) from error
        finally:
            raw.close()
        if busy:
            raise self._unwritten("another program reads it")

    def _unwritten(self, reason: str) -> StoreError:
        return StoreError(
            f"the log of the store {self._path} was deleted, and cannot be written back: {reason}. Nothing is "
            "acknowledged, and what runs report waits in their spools"
        )

    def _take_away_log(self) -> None:
        for path, known in self._beside.items():
            if known is not None and _identity(path) == known:
                # Whoever looked into the store just now takes its log away, too.
                path.unlink(missing_ok=True)

    def _renew_log(self, engine: Engine) -> None:
        """Bring what is only in a log without a name into the database, and open it with a log of its own."""
        self._write_back(engine)
        engine.dispose()
        logger.error(
            "the log of the store %s (-wal or -shm) was deleted or replaced while it was served. What was in it is in "
            "the store now: nothing is lost. The three files belong together: leave them alone while the service runs",
            self._path,
        )

    def _is_sound(self, newest: Key | None) -> bool:
        # Through a connection of its own: the one that is open remembers pages.
        try:
            with closing(sqlite3.connect(self._path, timeout=10)) as connection:
                if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                    return False
                return connection.execute(_FIND, newest).fetchone() is not None if newest else True
        except sqlite3.DatabaseError:
            return False


def _identity(path: Path) -> Identity | None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def move_without_replacing(source: Path, target: Path) -> None:
    """Give a file another name, which nothing has yet, on the disk as well.

    Raises:
        OSError: something has it, or it cannot be written.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        source.rename(target)
    with suppress(OSError):
        descriptor = os.open(target.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
