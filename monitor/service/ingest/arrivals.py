"""The requests of one stream, read ahead while the ones before are being stored."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from monitor.service.ingest.budget import Budget
from monitor.wire.monitor_pb2 import ReportRequest


class Arrivals:
    """Groups what has already arrived, so that a sender that catches up costs few transactions."""

    def __init__(
        self, requests: AsyncIterator[ReportRequest], limit: int, budget: Budget, stopping: asyncio.Future[None]
    ) -> None:
        """Read from `requests`, about `limit` items ahead, until they end or `stopping` is done.

        Args:
            budget: what comes takes room of it, until it is `stored`.
        """
        self._requests = requests
        self._limit = limit
        self._budget = budget
        # Bytes of what was read ahead, and of each batch that is not stored.
        self._sizes_ahead: deque[int] = deque()
        self._sizes: deque[int] = deque()
        self._stopping = stopping
        self._ahead: deque[ReportRequest] = deque()
        self._items_ahead = 0
        self._room = asyncio.Event()
        self._room.set()
        # Something is there, or nothing more will be.
        self._arrived = asyncio.Event()
        self._failed = False

    async def __aenter__(self) -> Self:
        self._stopping.add_done_callback(self._stop)
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.remove_done_callback(self._stop)
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self._budget.give_back(sum(self._sizes) + sum(self._sizes_ahead))

    async def next(self) -> list[ReportRequest]:
        """Wait for one request, and return it with those that are there already; none when there are no more.

        Together they have `limit` items, and those besides that the last of them has. A request that opens a stream is
        the last of those it comes with.

        Raises:
            Exception: what reading the requests raised.
        """
        await self._arrived.wait()
        if self._stopping.done() or self._failed:
            # What was read ahead may be dropped: it is not acknowledged, so the sender sends it again.
            return []
        batch = self._taken()
        if not batch:
            await self._reader
        elif not self._ahead and not self._reader.done():
            self._arrived.clear()
        return batch

    def stored(self) -> None:
        """Make room for other requests than those of the oldest batch that was returned, once for each."""
        self._budget.give_back(self._sizes.popleft())

    def end_if_failed(self, storing: asyncio.Future[None]) -> None:
        """Wait for nothing more where something that came could not be stored."""
        if not storing.cancelled() and storing.exception() is not None:
            self._failed = True
            self._arrived.set()

    def _taken(self) -> list[ReportRequest]:
        batch: list[ReportRequest] = []
        room = self._limit
        while self._ahead and room > 0:
            request = self._ahead.popleft()
            batch.append(request)
            room -= _weight(request)
            self._items_ahead -= _weight(request)
            if request.HasField("open"):
                break
        if batch:
            self._sizes.append(sum(self._sizes_ahead.popleft() for _ in batch))
        if self._items_ahead < self._limit:
            self._room.set()
        return batch

    async def _read(self) -> None:
        try:
            async for request in self._requests:
                size = _size(request)
                await self._budget.take(size)
                self._sizes_ahead.append(size)
                self._ahead.append(request)
                self._items_ahead += _weight(request)
                self._arrived.set()
                if self._items_ahead >= self._limit:
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._arrived.set()

    def _stop(self, _stopping: asyncio.Future[None]) -> None:
        self._arrived.set()


def _size(request: ReportRequest) -> int:
    """Return about how many bytes a request has; of what brings many items it would take long to count them all."""
    if contents := request.items.items:
        return sum(map(len, contents))
    return request.ByteSize()


def _weight(request: ReportRequest) -> int:
    return max(1, len(request.items.items))
