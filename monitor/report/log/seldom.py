"""Trouble that lasts, in the log of a training: at once, then once a minute."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

SELDOM_SECONDS = 60.0


class Seldom:
    """Passes a log message on unless one was passed on within the last minute.

    Args:
        log: such as `logger.warning`.
    """

    def __init__(self, log: Callable[..., None], seconds: float = SELDOM_SECONDS) -> None:
        self._log = log
        self._seconds = seconds
        self._last = -math.inf

    def __call__(self, message: str, *arguments: object) -> None:
        """Log a message, or do not."""
        now = time.monotonic()
        if now - self._last >= self._seconds:
            self._last = now
            self._log(message, *arguments)
