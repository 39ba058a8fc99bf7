"""Notices that the clock of the machine was set: what seems old after that may be of yesterday."""

from __future__ import annotations

import time
from collections.abc import Callable


def since_boot() -> float:
    """Return the seconds since some time, which go on while the machine sleeps, as far as the system tells."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class ClockWatch:
    """Compares the clock with one that nobody sets."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = since_boot) -> None:
        self._wall, self._steady = wall, steady
        self._apart = wall() - steady()

    def moved(self) -> float:
        """Return by how many seconds the clock was set since it was asked last."""
        before, self._apart = self._apart, self._wall() - self._steady()
        return self._apart - before
