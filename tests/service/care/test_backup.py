"""A copy of the store: consistent while the service takes more, one file, and nothing half-written under its name."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from monitor.service.care.backup import back_up_to
from monitor.service.care.commands import store_commands
from monitor.service.errors import ForeignStoreError, StoreError
from monitor.service.storage.store import Store
from monitor.service.storage.stored import START
from monitor.wire import monitor_pb2 as pb
from tests.mounts import small_disk
from tests.service.messages import observed, opening, registration
from tests.service.running import OpenStream, service_in_thread
from tests.service.storing import add

NOW = 1.75e9


def _filled(path: Path, items: int = 3) -> str:
    url = f"sqlite:///{path}"
    store = Store(url)
    store.register(registration(), NOW, max_runs=10)
    add(store, "run", 1, [observed(n) for n in range(1, items + 1)], None, NOW)
    store.close()
    return url


def test_what_is_acknowledged_is_in_the_copy_and_nothing_by_halves(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with service_in_thread(path) as client:
        client.register(registration())
        stream = OpenStream(client)
        stream.send(opening("run"))
        acknowledged = stream.exchange(pb.ReportRequest(item=observed(1))).acknowledgement.sequence
        for copy in range(5):
            stream.send(*(pb.ReportRequest(item=observed(2 + 100 * copy + n)) for n in range(100)))
            back_up_to(f"sqlite:///{path}", tmp_path / f"copy-{copy}")
            with closing(sqlite3.connect(tmp_path / f"copy-{copy}")) as connection:
                stored = [row[0] for row in connection.execute("SELECT sequence FROM items ORDER BY sequence")]
                indexed = [row[0] for row in connection.execute("SELECT sequence FROM totals ORDER BY sequence")]
            assert stored == indexed == list(range(1, len(stored) + 1))
            assert len(stored) >= acknowledged
            while acknowledged < 101 + 100 * copy:
                acknowledged = stream.answer().acknowledgement.sequence
        stream.end()
        assert client.metric("store_errors_total") == 0


def test_a_copy_is_one_file_that_a_service_goes_on_with(tmp_path: Path) -> None:
    url = _filled(tmp_path / "store.db")
    (tmp_path / "store.db").chmod(0o600)
    before = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / "backups").mkdir()
    done = back_up_to(url, tmp_path / "backups")
    assert (done.runs, done.items) == (1, 3)
    assert list((tmp_path / "backups").iterdir()) == [done.path]
    assert stat.S_IMODE(done.path.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backups", *before]
    store = Store(f"sqlite:///{done.path}")
    assert [each.position.step for each in store.history("run", START, 10)] == [1, 2, 3]
    assert add(store, "run", 1, [observed(4)], None, NOW) == {4}
    store.close()


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    url = _filled(tmp_path / "store.db")
    (tmp_path / "copy").write_text("mine")
    with pytest.raises(StoreError, match=r"copy is there already. Nothing was copied"):
        back_up_to(url, tmp_path / "copy")
    with pytest.raises(StoreError, match="is there already"):
        back_up_to(url, tmp_path / "store.db")
    assert (tmp_path / "copy").read_text() == "mine"


def test_what_is_no_store_is_not_copied(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store at"):
        back_up_to(f"sqlite:///{tmp_path}/nothing", tmp_path / "copy")
    with closing(sqlite3.connect(tmp_path / "other")) as connection:
        connection.execute("CREATE TABLE mine (number)")
    with pytest.raises(ForeignStoreError, match="another program, with the tables mine"):
        back_up_to(f"sqlite:///{tmp_path}/other", tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


def test_a_damaged_store_leaves_no_copy_that_looks_whole(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    url = _filled(path, items=200)
    with closing(sqlite3.connect(path)) as connection:
        # The pages of the index belong to nothing then: every query still answers.
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("DELETE FROM sqlite_master WHERE name = 'items_by_kind'")
        connection.commit()
    with pytest.raises(StoreError, match=r"is damaged, and no copy of it was left: .*never used"):
        back_up_to(url, tmp_path / "copy")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["store.db"]


def test_on_a_full_disk_nothing_is_left(tmp_path: Path) -> None:
    url = _filled(tmp_path / "store.db", items=1000)
    with small_disk(tmp_path / "small", size="40k") as small:
        with pytest.raises(StoreError, match=r"cannot be copied.*Nothing was left there"):
            back_up_to(url, small / "copy")
        assert list(small.iterdir()) == []


def test_of_a_database_server_its_own_command_is_named_without_the_password(tmp_path: Path) -> None:
    url = "postgresql://me:s3cret@host/runs"
    found = CliRunner().invoke(store_commands, ["backup", str(tmp_path / "a b"), "--store-url", url])
    assert found.exit_code == 1
    assert f"pg_dump --format=custom --file='{tmp_path}/a b' 'postgresql://me:***@host/runs'" in found.output


def test_the_command_says_what_it_copied_and_names_a_wrong_url(tmp_path: Path) -> None:
    url = _filled(tmp_path / "store.db")
    run = CliRunner().invoke
    said = run(store_commands, ["backup", str(tmp_path / "copy"), "--store-url", url]).output
    size = (tmp_path / "copy").stat().st_size
    assert said == f"{tmp_path}/copy: 1 run, 3 items, {size} bytes, read again and whole\n"
    wrong = run(store_commands, ["backup", str(tmp_path / "copy"), "--store-url", "mysql://x"])
    assert "--store-url: 'mysql://x' was given; expected sqlite:///FILE" in wrong.output
