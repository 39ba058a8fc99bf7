"""A spool file that is damaged: set aside under another name, so that a new one can begin in its place.

Nothing of it is delivered. SQLite knows that a page is missing or is no page, and not that a number in it is another
one than was written: what can still be read of such a file may be wrong.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from monitor.errors import DamagedSpoolError, SpoolError
from monitor.report.log.shell import shown
from monitor.report.spool.file import SPOOL_FILE, damaged, unusable
from monitor.report.spool.items import Spool

logger = logging.getLogger(__name__)

# How many are kept of one directory; beyond it, the last one makes room.
_MOST = 3


def sound_spool(directory: Path, max_bytes: int | None) -> Spool:
    """Open the spool of a directory whose lock this process has. One that is damaged is set aside, which is said.

    Raises:
        SpoolError: see Spool.
    """
    try:
        return _checked(directory, max_bytes)
    except DamagedSpoolError as error:
        place = set_aside(directory)
        logger.warning(
            "sparsity-monitor: %s It was set aside as %s, and a new one begins. What earlier trainings left there and "
            "was not delivered stays undelivered: whether its numbers are still right cannot be told.",
            error,
            shown(place),
        )
        return Spool(directory, max_bytes)


def _checked(directory: Path, max_bytes: int | None) -> Spool:
    _check_not_emptied(directory)
    spool = Spool(directory, max_bytes)
    try:
        spool.check_sound()
    except SpoolError:
        spool.close()
        raise
    return spool


def _check_not_emptied(directory: Path) -> None:
    """SQLite takes an empty file for a new one. It leaves one itself only with a journal, at a crash in its start."""
    if _is_empty(directory / SPOOL_FILE) and not _journal(directory).exists():
        raise damaged(directory, "the file is empty")


def _is_empty(file: Path) -> bool:
    with suppress(OSError):
        return file.stat().st_size == 0
    return False


def set_aside(directory: Path) -> Path:
    """Give the spool of a directory another name, which is returned.

    Raises:
        SpoolError: it cannot be renamed.
    """
    names = [directory / f"{SPOOL_FILE}.damaged-{number}" for number in range(1, _MOST + 1)]
    place = next((name for name in names if not name.exists()), names[-1])
    try:
        # First: a new file under the name would be taken back to what is in it.
        with suppress(FileNotFoundError):
            _journal(directory).replace(f"{place}-journal")
        (directory / SPOOL_FILE).replace(place)
    except OSError as error:
        raise unusable(directory, error) from error
    return place


def _journal(directory: Path) -> Path:
    return directory / f"{SPOOL_FILE}-journal"
