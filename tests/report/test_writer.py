from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from monitor.report.spool import DEFAULT_MAX_BYTES, SPOOL_FILE, AttemptKey, Spool
from monitor.report.writer import SpoolWriter
from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.report.attempts import NOWHERE

KEY = AttemptKey("run", 1)


def item() -> pb.Item:
    return pb.Item(training_log=pb.TrainingLog(step=1))


def broken_item() -> pb.Item:
    raise ValueError("this one cannot be made")


def start(directory: Path, target: str | None = None) -> SpoolWriter:
    Spool(directory).begin(KEY, b"registration")
    return SpoolWriter(directory, KEY, DEFAULT_MAX_BYTES, target)


def sequences(directory: Path) -> list[int]:
    return [sequence for sequence, _ in Spool(directory).unsent(KEY, after=0, limit=99)]


def test_an_uploader_that_cannot_be_started_loses_no_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no python"))
    monkeypatch.setattr("monitor.report.uploader_process._FIRST_RESTART_SECONDS", 0.0)
    writer = start(tmp_path, NOWHERE)
    writer.put(item)
    eventually(lambda: sequences(tmp_path) == [1])
    writer.put(item)
    assert not writer.close(60, 60)
    assert sequences(tmp_path) == [1, 2]
    assert "the uploader could not be looked after" in caplog.text


def test_an_item_that_cannot_be_made_leaves_a_gap_and_nothing_more(tmp_path: Path) -> None:
    writer = start(tmp_path)
    for make_item in (item, broken_item, item):
        writer.put(make_item)
    writer.close(60)
    assert sequences(tmp_path) == [1, 3]
    assert Spool(tmp_path).attempt(KEY).dropped == 1


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sqlite3.Connection:
    """A connection that keeps everybody else from writing to the spool, as a disk without space does."""
    monkeypatch.setattr("monitor.report.spool._BUSY_SECONDS", 0.01)
    Spool(tmp_path).begin(KEY, b"registration")
    connection = sqlite3.connect(tmp_path / SPOOL_FILE, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN EXCLUSIVE")
    return connection


def test_a_spool_that_cannot_be_opened_for_a_while_loses_no_item(
    tmp_path: Path, locked: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    writer = SpoolWriter(tmp_path, KEY, DEFAULT_MAX_BYTES, None)
    writer.put(item)
    eventually(lambda: "trying again" in caplog.text)
    locked.close()
    writer.close(60)
    assert sequences(tmp_path) == [1]


def test_a_spool_that_cannot_be_written_at_the_end_is_tried_again_until_the_time_is_over(
    tmp_path: Path, locked: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    locked.execute("ROLLBACK")
    writer = SpoolWriter(tmp_path, KEY, DEFAULT_MAX_BYTES, None)
    writer.put(item)
    eventually(lambda: sequences(tmp_path) == [1])
    locked.execute("BEGIN EXCLUSIVE")
    writer.put(item)
    eventually(lambda: "trying again" in caplog.text)

    def unlock_after_two_more_tries() -> None:
        # A second lies between two tries, so the end has begun by then.
        eventually(lambda: caplog.text.count("trying again") >= 3)
        locked.close()

    unlocking = threading.Thread(target=unlock_after_two_more_tries)
    unlocking.start()
    writer.close(60)
    unlocking.join()
    assert sequences(tmp_path) == [1, 2]


def test_a_spool_that_stays_unusable_does_not_hold_up_the_end(
    tmp_path: Path, locked: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    before = set(threading.enumerate())
    writer = SpoolWriter(tmp_path, KEY, DEFAULT_MAX_BYTES, None)
    writer.put(item)
    writer.close(0.1)
    eventually(lambda: set(threading.enumerate()) <= before)
    assert "items are lost" in caplog.text
    locked.close()
