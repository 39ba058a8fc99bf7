"""A full disk: runs are removed from a store by a process that was not there before, with room that was set aside."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitor.service.care.by_hand import chosen, delete_runs
from monitor.service.care.facts import read
from monitor.service.errors import StoreError
from monitor.service.storage.sqlite_file.reserve import RESERVE_BYTES, keep_reserve, make_room
from monitor.service.storage.store import Store
from tests.eventually import eventually
from tests.mounts import empty, fill, small_disk
from tests.service.messages import finished, logged, observed, registration
from tests.service.running import service_in_thread
from tests.service.storing import add

_LARGE = {f"metric {number} {'x' * 200}": 1.0 for number in range(50)}


def _reserve(database: Path) -> Path:
    return database.with_name(f"{database.name}.reserve")


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A store with a run that ended long ago, on a disk on which there is no room but what was set aside."""
    with small_disk(tmp_path / "disk", size="24m") as disk:
        path = disk / "store.db"
        store, ago = Store(f"sqlite:///{path}"), time.time() - 1e7
        store.register(registration("old"), ago, max_runs=10)
        items = [observed(1), *(logged(number, **_LARGE) for number in range(2, 100)), finished(100)]
        add(store, "old", 1, items, None, ago)
        store.close()
        _reserve(path).write_bytes(bytes(RESERVE_BYTES))
        fill(disk)
        yield path


def test_runs_are_deleted_and_the_disk_has_room(full: Path) -> None:
    url, before = f"sqlite:///{full}", full.stat().st_size
    with pytest.raises(StoreError, match=r"its disk is full: make room there\. 16 MB are enough to remove runs"):
        read(url)
    assert [run.run_id for run in chosen(url, ["old"])] == ["old"]
    delete_runs(url, ["old"])
    assert read(url).runs == []
    assert full.stat().st_size < before
    assert not _reserve(full).exists()


def test_a_service_that_removes_runs_starts_and_does_so(full: Path) -> None:
    with service_in_thread(full, retain_days=1) as client:
        eventually(lambda: client.http.get("/api/runs").json()["runs"] == [])
        # Of what has room again, something is stored.
        client.register(registration("new"))
        assert client.send("new", [observed(1)])
    assert [run.run_id for run in read(f"sqlite:///{full}").runs] == ["new"]


def test_one_that_removes_nothing_leaves_the_room_to_who_does(full: Path) -> None:
    with pytest.raises(StoreError, match="its disk is full"), service_in_thread(full):
        raise AssertionError("it must not start")
    assert _reserve(full).exists()


def test_a_process_that_has_the_store_keeps_what_is_set_aside(full: Path) -> None:
    empty(full.parent)
    with service_in_thread(full):
        fill(full.parent)
        make_room(full)
        assert _reserve(full).exists()
    make_room(full)
    assert not _reserve(full).exists()


def test_room_is_set_aside_beside_a_large_store_on_a_disk_that_has_some(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="200m") as disk:
        database = disk / "store.db"
        with database.open("wb") as file:
            keep_reserve(database)
            assert not _reserve(database).exists(), "a small store is not what fills a disk"
            file.truncate(4 * RESERVE_BYTES)
        free = shutil.disk_usage(disk).free
        keep_reserve(database)
        assert free - shutil.disk_usage(disk).free >= RESERVE_BYTES
        make_room(database)
        assert _reserve(database).exists(), "there is room"
        _reserve(database).unlink()
        (disk / "other").write_bytes(bytes(4 * RESERVE_BYTES))
        keep_reserve(database)
        assert not _reserve(database).exists(), "little is left"
