"""A copy of the store's file, while it is open."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from monitor.service.errors import StoreError
from monitor.service.storage.remedies import no_store_at
from monitor.service.storage.sqlite_file.kind import check_kind
from monitor.service.storage.sqlite_file.place import move_without_replacing


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy that was read again and found whole."""

    path: Path
    runs: int
    items: int
    bytes: int


def back_up_as(path: Path, target: Path, schema_table: str) -> Backup:
    """Write a copy of the store as it is at this moment to `target`, where nothing is yet. Whoever serves it goes on.

    The copy is one file, which gets its name when it is on the disk and has been read again.

    Raises:
        ForeignStoreError: there is no store at `path`, but something else.
        StoreError: there is nothing, or the copy cannot be written or is not whole. Nothing is left at `target`.
    """
    if target.exists():
        raise StoreError(f"{target} is there already. Nothing was copied: give a name at which nothing is")
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    try:
        check_kind(path, schema_table)
        if not path.exists():
            raise StoreError(no_store_at(path))
        # Like a service, not read-only: a reader that may not write leaves a log beside a store that nobody serves.
        _copy(path, partial, "rw")
        runs, items = _checked(partial, path)
        move_without_replacing(partial, target)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"the store {path} cannot be copied to {target}: {error}. Nothing was left there: expected a directory "
            f"that this user can write to, with room for {_size(path)} bytes, and a store that it can read"
        ) from error
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            partial.with_name(partial.name + suffix).unlink(missing_ok=True)
    return Backup(target, runs, items, target.stat().st_size)


def back_up(path: Path, version: int) -> Path:
    """Write a copy of the store as it is beside it, before its tables change, and return where.

    Raises:
        StoreError: it cannot be written. The store is as it was.
    """
    target = path.with_name(f"{path.name}.version-{version}")
    partial = target.with_name(f"{target.name}.partial")
    try:
        _copy(path, partial, "ro")
        os.replace(partial, target)
    except (OSError, sqlite3.Error) as error:
        partial.unlink(missing_ok=True)
        raise StoreError(
            f"the store {path} is of an older version and is copied before it is changed, but {target} cannot be "
            f"written: {error}. Nothing was changed: make room for {path.stat().st_size} bytes there, or start the "
            "service on a copy of the store where there is room"
        ) from error
    return target


def _copy(path: Path, partial: Path, mode: str) -> None:
    partial.unlink(missing_ok=True)
    # Not for others to read, at no time, where the store is not.
    partial.touch(mode=path.stat().st_mode & 0o777)
    as_it_is = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode={mode}", uri=True)
    with closing(as_it_is) as source, closing(sqlite3.connect(partial)) as copy:
        copy.execute("PRAGMA synchronous = FULL")
        source.backup(copy)
    partial.chmod(path.stat().st_mode & 0o777)


def _checked(partial: Path, path: Path) -> tuple[int, int]:
    """Read the copy through, make it a single file, and return the numbers of its runs and items."""
    with closing(sqlite3.connect(partial)) as copy:
        # With a log of its own it would be three files.
        copy.execute("PRAGMA journal_mode = DELETE")
        found = [row[0] for row in copy.execute("PRAGMA integrity_check(3)")]
        if found != ["ok"]:
            wrong = [line for each in found for line in each.splitlines() if not line.startswith("***")]
            raise StoreError(
                f"the store {path} is damaged, and no copy of it was left: {'; '.join(wrong)}. Keep the backups that "
                "there are; sqlite3's .recover reads what can be read"
            )
        runs = copy.execute("SELECT count(DISTINCT run_id) FROM attempts").fetchone()[0]
        return int(runs), int(copy.execute("SELECT count(*) FROM items").fetchone()[0])


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0
