"""What lies where the store is to be: nothing yet, a store, or something of another program, which stays as it is."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from monitor.service.errors import ForeignStoreError

_SHOWN_TABLES = 3
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_kind(path: Path, schema_table: str) -> None:
    """Accept a path with nothing, an empty file or a store. Nothing is written, nor kept open.

    An empty file, or a database without tables, is what a first start leaves that was interrupted.

    Raises:
        ForeignStoreError: something else is there.
        OSError: it cannot be looked at.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    for is_kind, words in _KINDS:
        if is_kind(found.st_mode):
            raise _foreign(path, words)
    if found.st_nlink > 1:
        raise ForeignStoreError(
            f"{path} has {found.st_nlink} names (hard links). SQLite keeps a log beside each name, and damages what is "
            "opened under two of them: copy the file, and give the copy with --store-url"
        )
    if found.st_size:
        check_tables(str(path), _tables(path), schema_table)


def check_tables(place: str, tables: Iterable[str], schema_table: str) -> None:
    """Accept a database without tables, or one with ours.

    Raises:
        ForeignStoreError: it holds tables of another program.
    """
    found = sorted(tables)
    if found and schema_table not in found:
        more = f" and {len(found) - _SHOWN_TABLES} more" if len(found) > _SHOWN_TABLES else ""
        raise _foreign(
            place, f"a database of another program, with the tables {', '.join(found[:_SHOWN_TABLES])}{more}"
        )


def _tables(path: Path) -> list[str]:
    log, index = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    # Without a log, a reader that is not told that nobody writes would leave one behind.
    mode = "mode=ro" if log.exists() else "mode=ro&immutable=1"
    had_index = index.exists()
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True)) as connection:
            return [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    except sqlite3.OperationalError:
        # It cannot be read, or is locked: whoever opens it next says so.
        return []
    except sqlite3.DatabaseError as error:
        raise _foreign(path, f"no store ({error})") from error
    finally:
        if not had_index:
            index.unlink(missing_ok=True)


def _foreign(place: Path | str, what: str) -> ForeignStoreError:
    return ForeignStoreError(
        f"{place} is {what}; expected a store of sparsity-monitor, or nothing. It was left as it is: give another "
        "place with --store-url"
    )
