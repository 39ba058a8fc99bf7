"""A store that is full, read-only or damaged says which; what arrives then is not acknowledged, and comes later."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from monitor.service.errors import StoreError
from monitor.service.metrics.instruments import Instruments
from monitor.service.recording.commits import Outcome
from monitor.service.recording.recorder import Recorder
from monitor.service.storage.remedies import remedy
from monitor.service.storage.store import Store
from monitor.service.storage.stored import START
from tests.mounts import fill, read_only, small_disk
from tests.service.messages import logged, observed, registration
from tests.service.running import service_in_thread, settings_for
from tests.service.storing import record, store_busy

_LARGE = {f"metric {n} {'x' * 200}": 1.0 for n in range(100)}


def test_on_a_full_disk_nothing_is_acknowledged_until_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="2m") as disk, service_in_thread(disk / "store.db") as client:
        client.register(registration())
        client.send("run", [observed(1)])
        fill(disk)
        with pytest.raises(grpc.RpcError) as refused:
            client.send("run", [logged(number, **_LARGE) for number in range(2, 200)])
        assert "disk is full. Nothing of this was stored; its disk is full: make room there" in refused.value.details()
        (disk / "filling").unlink()
        stored = client.register(registration()).last_sequence
        assert client.http.get("/readyz").status_code == 200
        client.send("run", [logged(number, **_LARGE) for number in range(stored + 1, stored + 3)])
        assert [each.item.sequence for each in client.history("run")] == list(range(1, stored + 3))


def test_on_a_full_disk_what_fits_is_stored_whoever_else_brings_too_much(tmp_path: Path) -> None:
    async def use(recorder: Recorder) -> None:
        for run in ("large", "small"):
            await recorder.register(registration(run))
        large, small = recorder.open("large", 1), recorder.open("small", 1)
        batch = [logged(number, **_LARGE) for number in range(1, 200)]
        brought = [record(recorder, large, batch), record(recorder, small, [observed(1)])]
        with store_busy(recorder):
            waiting = asyncio.gather(*brought, return_exceptions=True)
            await asyncio.sleep(0)
        outcomes = await waiting
        assert isinstance(outcomes[0], StoreError)
        assert "its disk is full: make room there" in str(outcomes[0])
        assert outcomes[1] == [Outcome(1)]
        assert await recorder.history("large", START, 10) == []
        assert [each.item.sequence for each in await recorder.history("small", START, 10)] == [1]
        shown = {run.run_id: run.observations for run in recorder.live.all()}
        assert shown == {"large": 0, "small": 1}
        assert await record(recorder, large, batch[:2]) == [Outcome(1), Outcome(2)]

    async def main(path: Path) -> None:
        recorder = Recorder(settings_for(path), Instruments())
        try:
            await use(recorder)
        finally:
            await recorder.close()

    with small_disk(tmp_path / "disk", size="2m") as disk:
        asyncio.run(asyncio.wait_for(main(disk / "store.db"), timeout=60))


def test_an_older_store_that_finds_no_room_to_be_changed_says_so_and_stays(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        path = disk / "store.db"
        Store(f"sqlite:///{path}").close()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TABLE deleted_attempts")
            connection.execute("DROP TABLE thinned_runs")
            connection.execute("UPDATE sparsity_monitor_schema SET version = 2")
            connection.commit()
        fill(disk)
        with pytest.raises(StoreError, match=r"full.*make room"):
            Store(f"sqlite:///{path}")
        (disk / "filling").unlink()
        Store(f"sqlite:///{path}").close()


def test_on_a_file_system_that_is_read_only_the_start_says_so(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    path = tmp_path / "disk" / "store.db"
    Store(f"sqlite:///{path}").close()
    with (
        read_only(tmp_path / "disk"),
        pytest.raises(StoreError, match=r"Read-only file system; it can only be read: .*mount its file system for wri"),
    ):
        Store(f"sqlite:///{path}")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("database or disk is full", "make room"),
        ("could not extend file: No space left on device", "make room"),
        ("attempt to write a readonly database", "it can only be read"),
        ("cannot execute UPDATE in a read-only transaction", "a standby of a database server"),
        ("database disk image is malformed", "put a backup in its place"),
        ("database is locked", "another program"),
        ("disk I/O error", "its disk or file system fails"),
        ('relation "items" does not exist', "another program changed its tables"),
        ("connection refused", "look at the disk"),
    ],
)
def test_each_reason_has_its_remedy(reason: str, said: str) -> None:
    assert said in remedy(reason, "look at the disk")
