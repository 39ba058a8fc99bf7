"""Server-sent events: that something of a run is new. What, a reader asks the other addresses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from fastapi import APIRouter, HTTPException
from fastapi.responses import StreamingResponse

from monitor.service.live import LiveRun, LiveRuns
from monitor.service.settings import ServiceSettings

MAX_WATCHERS = 200
"""Connections that stay open at once. Each looks into memory twice a second, and never into the store."""

_LOOK_EVERY_SECONDS = 0.5
# Proxies close what is silent, many after 30 or 60 seconds.
_HEARTBEAT_SECONDS = 15


class Watchers:
    """The open connections.

    Args:
        is_serving: whether the service goes on; when it stops, so do they.
    """

    def __init__(self, settings: ServiceSettings, live: LiveRuns, is_serving: Callable[[], bool]) -> None:
        self._settings = settings
        self._live = live
        self._is_serving = is_serving
        self._open = 0

    def answer(self, run_id: str) -> StreamingResponse:
        """Return the events of a run.

        Raises:
            HTTPException: too many are open already.
        """
        if self._open >= MAX_WATCHERS:
            raise HTTPException(
                503, f"{MAX_WATCHERS} pages are watching already; close some, or read again without events"
            )
        # Proxies are not to wait until there is more.
        headers = {"X-Accel-Buffering": "no"}
        return StreamingResponse(self._events(run_id), headers=headers, media_type="text/event-stream")

    async def _events(self, run_id: str) -> AsyncIterator[str]:
        self._open += 1
        try:
            known, said_at = "", time.monotonic()
            while self._is_serving() and (run := self._live.get(run_id)) is not None:
                if (version := self._version(run)) != known:
                    known, said_at = version, time.monotonic()
                    yield f"data: {version}\n\n"
                elif time.monotonic() - said_at > _HEARTBEAT_SECONDS:
                    said_at = time.monotonic()
                    yield ": still here\n\n"
                await asyncio.sleep(_LOOK_EVERY_SECONDS)
        finally:
            self._open -= 1

    def _version(self, run: LiveRun) -> str:
        # A run becomes stalled or lost without anything that arrives.
        return f"{run.version} {run.state(time.time(), self._settings)}"


def add_events(router: APIRouter, watchers: Watchers, find: Callable[[str], LiveRun]) -> None:
    """Add the events of each run to the interface."""

    # Not in the schema, whose readers expect answers that end.
    @router.get("/runs/{run_id}/events", include_in_schema=False)
    async def events(run_id: str) -> StreamingResponse:
        """Say each time that a run has something new, in its data a version that changes with it."""
        return watchers.answer(find(run_id).run_id)
