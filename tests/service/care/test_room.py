"""A file shrinks behind what was removed from it, in steps that nobody waits for, also on a full disk."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monitor.service.care.commands import store_commands
from monitor.service.care.retention import Retention
from monitor.service.errors import StoreError
from monitor.service.metrics.instruments import Instruments
from monitor.service.recording.recorder import Recorder
from monitor.service.storage.store import Store
from monitor.service.storage.stored import START, StoredItem
from tests.mounts import fill, small_disk
from tests.service.messages import finished, logged, observed, registration
from tests.service.running import service_in_thread, settings_for
from tests.service.storing import add, record

DAY = 24 * 3600.0
_LARGE = {f"metric {n} {'x' * 200}": 1.0 for n in range(50)}
_PAGE = 4096


def _fill(path: Path, logs: int = 150) -> None:
    """A large run that ended long ago, and a small one of now."""
    store = Store(f"sqlite:///{path}")
    now = time.time()
    for run_id, count, heard_at in (("old", logs, now - 40 * DAY), ("new", 5, now)):
        store.register(registration(run_id), heard_at, max_runs=10)
        items = [observed(1), *(logged(number, **_LARGE) for number in range(2, count + 2)), finished(count + 2)]
        add(store, run_id, 1, items, None, heard_at)
    store.close()


def _sweep(path: Path) -> None:
    async def main() -> None:
        settings, instruments = settings_for(path, retain_days=30), Instruments()
        recorder = Recorder(settings, instruments)
        try:
            await Retention(settings, recorder, instruments).sweep()
        finally:
            await recorder.close()

    asyncio.run(asyncio.wait_for(main(), timeout=120))


def _asked(path: Path, *statements: str) -> list[object]:
    with closing(sqlite3.connect(path)) as connection:
        return [connection.execute(statement).fetchone()[0] for statement in statements]


def _history(store: Store) -> list[StoredItem]:
    return store.history("new", START, 100)


def _read(path: Path) -> list[StoredItem]:
    store = Store(f"sqlite:///{path}")
    try:
        return _history(store)
    finally:
        store.close()


def test_the_file_shrinks_behind_what_retention_deleted(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    _fill(path)
    before, held = path.stat().st_size, _read(path)
    _sweep(path)
    assert path.stat().st_size < before / 2
    assert _asked(path, "PRAGMA integrity_check", "PRAGMA auto_vacuum") == ["ok", 2]
    assert _read(path) == held


def test_it_shrinks_in_steps_and_acknowledgements_come_in_between(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    _fill(path)
    store = Store(f"sqlite:///{path}")
    store.delete("old", time.time())
    while store.delete_more("old").rows:
        pass
    store.register(registration("third"), time.time(), max_runs=10)
    sizes = [path.stat().st_size]
    while store.give_back():
        # In the file already: to this process it would seem truncated, did another one do that later.
        sizes.append(path.stat().st_size)
        add(store, "third", 1, [observed(len(sizes))], None, time.time())
    store.close()
    cut = [(larger - smaller) // _PAGE for larger, smaller in itertools.pairwise(sizes)]
    assert len(cut) > 1
    # With pages that say where others are.
    assert 100 < max(cut) <= 510


def test_another_process_may_write_the_shrunken_file_back(tmp_path: Path) -> None:
    """It seems truncated then, which it is not."""
    path = tmp_path / "store.db"
    _fill(path)
    store = Store(f"sqlite:///{path}")
    store.delete("old", time.time())
    while store.delete_more("old").rows:
        pass
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM items").fetchone()
        before = path.stat().st_size
        assert store.give_back()
        assert path.stat().st_size == before
    _asked(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    assert path.stat().st_size < before
    add(store, "new", 1, [logged(100, step=100, loss=1.0)], None, time.time())
    assert len(_history(store)) == 8
    store.close()


def test_an_older_file_keeps_its_size_until_it_is_compacted(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    url = f"sqlite:///{path}"
    _fill(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA auto_vacuum = NONE")
        connection.execute("VACUUM")
    before, held = path.stat().st_size, _read(path)
    _sweep(path)
    assert path.stat().st_size == before
    with service_in_thread(path):
        refused = CliRunner().invoke(store_commands, ["compact", "--store-url", url])
    assert "stop that service for this" in str(refused.exception) + refused.output
    done = CliRunner().invoke(store_commands, ["compact", "--store-url", url])
    assert done.exit_code == 0
    assert done.output.startswith(f"the file had {before / 1e6:.1f} MB and has ")
    assert path.stat().st_size < before / 2
    assert _asked(path, "PRAGMA integrity_check", "PRAGMA auto_vacuum") == ["ok", 2]
    assert _read(path) == held


def test_retention_makes_room_on_a_disk_that_became_full(tmp_path: Path) -> None:
    async def use(path: Path) -> None:
        settings, instruments = settings_for(path, retain_days=1e-9), Instruments()
        recorder = Recorder(settings, instruments)
        try:
            for run_id in ("old", "new"):
                await recorder.register(registration(run_id))
            old, new = recorder.open("old", 1), recorder.open("new", 1)
            await record(recorder, old, [*(logged(number, **_LARGE) for number in range(1, 200)), finished(200)])
            fill(path.parent)
            with pytest.raises(StoreError, match="its disk is full: make room there"):
                await record(recorder, new, [logged(number, **_LARGE) for number in range(1, 500)])
            await Retention(settings, recorder, instruments).sweep()
            await record(recorder, new, [logged(number, **_LARGE) for number in range(1, 50)])
            assert [run.run_id for run in recorder.live.all()] == ["new"]
        finally:
            await recorder.close()

    with small_disk(tmp_path / "disk", size="24m") as disk:
        asyncio.run(asyncio.wait_for(use(disk / "store.db"), timeout=120))


@pytest.mark.parametrize("url", ["sqlite:///nothing.db", "postgresql://u:p@nowhere/db"])
def test_what_cannot_be_compacted_is_said(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(store_commands, ["compact", "--store-url", url])
    assert done.exit_code == 1
    assert ("there is no store at" in done.output) or ("VACUUM FULL" in done.output)
    assert list(tmp_path.iterdir()) == []
