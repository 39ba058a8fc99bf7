"""The file of the store is deleted, moved, replaced or damaged while it is served.

What is acknowledged has to be in the file that the next process finds under the name.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest
from sqlalchemy import Engine, event

from monitor.service.access import gate
from monitor.service.storage.store import Store
from monitor.service.storage.stored import START
from monitor.wire import monitor_pb2 as pb
from tests.removal import remove_in_use
from tests.service.messages import observed, registration
from tests.service.running import Client, service_in_thread

Deed = Callable[[Path], object]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    directory = tmp_path / "kept"
    directory.mkdir()
    return directory / "store.db"


@pytest.fixture(autouse=True)
def looked_at_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens to the file, the service looks for tokens in the middle of it."""
    monkeypatch.setattr(gate, "_REFRESH_SECONDS", 0.02)


@pytest.fixture
def client(store: Path) -> Iterator[Client]:
    """A client of a service whose store holds two acknowledged observations."""
    with service_in_thread(store) as client:
        client.register(registration())
        client.send("run", [observed(1), observed(2)])
        yield client


def _beside(store: Path, *suffixes: str) -> list[Path]:
    return [store.with_name(store.name + suffix) for suffix in suffixes]


def _delete(*suffixes: str) -> Deed:
    return lambda store: [path.unlink() for path in _beside(store, *suffixes)]


def _move(*suffixes: str) -> Deed:
    def move(store: Path) -> None:
        elsewhere = store.parent.parent / "elsewhere"
        elsewhere.mkdir()
        for path in _beside(store, *suffixes):
            path.rename(elsewhere / path.name)

    return move


def _found_by_the_next_process(store: Path, tmp_path: Path) -> list[int]:
    """The numbers of what would be there if the service were killed now."""
    copy = tmp_path / "copy"
    copy.mkdir()
    present = [path for path in _beside(store, "", "-wal") if path.exists()]
    # By another process: one that closes a file gives up all its locks on it.
    subprocess.run(["cp", *present, copy], check=True)
    found = Store(f"sqlite:///{copy / store.name}")
    try:
        return [stored.position.sequence for stored in found.history("run", START, 100)]
    finally:
        found.close()


def _reason_for_refusing(client: Client) -> str:
    with pytest.raises(grpc.RpcError) as refused:
        client.send("run", [observed(3)])
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    ready = client.http.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["detail"] == refused.value.details()
    assert client.http.get("/healthz").status_code == 200
    assert client.metric("run_step", run="run") == 2
    return str(refused.value.details())


def _goes_on_whole(client: Client, store: Path, tmp_path: Path) -> None:
    assert client.http.get("/readyz").status_code == 200
    assert client.send("run", [observed(3)])[-1].acknowledgement.sequence == 3
    assert client.metric("run_step", run="run") == 3
    assert client.metric("run_observations", run="run") == 3
    assert client.http.get("/api/runs/run").json()["step"] == 3
    assert _found_by_the_next_process(store, tmp_path) == [1, 2, 3]


@pytest.mark.parametrize(
    "deed",
    [
        pytest.param(_delete(""), id="file deleted"),
        pytest.param(_delete("", "-wal", "-shm"), id="all deleted"),
        pytest.param(_delete("-wal"), id="log deleted"),
        pytest.param(_delete("-shm"), id="index deleted"),
        pytest.param(_delete("-wal", "-shm"), id="log and index deleted"),
        pytest.param(_delete(".lock"), id="lock deleted"),
        pytest.param(_delete("", "-wal", "-shm", ".lock"), id="directory emptied"),
        pytest.param(_move(""), id="file moved"),
        pytest.param(_move("", "-wal", "-shm"), id="all moved"),
    ],
)
@pytest.mark.parametrize("found_by", ["a sender", "a probe"])
def test_what_lost_its_name_is_written_there_again(
    deed: Deed, found_by: str, client: Client, store: Path, tmp_path: Path
) -> None:
    deed(store)
    if found_by == "a probe":
        assert client.http.get("/readyz").status_code == 200
        assert _found_by_the_next_process(store, tmp_path) == [1, 2]
        shutil.rmtree(tmp_path / "copy")
    assert client.send("run", [observed(3)])[-1].acknowledgement.sequence == 3
    _goes_on_whole(client, store, tmp_path)
    assert sorted(path.name for path in store.parent.iterdir()) == [
        "store.db",
        "store.db-shm",
        "store.db-wal",
        "store.db.lock",
    ]


def test_what_is_deleted_again_and_again_is_written_again_each_time(
    client: Client, store: Path, tmp_path: Path
) -> None:
    for sequence in (3, 4, 5):
        store.unlink()
        assert client.send("run", [observed(sequence)])[-1].acknowledgement.sequence == sequence
    assert _found_by_the_next_process(store, tmp_path) == [1, 2, 3, 4, 5]


