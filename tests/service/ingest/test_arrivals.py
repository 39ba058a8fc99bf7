from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import pytest

from monitor.service.ingest.arrivals import Arrivals
from monitor.service.ingest.budget import Budget
from monitor.wire import monitor_pb2 as pb
from tests.service.messages import observed, opening, together


def _item(sequence: int) -> pb.ReportRequest:
    return pb.ReportRequest(item=observed(sequence))


async def _these(requests: Iterable[pb.ReportRequest]) -> AsyncIterator[pb.ReportRequest]:
    for request in requests:
        yield request


def _with_arrivals(
    requests: AsyncIterator[pb.ReportRequest],
    use: Callable[[Arrivals, asyncio.Future[None]], Awaitable[None]],
    limit: int = 3,
    most_bytes: int = 10**6,
) -> None:
    async def main() -> None:
        stopping: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        budget = Budget(most_bytes)
        async with Arrivals(requests, limit, budget, stopping) as arrivals:
            await use(arrivals, stopping)
        # All of it is there again: nothing else would be let in.
        await budget.take(most_bytes)

    asyncio.run(asyncio.wait_for(main(), timeout=60))


def test_what_has_arrived_comes_together_and_in_order() -> None:
    async def use(arrivals: Arrivals, _stopping: asyncio.Future[None]) -> None:
        batches = []
        while batch := await arrivals.next():
            batches.append([request.item.sequence for request in batch])
            # Lets the reader go on, as storing a batch does.
            for _ in range(10):
                await asyncio.sleep(0)
        assert [sequence for batch in batches for sequence in batch] == list(range(1, 9))
        assert max(map(len, batches)) == 3
        assert len(batches) < 8

    _with_arrivals(_these(map(_item, range(1, 9))), use)


def test_no_more_is_read_ahead_than_one_batch() -> None:
    read = []

    async def endless() -> AsyncIterator[pb.ReportRequest]:
        sequence = 0
        while True:
            sequence += 1
            read.append(sequence)
            yield _item(sequence)

    async def use(arrivals: Arrivals, _stopping: asyncio.Future[None]) -> None:
        await arrivals.next()
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(read) < 10

    _with_arrivals(endless(), use)


def test_items_that_come_together_count_as_so_many() -> None:
    read = []

    async def endless() -> AsyncIterator[pb.ReportRequest]:
        sequence = 0
        while True:
            sequence += 1
            read.append(sequence)
            yield together([observed(sequence)] * 2)

    async def use(arrivals: Arrivals, _stopping: asyncio.Future[None]) -> None:
        for batches in range(1, 10):
            # Two requests have the three items at which it stops.
            assert len(await arrivals.next()) <= 2
            for _ in range(100):
                await asyncio.sleep(0)
            assert len(read) <= 2 * batches + 3

    _with_arrivals(endless(), use)


def test_no_more_is_read_than_there_is_room_for_until_what_came_is_stored() -> None:
    read = []
    item = _item(1)

    async def many() -> AsyncIterator[pb.ReportRequest]:
        for sequence in range(1, 100):
            read.append(sequence)
            yield item

    async def use(arrivals: Arrivals, _stopping: asyncio.Future[None]) -> None:
        async def have_read(count: int) -> bool:
            for _ in range(100):
                await asyncio.sleep(0)
            return len(read) == count

        # Four fit, and one waits for room.
        assert await have_read(5)
        assert len(await arrivals.next()) == 4
        assert await have_read(5)
        arrivals.stored()
        assert await have_read(9)
        assert len(await arrivals.next()) == 4

    _with_arrivals(many(), use, limit=50, most_bytes=4 * item.ByteSize())


def test_opening_ends_a_batch() -> None:
    async def use(arrivals: Arrivals, _stopping: asyncio.Future[None]) -> None:
        first = await arrivals.next()
        assert [request.WhichOneof("kind") for request in first] == ["open"]

    _with_arrivals(_these([opening("run"), _item(1)]), use)


def test_stopping_ends_the_wait_for_a_quiet_sender() -> None:
    async def quiet() -> AsyncIterator[pb.ReportRequest]:
        await asyncio.Event().wait()
        yield _item(1)

    async def use(arrivals: Arrivals, stopping: asyncio.Future[None]) -> None:
        asyncio.get_running_loop().call_soon(stopping.set_result, None)
        assert await arrivals.next() == []

    _with_arrivals(quiet(), use)


def test_stopping_ends_a_stream_whose_sender_never_pauses() -> None:
    async def use(arrivals: Arrivals, stopping: asyncio.Future[None]) -> None:
        await arrivals.next()
        for _ in range(10):
            await asyncio.sleep(0)
        stopping.set_result(None)
        assert await arrivals.next() == []

    _with_arrivals(_these(map(_item, range(1, 1000))), use)


def test_a_request_that_cannot_be_read_ends_the_stream_with_its_error() -> None:
    async def broken() -> AsyncIterator[pb.ReportRequest]:
        yield _item(1)
        raise ValueError("no request")

    async def use(arrivals: Arrivals, _stopping: asyncio.Future[None]) -> None:
        assert len(await arrivals.next()) == 1
        with pytest.raises(ValueError, match="no request"):
            await arrivals.next()

    _with_arrivals(broken(), use)
