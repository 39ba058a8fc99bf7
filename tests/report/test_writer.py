from __future__ import annotations

import math
import sqlite3
import threading
from pathlib import Path

import pytest

from monitor.report.spool import DEFAULT_MAX_BYTES, SPOOL_FILE, AttemptKey, Spool
from monitor.report.writer import SpoolWriter
from monitor.wire import monitor_pb2 as pb
from tests.service.running import eventually

KEY = AttemptKey("run", 1)


def item() -> pb.Item:
    return pb.Item(training_log=pb.TrainingLog(step=1))


def broken_item() -> pb.Item:
    raise ValueError("this one cannot be made")


def start(directory: Path, on_commit: object) -> SpoolWriter:
    Spool(directory).begin(KEY, b"registration")
    return SpoolWriter(directory, KEY, DEFAULT_MAX_BYTES, on_commit)


def sequences(directory: Path) -> list[int]:
    return [sequence for sequence, _ in Spool(directory).unsent(KEY, after=0, limit=99)]


def test_trouble_with_the_uploader_loses_no_item(tmp_path: Path) -> None:
    committed = threading.Event()

    def fail(spool: Spool) -> None:
        committed.set()
        raise OSError("no memory for another process")

    writer = start(tmp_path, fail)
    writer.put(item)
    assert committed.wait(60)
    writer.put(item)
    assert writer.close(timeout=60)
    assert sequences(tmp_path) == [1, 2]


def test_an_item_that_cannot_be_made_leaves_a_gap_and_nothing_more(tmp_path: Path) -> None:
    writer = start(tmp_path, lambda spool: None)
    for make_item in (item, broken_item, item):
        writer.put(make_item)
    assert writer.close(timeout=60)
    assert sequences(tmp_path) == [1, 3]
    assert Spool(tmp_path).attempt(KEY).dropped == 1


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sqlite3.Connection:
    """A connection that keeps everybody else from writing to the spool, as a disk without space does."""
    monkeypatch.setattr("monitor.report.spool._BUSY_SECONDS", 0.01)
    Spool(tmp_path).begin(KEY, b"registration")
    connection = sqlite3.connect(tmp_path / SPOOL_FILE, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


def test_a_spool_that_cannot_be_opened_for_a_while_loses_no_item(
    tmp_path: Path, locked: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    writer = SpoolWriter(tmp_path, KEY, DEFAULT_MAX_BYTES, lambda spool: None)
    writer.put(item)
    eventually(lambda: "trying again" in caplog.text)
    locked.close()
    assert writer.close(timeout=60)
    assert sequences(tmp_path) == [1]


def test_a_spool_that_cannot_be_written_at_the_end_is_tried_again_until_the_time_is_over(
    tmp_path: Path, locked: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    locked.execute("ROLLBACK")
    committed = threading.Event()
    writer = SpoolWriter(tmp_path, KEY, DEFAULT_MAX_BYTES, lambda spool: committed.set())
    writer.put(item)
    assert committed.wait(60)
    locked.execute("BEGIN EXCLUSIVE")
    writer.put(item)
    eventually(lambda: "trying again" in caplog.text)
    closing = threading.Thread(target=writer.close, args=[60])
    closing.start()
    eventually(lambda: writer._give_up_at < math.inf)
    caplog.clear()
    eventually(lambda: "trying again" in caplog.text)
    locked.close()
    closing.join(60)
    assert sequences(tmp_path) == [1, 2]


def test_a_spool_that_stays_unusable_does_not_hold_up_the_end(tmp_path: Path, locked: sqlite3.Connection) -> None:
    writer = SpoolWriter(tmp_path, KEY, DEFAULT_MAX_BYTES, lambda spool: None)
    writer.put(item)
    writer.close(timeout=0.1)
    writer._thread.join(30)
    assert not writer._thread.is_alive()
    locked.close()
