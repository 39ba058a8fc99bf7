"""A copy of the store's file, while it is open."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from monitor.service.errors import StoreError


def back_up(path: Path, version: int) -> Path:
    """Write a copy of the store as it is beside it, before its tables change, and return where.

    Raises:
        StoreError: it cannot be written. The store is as it was.
    """
    target = path.with_name(f"{path.name}.version-{version}")
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        # Not for others to read, at no time, where the store is not.
        partial.touch(mode=path.stat().st_mode & 0o777)
        as_it_is = sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True)
        with closing(as_it_is) as source, closing(sqlite3.connect(partial)) as copy:
            copy.execute("PRAGMA synchronous = FULL")
            source.backup(copy)
        partial.chmod(path.stat().st_mode & 0o777)
        os.replace(partial, target)
    except (OSError, sqlite3.Error) as error:
        partial.unlink(missing_ok=True)
        raise StoreError(
            f"the store {path} is of an older version and is copied before it is changed, but {target} cannot be "
            f"written: {error}. Nothing was changed: make room for {path.stat().st_size} bytes there, or start the "
            "service on a copy of the store where there is room"
        ) from error
    return target


def _quoted(path: Path) -> str:
    return str(path.resolve()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
