"""The uploader's log, beside the spool: its own lines, and what ends up on its standard error, of libraries too."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

UPLOADER_LOG = "uploader.log"

_MOST_BYTES = 1_000_000
_KEPT_BYTES = 500_000
_LEFT_OUT = b"(earlier lines are left out: this file keeps the latest)\n"


def keep_short(log: Path) -> None:
    """Leave the latest lines of a log that has become long.

    In its place, for others have it open: each writes at its end, as they all do.
    """
    with suppress(OSError):
        if log.stat().st_size <= _MOST_BYTES:
            return
        with log.open("rb") as written:
            written.seek(-_KEPT_BYTES, os.SEEK_END)
            latest = written.read()
        os.truncate(log, 0)
        with log.open("ab") as again:
            # From a whole line on, where there are any.
            again.write(_LEFT_OUT + latest[latest.find(b"\n") + 1 :])
