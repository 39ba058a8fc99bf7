"""Server-sent events: that something of a run, or of any run, is new. What, a reader asks the other addresses."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import StreamingResponse

from monitor.service.live.runs import LiveRun, LiveRuns
from monitor.service.settings import ServiceSettings
from monitor.service.web.negotiation import is_head

MAX_WATCHERS = 200
"""Connections that stay open at once. Each looks into memory twice a second, and never into the store."""

_LOOK_EVERY_SECONDS = 0.5
# Proxies close what is silent, many after 30 or 60 seconds.
_HEARTBEAT_SECONDS = 15
_MEDIA_TYPE = "text/event-stream"
# Proxies are not to wait until there is more.
_HEADERS = {"X-Accel-Buffering": "no"}


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
        self._all = (-math.inf, "")

    def of_run(self, run_id: str) -> str | None:
        """Return what changes with a run, None once it is gone."""
        run = self._live.get(run_id)
        return None if run is None else self._version(run)

    def of_all(self) -> str:
        """Return what changes with any run. There may be thousands: all watchers share one look."""
        looked_at, known = self._all
        now = time.monotonic()
        if now - looked_at >= _LOOK_EVERY_SECONDS:
            versions = [self._version(run) for run in self._live.all()]
            known = f"{len(versions)} {hash(tuple(versions))}"
            self._all = now, known
        return known

    def answer(self, request: Request, version: Callable[[], str | None]) -> Response:
        """Return the events: one with the version now, and one with each version that follows.

        Raises:
            HTTPException: too many are open already.
        """
        # The answer to GET has no end, and there is nothing to wait for.
        if is_head(request.scope):
            return Response(headers=_HEADERS, media_type=_MEDIA_TYPE)
        if self._open >= MAX_WATCHERS:
            raise HTTPException(
                503, f"{MAX_WATCHERS} pages are watching already; close some, or read again without events"
            )
        return StreamingResponse(self._events(version), headers=_HEADERS, media_type=_MEDIA_TYPE)

    async def _events(self, version: Callable[[], str | None]) -> AsyncIterator[str]:
        self._open += 1
        try:
            known, said_at = "", time.monotonic()
            while self._is_serving() and (now := version()) is not None:
                if now != known:
                    known, said_at = now, time.monotonic()
                    yield f"data: {now}\n\n"
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
    """Add the events of each run, and of all, to the interface."""

    # Not in the schema, whose readers expect answers that end.
    @router.get("/runs/{run_id}/events", include_in_schema=False)
    async def events(request: Request, run_id: str) -> Response:
        """Say each time that a run has something new, in its data a version that changes with it."""
        known = find(run_id).run_id
        return watchers.answer(request, lambda: watchers.of_run(known))

    @router.get("/events", include_in_schema=False)
    async def events_of_all(request: Request) -> Response:
        """The same of all runs."""
        return watchers.answer(request, watchers.of_all)
