"""Room on the disk of a large SQLite store, kept for who opens it when there is no other, and removes runs.

SQLite writes what it removes into its log first, and the log has an index (sqlite.org/wal.html): on a full disk, a
process that finds neither can only give up.
"""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from monitor.service.errors import StoreError
from monitor.service.storage.sqlite_file.owner import Owner

logger = logging.getLogger(__name__)

RESERVE_BYTES = 16_000_000
"""What it takes to open a store and to remove runs from it, without what comes meanwhile."""

# A smaller store is not what fills a disk, and a smaller disk has better uses.
_STORE_BYTES = 4 * RESERVE_BYTES
_ROOM_BYTES = 10 * RESERVE_BYTES


def keep_reserve(database: Path) -> None:
    """Set room aside beside a store, unless it is there, the store is small, or there is little room."""
    reserve = _beside(database)
    with suppress(OSError):
        if reserve.exists() or database.stat().st_size < _STORE_BYTES or _free(database) < _ROOM_BYTES:
            return
        # Systems that cannot are rare, and a file of zeros may take no room.
        if not hasattr(os, "posix_fallocate"):
            return
        descriptor = os.open(reserve, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        except OSError:
            reserve.unlink()
            raise
        finally:
            os.close(descriptor)


def make_room(database: Path) -> None:
    """Give up what was set aside where the disk is full, to remove runs, unless another process has the store."""
    reserve = _beside(database)
    with suppress(OSError, StoreError):
        if not reserve.exists() or _free(database) >= RESERVE_BYTES:
            return
        owner = Owner(database.resolve())
        try:
            reserve.unlink()
        finally:
            owner.close()
        logger.warning(
            "the disk of the store %s is full: the %.0f MB beside it that were set aside for this are given up, to "
            "remove runs. They are set aside again when there is room",
            database,
            RESERVE_BYTES / 1e6,
        )


def is_full(database: Path) -> bool:
    """Return whether the disk of a store has too little room to open it."""
    with suppress(OSError):
        return _free(database) < RESERVE_BYTES // 16
    return False


def _beside(database: Path) -> Path:
    real = database.resolve()
    return real.with_name(f"{real.name}.reserve")


def _free(database: Path) -> int:
    return shutil.disk_usage(database.resolve().parent).free
