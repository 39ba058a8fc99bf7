"""The requests of one stream, read ahead while the ones before are being stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

from monitor.wire.monitor_pb2 import ReportRequest


class Arrivals:
    """Groups what has already arrived, so that a sender that catches up costs few transactions."""

    def __init__(self, requests: AsyncIterator[ReportRequest], limit: int, stopping: asyncio.Future[None]) -> None:
        """Read from `requests`, at most `limit` ahead, until they end or `stopping` is done."""
        self._requests = requests
        self._limit = limit
        self._stopping = stopping
        # None marks the end.
        self._queue: asyncio.Queue[ReportRequest | None] = asyncio.Queue(limit)

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def next(self) -> list[ReportRequest]:
        """Wait for one request, and return it with those that are there already; none when there are no more.

        A request that opens a stream is the last of those it comes with.

        Raises:
            Exception: what reading the requests raised.
        """
        request = await self._wait()
        batch: list[ReportRequest] = []
        while request is not None:
            batch.append(request)
            if len(batch) == self._limit or self._queue.empty() or request.HasField("open"):
                return batch
            request = self._queue.get_nowait()
        if batch:
            self._queue.put_nowait(None)
        return batch

    async def _read(self) -> None:
        try:
            async for request in self._requests:
                await self._queue.put(request)
        except Exception:
            await self._queue.put(None)
            raise
        await self._queue.put(None)

    async def _wait(self) -> ReportRequest | None:
        if self._stopping.done():
            # Requests in the queue may be dropped: they are not acknowledged, so the sender sends them again.
            return None
        waiting = asyncio.create_task(self._queue.get())
        try:
            either: tuple[asyncio.Future[Any], ...] = (waiting, self._stopping)
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                return None
        finally:
            waiting.cancel()
        if (request := waiting.result()) is None:
            await self._reader
        return request
