"""A store on a network file system is named at the start; one on a local disk is not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from monitor.service.care.backup import back_up_to
from monitor.service.storage.sqlite_file import network
from monitor.service.storage.sqlite_file.network import network_file_system
from monitor.service.storage.store import Store
from monitor.service.storage.stored import START
from tests.service.messages import observed, registration
from tests.service.storing import add

NOW = 1.75e9
_TABLE = """\
overlay / overlay rw 0 0
host:/home /home nfs4 rw,vers=4.2 0 0
/dev/sda1 /home/scratch ext4 rw 0 0
//server/share /mnt/two\\040words cifs rw 0 0
me@host: /mnt/ssh fuse.sshfs rw 0 0
/dev/sdb1 /mnt/hidden ext4 rw 0 0
host:/x /mnt/hidden nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/store.db", "nfs4"),
        ("/home/scratch/store.db", None),
        ("/homes/store.db", None),
        ("/mnt/two words/store.db", "cifs"),
        ("/mnt/ssh/store.db", "fuse.sshfs"),
        ("/mnt/hidden/store.db", "nfs"),
        ("/var/lib/store.db", None),
    ],
)
def test_the_innermost_and_last_mount_counts(path: str, kind: str | None) -> None:
    assert network_file_system(Path(path), _TABLE) == kind


@pytest.mark.parametrize(("kind", "warnings"), [("nfs4", 1), ("ext4", 0)])
def test_it_is_said_at_the_start(
    kind: str, warnings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mounts").write_text(f"host:/x {tmp_path} {kind} rw 0 0\n")
    monkeypatch.setattr(network, "_MOUNTS", tmp_path / "mounts")
    Store(f"sqlite:///{tmp_path}/store.db").close()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == warnings
    assert all(f"{tmp_path}/store.db is on a network file system (nfs4)" in each for each in said)


def _journal(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


def test_there_it_is_kept_without_a_log_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, mounts = tmp_path / "store.db", tmp_path / "mounts"
    monkeypatch.setattr(network, "_MOUNTS", mounts)
    mounts.write_text(f"disk {tmp_path} ext4 rw 0 0\n")
    store = Store(f"sqlite:///{path}")
    store.register(registration(), NOW, max_runs=10)
    store.close()
    assert _journal(path) == "wal"
    mounts.write_text(f"host:/x {tmp_path} nfs4 rw 0 0\n")
    store = Store(f"sqlite:///{path}")
    add(store, "run", 1, [observed(1)], None, NOW)
    assert back_up_to(f"sqlite:///{path}", tmp_path / "copy.db").items == 1
    path.unlink()
    add(store, "run", 1, [observed(2)], None, NOW)
    assert sorted(each.name for each in tmp_path.glob("store.db*")) == ["store.db", "store.db.lock"]
    store.close()
    assert _journal(path) == "delete"
    mounts.write_text("")
    store = Store(f"sqlite:///{path}")
    assert [each.position.step for each in store.history("run", START, 10)] == [1, 2]
    store.close()
    assert _journal(path) == "wal"


def test_directories_of_any_name_may_be_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mounts").write_bytes(b"/dev/sdc1 /mnt/caf\xe9 ext4 rw 0 0\n/dev/sdd1 /mnt/page\x0cbreak ext4 rw 0 0\n")
    monkeypatch.setattr(network, "_MOUNTS", tmp_path / "mounts")
    Store(f"sqlite:///{tmp_path}/store.db").close()


def test_a_system_that_does_not_tell_is_taken_at_its_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_MOUNTS", tmp_path / "nothing")
    Store(f"sqlite:///{tmp_path}/store.db").close()
