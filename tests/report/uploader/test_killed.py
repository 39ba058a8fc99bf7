"""What an uploader that is killed had sent: the service has it, and nobody counts it as lost."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing, suppress
from pathlib import Path

import pytest

from monitor.report.spool.attempt import AttemptKey
from monitor.report.spool.items import Spool
from monitor.report.uploader.delivery import Delivery, ReportStream
from monitor.report.uploader.tries import Uploader
from tests.eventually import eventually
from tests.service.messages import finished, logged, new_run_id, registration
from tests.service.running import Client

SENT, LAST = 20, 150


async def _deaf(_: Delivery, __: ReportStream) -> None:
    """As where it dies before it has read an answer."""
    await asyncio.Event().wait()


def _append(spool: Spool, key: AttemptKey, first: int, last: int) -> None:
    for number in range(first, last + 1):
        item = logged(number, **{f"{'m' * 100}{each}": 1.0 for each in range(20)})
        spool.append(key, [(number, item.SerializeToString())])


def _stored(client: Client, run_id: str) -> list[int]:
    return sorted(each.item.sequence for each in client.history(run_id))


async def _send_and_be_killed(spool: Spool, key: AttemptKey, client: Client) -> None:
    uploader = Uploader(spool.directory, client.listening.grpc_address, parent=os.getppid())
    task = asyncio.create_task(uploader.run())
    await asyncio.to_thread(eventually, lambda: len(_stored(client, key.run_id)) == SENT)
    # Until it is killed, nothing of this is sent: the loop is here.
    _append(spool, key, SENT + 1, LAST)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def test_what_left_the_full_spool_on_its_way_and_was_stored_is_not_dropped(
    client: Client, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = AttemptKey(new_run_id(), 1)
    client.register(registration(key.run_id))
    with closing(Spool(directory, max_bytes=200_000)) as spool:
        spool.begin(key, registration(key.run_id).SerializeToString())
        _append(spool, key, 1, SENT)
        with monkeypatch.context() as patch:
            patch.setattr(Delivery, "_receive", _deaf)
            asyncio.run(_send_and_be_killed(spool, key, client))
        on_the_way = [number for number, _ in spool.unsent(key, 0, SENT) if number <= SENT]
        assert len(on_the_way) < SENT, "nothing was left out on its way"
        spool.append(key, [(LAST + 1, finished(LAST + 1).SerializeToString())], finished=True)
        assert asyncio.run(Uploader(directory, client.listening.grpc_address).run()) == []
        dropped = spool.attempt(key).dropped
    stored = _stored(client, key.run_id)
    assert stored[:SENT] == [*range(1, SENT + 1)]
    assert dropped == LAST + 1 - len(stored) == client.metric("run_dropped_items", run=key.run_id) > 0
    assert not [*directory.glob("on-the-way-*")]