def test_what_was_written_again_keeps_who_may_read_it(client: Client, store: Path) -> None:
    store.chmod(0o600)
    store.unlink()
    client.send("run", [observed(3)])
    assert store.stat().st_mode & 0o777 == 0o644, "as it was when it was opened"


def test_a_symbolic_link_that_leads_nowhere_leads_to_the_store_again(tmp_path: Path, store: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(store)
    with service_in_thread(link) as client:
        client.register(registration())
        client.send("run", [observed(1), observed(2)])
        store.unlink()
        client.send("run", [observed(3)])
        assert link.is_symlink()
        _goes_on_whole(client, store, tmp_path)


def _remove_directory(store: Path) -> None:
    remove_in_use(store.parent)


def _move_directory(store: Path) -> None:
    store.parent.rename(store.parent.parent / "moved")


@pytest.mark.parametrize("deed", [_remove_directory, _move_directory])
def test_without_its_directory_nothing_is_taken_until_it_is_there_again(
    deed: Deed, client: Client, store: Path, tmp_path: Path
) -> None:
    deed(store)
    assert "the directory of the store" in (reason := _reason_for_refusing(client))
    assert "make the directory again" in reason
    assert not store.parent.exists()
    store.parent.mkdir()
    _goes_on_whole(client, store, tmp_path)


def _another_store(tmp_path: Path) -> Path:
    path = tmp_path / "another.db"
    another = Store(f"sqlite:///{path}")
    another.register(registration("other"), 0, max_runs=9)
    another.close()
    return path


def _another_text(tmp_path: Path) -> Path:
    path = tmp_path / "another.txt"
    path.write_text("of somebody else")
    return path


def _an_empty_file(tmp_path: Path) -> Path:
    path = tmp_path / "empty"
    path.touch()
    return path


def _a_directory(tmp_path: Path) -> Path:
    path = tmp_path / "another"
    path.mkdir()
    return path


@pytest.mark.parametrize("make", [_another_store, _another_text, _an_empty_file, _a_directory])
def test_into_what_took_the_name_nothing_is_written(
    make: Callable[[Path], Path], client: Client, store: Path, tmp_path: Path
) -> None:
    impostor = make(tmp_path)
    before = impostor.read_bytes() if impostor.is_file() else b""
    store.unlink()
    impostor.rename(store)
    reason = _reason_for_refusing(client)
    assert "is another file than the one that was opened" in reason
    assert "Restart the service" in reason
    assert "move that away" in reason
    assert (store.read_bytes() if store.is_file() else b"") == before
    assert not store.with_name("store.db-wal").exists(), "whoever opens the file would write it into that"
    store.rename(tmp_path / "away")
    _goes_on_whole(client, store, tmp_path)


def test_what_was_served_is_left_beside_what_took_its_name(store: Path, tmp_path: Path) -> None:
    with service_in_thread(store) as client:
        client.register(registration())
        client.send("run", [observed(1), observed(2)])
        store.unlink()
        _another_store(tmp_path).rename(store)
    (saved,) = [path for path in store.parent.iterdir() if path.name.startswith("store.db.saved-")]
    assert _found_by_the_next_process(saved, tmp_path) == [1, 2]
    there = Store(f"sqlite:///{store}")
    assert there.run_ids() == ["other"]
    there.close()


def test_what_was_moved_away_and_back_goes_on(client: Client, store: Path, tmp_path: Path) -> None:
    store.rename(tmp_path / "own.db")
    _another_store(tmp_path).rename(store)
    _reason_for_refusing(client)
    (tmp_path / "own.db").rename(store)
    _goes_on_whole(client, store, tmp_path)


@contextmanager
def _at_the_next_commit(deed: Callable[[], object]) -> Iterator[None]:
    """Do something once, after what the service makes sure of before a change."""
    left = [deed]

    def commit(_connection: object) -> None:
        if left:
            left.pop()()

    event.listen(Engine, "commit", commit)
    try:
        yield
    finally:
        event.remove(Engine, "commit", commit)
    assert not left


def test_what_loses_its_name_while_it_is_written_is_not_lost(client: Client, store: Path, tmp_path: Path) -> None:
    with _at_the_next_commit(store.unlink):
        assert client.send("run", [observed(3)])[-1].acknowledgement.sequence == 3
    _goes_on_whole(client, store, tmp_path)


def test_what_is_replaced_while_it_is_written_is_not_acknowledged_and_not_lost(
    client: Client, store: Path, tmp_path: Path
) -> None:
    another = _another_store(tmp_path)
    with _at_the_next_commit(lambda: another.replace(store)):
        assert "is another file" in _reason_for_refusing(client)
    store.rename(another)
    # It comes again, and is stored already: it counts once, and is shown.
    _goes_on_whole(client, store, tmp_path)


def test_a_symbolic_link_that_is_turned_elsewhere_is_noticed_and_turned_back(tmp_path: Path, store: Path) -> None:
    link, another = tmp_path / "link.db", _another_store(tmp_path)
    link.symlink_to(store)
    with service_in_thread(link) as client:
        client.register(registration())
        client.send("run", [observed(1), observed(2)])
        link.unlink()
        link.symlink_to(another)
        assert "is another file" in _reason_for_refusing(client)
        link.unlink()
        link.symlink_to(store)
        _goes_on_whole(client, store, tmp_path)


def test_a_symbolic_link_that_was_deleted_is_asked_for(tmp_path: Path, store: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(store)
    with service_in_thread(link) as client:
        client.register(registration())
        client.send("run", [observed(1), observed(2)])
        link.unlink()
        assert f"which is at {store}" in _reason_for_refusing(client)
        link.symlink_to(store)
        _goes_on_whole(client, store, tmp_path)


def test_what_was_deleted_is_there_again_when_the_service_ends(tmp_path: Path, store: Path) -> None:
    with service_in_thread(store) as client:
        client.register(registration())
        client.send("run", [observed(1), observed(2)])
        store.unlink()
    assert _found_by_the_next_process(store, tmp_path) == [1, 2]


def _truncate(store: Path) -> None:
    subprocess.run(["truncate", "-s", "0", store], check=True)


def _truncate_and_take_away_the_log(store: Path) -> None:
    _truncate(store)
    subprocess.run(["rm", f"{store}-wal", f"{store}-shm"], check=True)


def _cut_off(store: Path) -> None:
    subprocess.run(["truncate", "-s", "5000", store], check=True)


def _overwrite_with_text(store: Path) -> None:
    subprocess.run(["sh", "-c", f"yes text | head -c 200000 > {store}"], check=True)


def _overwrite_with_another_store(store: Path) -> None:
    subprocess.run(["cp", _another_store(store.parent.parent), store], check=True)


@pytest.mark.parametrize(
    "deed",
    [_truncate, _truncate_and_take_away_the_log, _cut_off, _overwrite_with_text, _overwrite_with_another_store],
)
def test_of_what_was_damaged_the_loss_is_said_and_nothing_is_taken(
    deed: Deed, client: Client, store: Path, tmp_path: Path
) -> None:
    # Some of it is in the database, not only in its log.
    _checkpoint(store)
    assert client.http.get("/readyz").status_code == 200
    deed(store)
    reason = _reason_for_refusing(client)
    assert "overwritten or truncated" in reason
    assert "what was in it is lost" in reason
    assert "put a backup there or remove the file" in reason
    # Nothing makes it whole again but a restart.
    assert _reason_for_refusing(client) == reason


_CHECKPOINT = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchall()"


def _checkpoint(store: Path) -> None:
    subprocess.run(["python3", "-c", _CHECKPOINT, store], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs to mount a file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_what_cannot_be_written_again_on_a_full_disk_is_when_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    store, filling = small_disk / "store.db", small_disk / "filling"
    with service_in_thread(store) as client:
        client.register(registration())
        client.send("run", [observed(1), observed(2)])
        # Nothing is left in the log, which would make room.
        _checkpoint(store)
        assert client.http.get("/readyz").status_code == 200
        store.unlink()
        filled = subprocess.run(["dd", "if=/dev/zero", f"of={filling}", "bs=512"], check=False, capture_output=True)
        assert b"No space left" in filled.stderr
        assert "cannot be written again" in _reason_for_refusing(client)
        assert sorted(path.name for path in small_disk.iterdir()) == [
            "filling",
            "store.db-shm",
            "store.db-wal",
            "store.db.lock",
        ]
        filling.unlink()
        _goes_on_whole(client, store, tmp_path)


def test_programs_that_read_the_store_or_write_back_its_log_disturb_nothing(
    client: Client, store: Path, tmp_path: Path
) -> None:
    for sequence in (3, 4):
        _checkpoint(store)
        assert client.send("run", [observed(sequence)])[-1].acknowledgement.sequence == sequence
    assert client.http.get("/readyz").status_code == 200
    assert _found_by_the_next_process(store, tmp_path) == [1, 2, 3, 4]


def test_a_table_that_was_taken_away_is_named(client: Client, store: Path) -> None:
    with closing(sqlite3.connect(store)) as other:
        other.execute("ALTER TABLE items RENAME TO gone")
        assert "no such table: items" in _reason_for_refusing(client)
        other.execute("ALTER TABLE gone RENAME TO items")
    assert client.http.get("/readyz").status_code == 200


def test_a_run_that_was_taken_away_is_named(client: Client, store: Path) -> None:
    with closing(sqlite3.connect(store)) as other:
        other.execute("DELETE FROM items")
        other.execute("DELETE FROM attempts")
        other.commit()
    with pytest.raises(grpc.RpcError, match=r"taken out of the store .* restart the service"):
        client.send("run", [observed(3)])
    with pytest.raises(grpc.RpcError, match="taken out of the store"):
        client.report([pb.ReportRequest(open=pb.Open(run_id="run", attempt=1)), pb.ReportRequest(heartbeat={})])
