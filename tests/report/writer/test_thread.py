from __future__ import annotations

import logging
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from monitor.errors import SpoolError
from monitor.report.spool.attempt import AttemptKey
from monitor.report.spool.file import SPOOL_FILE
from monitor.report.spool.items import DEFAULT_MAX_BYTES, Spool
from monitor.report.spool.places import Elsewhere
from monitor.report.writer.backlog import Backlog
from monitor.report.writer.home import Home, Reported, lock_directory
from monitor.report.writer.thread import SpoolWriter
from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.report.attempts import NOWHERE

KEY = AttemptKey("run", 1)


def item() -> pb.Item:
    return pb.Item(training_log=pb.TrainingLog(step=1))


def broken_item() -> pb.Item:
    raise ValueError("this one cannot be made")


def start(directory: Path, target: str | None = None) -> SpoolWriter:
    """A writer of an attempt that has begun in the directory."""
    lock = lock_directory(directory)
    with closing(Spool(directory)) as spool:
        if not spool.latest_attempt(KEY.run_id):
            spool.begin(KEY, b"registration")
    return SpoolWriter(Reported(KEY, b"registration", DEFAULT_MAX_BYTES, target), directory, lock, Elsewhere())


def sequences(directory: Path) -> list[int]:
    # Not a Spool, which in some tests has no patience with a commit.
    with closing(sqlite3.connect(directory / SPOOL_FILE, timeout=60)) as connection:
        return [number for (number,) in connection.execute("SELECT sequence FROM items ORDER BY sequence")]


def test_an_uploader_that_cannot_be_started_loses_no_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "no python"))
    monkeypatch.setattr("monitor.report.writer.uploader_process._FIRST_RESTART_SECONDS", 0.0)
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
    """A connection that can keep everybody else from writing to the spool, as a disk without space does."""
    monkeypatch.setattr("monitor.report.spool.file._BUSY_SECONDS", 0.01)
    with closing(Spool(tmp_path)) as spool:
        spool.begin(KEY, b"registration")
    return sqlite3.connect(tmp_path / SPOOL_FILE, isolation_level=None, check_same_thread=False)


def test_a_spool_that_cannot_be_written_for_a_while_loses_no_item(
    tmp_path: Path, locked: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    writer = start(tmp_path)
    locked.execute("BEGIN IMMEDIATE")
    for _ in range(3):
        writer.put(item)
    eventually(lambda: "observations are kept in memory" in caplog.text)
    locked.close()
    writer.close(60)
    assert sequences(tmp_path) == [1, 2, 3]
    assert len(caplog.records) == 1, "the same trouble is told once a minute"


def test_all_that_came_during_a_try_that_failed_late_makes_room_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where an uploader was stopped in the middle of a commit: each try waits for it."""
    monkeypatch.setattr("monitor.report.writer.thread._BATCH", 2)
    write, waiting, gate = Home.write, [], threading.Event()

    def write_late(home: Home, backlog: Backlog, before: Home | None = None) -> bool:
        waiting.append(len(backlog))
        if len(waiting) == 1:
            gate.wait(60)
            raise SpoolError("database is locked")
        return write(home, backlog, before)

    monkeypatch.setattr(Home, "write", write_late)
    writer = start(tmp_path)
    writer.put(item)
    eventually(lambda: waiting == [1])
    for _ in range(20):
        writer.put(item)
    gate.set()
    eventually(lambda: sequences(tmp_path) == [*range(1, 22)])
    assert waiting == [1, 21]
    writer.close(60)


def test_a_spool_that_cannot_be_written_at_the_end_is_left_for_a_temporary_folder(
    tmp_path: Path, locked: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    writer = start(tmp_path)
    writer.put(item)
    eventually(lambda: sequences(tmp_path) == [1])
    locked.execute("BEGIN IMMEDIATE")
    writer.put(item)
    started = time.monotonic()
    writer.close(60)
    assert time.monotonic() - started < 10
    assert sequences(writer.directory) == [1, 2]
    assert writer.directory != tmp_path
    assert f"sparsity-monitor push {writer.directory} --target HOST:PORT" in caplog.text
    locked.close()
    shutil.rmtree(writer.directory)


def test_where_nothing_can_be_written_anywhere_the_end_comes_all_the_same(
    tmp_path: Path, locked: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Elsewhere, "folders", lambda _: iter(()))
    before = set(threading.enumerate())
    writer = start(tmp_path)
    locked.execute("BEGIN IMMEDIATE")
    writer.put(item)
    writer.close(0.1)
    eventually(lambda: set(threading.enumerate()) <= before)
    assert "the last 1 observations and messages of this run are lost, its end among them" in caplog.text
    locked.close()


def test_what_comes_after_the_writer_broke_off_costs_nothing_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("monitor.report.writer.thread._QUEUE_SIZE", 2)
    caplog.set_level(logging.WARNING)
    writer = start(tmp_path)
    monkeypatch.setattr(Spool, "append", broken_append)
    writer.put(item)
    eventually(lambda: not writer._thread.is_alive())
    for _ in range(5):
        writer.put(item)
    started = time.monotonic()
    assert not writer.close(60, 60)
    assert time.monotonic() - started < 10
    assert writer.broke_off == "SystemExit: of somebody else's"
    assert [record.getMessage() for record in caplog.records] == [
        "sparsity-monitor reports no more because of an error; training goes on"
    ]


def broken_append(*arguments: object, **named: object) -> None:
    raise SystemExit("of somebody else's")


def test_a_close_that_waits_for_room_ends_with_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monitor.report.writer.thread._QUEUE_SIZE", 1)
    writes, may_break = threading.Event(), threading.Event()

    def append(*arguments: object, **named: object) -> None:
        writes.set()
        assert may_break.wait(60)
        broken_append()

    writer = start(tmp_path)
    monkeypatch.setattr(Spool, "append", append)
    writer.put(item)
    assert writes.wait(60)
    writer.put(item)
    closing_it = threading.Thread(target=writer.close, args=(600,))
    closing_it.start()
    may_break.set()
    closing_it.join(60)
    assert not closing_it.is_alive()


def test_a_disk_that_does_not_answer_keeps_no_one_waiting_and_what_is_lost_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("monitor.report.writer.thread._QUEUE_SIZE", 10)
    writes, may_write = threading.Event(), threading.Event()
    append = Spool.append

    def append_at_last(*arguments: Any, **named: Any) -> None:
        writes.set()
        assert may_write.wait(60)
        append(*arguments, **named)

    writer = start(tmp_path)
    monkeypatch.setattr(Spool, "append", append_at_last)
    writer.put(item)
    assert writes.wait(60)
    # It would wait for ever here.
    for _ in range(14):
        writer.put(item)
    may_write.set()
    writer.close(60)
    assert sequences(tmp_path) == [*range(1, 12)]
    (told,) = [message for message in caplog.messages if "is slower than the training" in message]
    assert told.startswith(f"sparsity-monitor: item 12 is lost: the disk of {tmp_path} is slower")
