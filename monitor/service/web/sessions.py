"""Browsers that have logged in: neither a link nor an EventSource can carry a token, a cookie can.

The cookie holds a number that this process made up, and no token: a browser's files are no place for one.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from fastapi import Request

COOKIE = "sparsity_monitor_session"
SECONDS = 12 * 3600
_MOST = 1000


class Sessions:
    """Which token each browser has logged in with, in memory: after a restart of the service they log in again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    def begin(self, digest: bytes) -> str:
        """Return what a browser shows from now on."""
        while len(self._sessions) >= _MOST:
            self._sessions.popitem(last=False)
        session = secrets.token_urlsafe(32)
        self._sessions[session] = (digest, self._clock() + SECONDS)
        return session

    def digest(self, session: str) -> bytes | None:
        """Return by what the token of a browser is known, None where it has not logged in."""
        digest, until = self._sessions.get(session, (None, 0.0))
        return digest if self._clock() < until else None

    def is_in(self, request: Request) -> bool:
        """Return whether the browser that asks has logged in."""
        return self.digest(request.cookies.get(COOKIE, "")) is not None

    def end(self, session: str) -> None:
        """Forget a browser."""
        self._sessions.pop(session, None)
