"""Clock: how long the monitor keeps the calling thread."""

from __future__ import annotations

import time


class Clock:
    """Adds up the time that passes within `with` statements, which must not lie within each other.

    >>> clock = Clock()
    >>> with clock:
    ...     pass
    >>> clock.take() > 0, clock.take()
    (True, 0.0)
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_error: object) -> None:
        self._seconds += time.perf_counter() - self._began

    def take(self) -> float:
        """Return the seconds so far, and begin again from 0."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
