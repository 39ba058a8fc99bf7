"""Gives back what a SQLite file does not need any more: bit by bit where it was made for that, or all of it at once."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import NamedTuple, cast

from sqlalchemy import Connection, Engine

from monitor.service.errors import StoreError

# What PRAGMA auto_vacuum answers for INCREMENTAL; it is decided when a file is made.
_INCREMENTAL = 2
# Cut off at once: two megabytes by default, in which an acknowledgement is not late.
_PAGES_AT_ONCE = 500
# Left in the file, for what comes next: a megabyte and a twentieth of it.
_SPARE_PAGES, _SPARE_SHARE = 256, 20


class GivenBack(NamedTuple):
    """What became of a file.

    Attributes:
        pages: that were cut off.
        bytes: that the database has now. The file may have more for a while, where others read it.
    """

    pages: int
    bytes: int


def give_back(connection: Connection) -> GivenBack:
    """Cut some free pages off the end of the file, none where it was made without, or has little to spare."""
    kind, count, free, size = _pragmas(connection, "auto_vacuum", "page_count", "freelist_count", "page_size")
    spare = _SPARE_PAGES + count // _SPARE_SHARE
    if kind != _INCREMENTAL or free <= spare:
        return GivenBack(0, count * size)
    cursor = cast(sqlite3.Connection, connection.connection.driver_connection).cursor()
    # As a script: each step of the statement cuts off one page, and `execute` makes one alone where no row comes.
    cursor.executescript(f"PRAGMA incremental_vacuum({min(free - spare, _PAGES_AT_ONCE)})")
    # Now, so that the file shrinks while this process looks on, to which it would seem truncated later.
    cursor.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    (left,) = _pragmas(connection, "page_count")
    return GivenBack(count - left, left * size)


def compact(engine: Engine, path: Path) -> None:
    """Write a file anew without what is free in it, as one that gives back by itself from now on.

    Raises:
        StoreError: it failed; the file is as it was.
    """
    # Otherwise the copy in between goes to where temporary files go, which is often too small.
    os.environ.setdefault("SQLITE_TMPDIR", str(path.resolve().parent))
    raw = engine.raw_connection()
    try:
        opened = cast(sqlite3.Connection, raw.driver_connection)
        opened.execute("PRAGMA auto_vacuum=INCREMENTAL")
        opened.execute("VACUUM")
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        raise StoreError(
            f"the store {path} cannot be compacted: {error}. It is as it was. This needs room on its disk for twice "
            "what the store holds, see `sparsity-monitor store info`: make room there, or compact a copy elsewhere"
        ) from error
    finally:
        raw.close()


def _pragmas(connection: Connection, *names: str) -> list[int]:
    return [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names]
