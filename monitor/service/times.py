"""Times for people."""

from __future__ import annotations

from datetime import UTC, datetime


def when(seconds: float | None) -> str:
    """Return a time in seconds since 1970-01-01 UTC, as messages and pages say it.

    >>> when(1.5e9)
    '2017-07-14 02:40:00 UTC'
    """
    if seconds is None:
        return "never"
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s after 1970-01-01 UTC"
