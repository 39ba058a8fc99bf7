from __future__ import annotations

import threading
from pathlib import Path

from monitor.report.spool import DEFAULT_MAX_BYTES, AttemptKey, Spool
from monitor.report.writer import SpoolWriter
from monitor.wire import monitor_pb2 as pb

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
    assert committed.wait(10)
    writer.put(item)
    assert writer.close(timeout=10)
    assert sequences(tmp_path) == [1, 2]


def test_an_item_that_cannot_be_made_leaves_a_gap_and_nothing_more(tmp_path: Path) -> None:
    writer = start(tmp_path, lambda spool: None)
    for make_item in (item, broken_item, item):
        writer.put(make_item)
    assert writer.close(timeout=10)
    assert sequences(tmp_path) == [1, 3]
    assert writer.overflowed == 1
