"""Spools that are lost with their directory, and what of them arrives nevertheless."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from monitor.errors import SpoolError, SpoolInUseError
from monitor.report.processes.locks import TRAINER_LOCK
from monitor.report.push import push
from monitor.report.reporter import Reporter, start_anywhere
from monitor.report.spool.attempt import AttemptKey
from monitor.report.spool.file import SPOOL_FILE
from monitor.report.spool.places import goes_on_elsewhere, leave_link
from monitor.wire import monitor_pb2 as pb
from tests.eventually import eventually
from tests.mounts import fill, read_only, small_disk
from tests.removal import remove_in_use
from tests.report.attempts import NOWHERE, ObservedModel, Trainings, end_uploader, report_some, spooled, steps
from tests.service.running import COMMAND, Client

KEY = AttemptKey("run", 1)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "out" / "sparsity_monitor"


def kept(reporter: Reporter, last: int) -> None:
    eventually(lambda: spooled(reporter).last_sequence == last)


def damage(directory: Path) -> None:
    """Leave nothing that can be read of what is open."""
    with (directory / SPOOL_FILE).open("r+b") as file:
        file.write(b"of another program " * 2000)


def remove(directory: Path) -> None:
    remove_in_use(directory.parent)


def make_again(directory: Path) -> None:
    remove_in_use(directory.parent)
    directory.parent.mkdir()


@pytest.mark.parametrize("breaks", [damage, remove, make_again])
def test_what_was_committed_and_not_delivered_is_there_again(
    breaks: Callable[[Path], None], observed: ObservedModel, directory: Path, client: Client
) -> None:
    reporter = Reporter(observed.registration(), directory, None)
    report_some(reporter, observed, 3)
    kept(reporter, 3)
    breaks(directory)
    report_some(reporter, observed, 2)
    reporter.finish(5)
    reporter.close(timeout=0)
    assert (reporter.directory == directory) == (breaks is not remove)
    attempt = spooled(reporter)
    assert (attempt.unsent, attempt.last_sequence, attempt.dropped, attempt.finished) == (6, 6, 0, True)
    assert push(reporter.directory, client.listening.grpc_address, patience_seconds=10) == 6
    assert steps(client, reporter.key.run_id) == [1, 2, 3, 4, 5]


def test_what_memory_had_no_room_for_is_read_from_the_file_that_lost_its_name(
    observed: ObservedModel, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.report.writer.thread.MAX_BYTES", 1)
    reporter = Reporter(observed.registration(), directory, None)
    report_some(reporter, observed, 3)
    kept(reporter, 3)
    remove(directory)
    reporter.finish(3)
    reporter.close(timeout=0)
    attempt = spooled(reporter)
    assert (attempt.unsent, attempt.dropped, attempt.finished) == (4, 0, True)


def test_what_memory_had_no_room_for_is_counted_as_dropped(
    observed: ObservedModel, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("monitor.report.writer.thread.MAX_BYTES", 5000)
    monkeypatch.setattr("monitor.report.spool.file._BUSY_SECONDS", 0.0)
    reporter = Reporter(observed.registration(), directory, None)
    report_some(reporter, observed, 3)
    eventually(lambda: reporter._writer._backlog.last_committed == 3)
    with closing(sqlite3.connect(directory / SPOOL_FILE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for _ in range(40):
            reporter.log(4, {f"a metric with a long name {number}": 0.5 for number in range(20)})
        eventually(reporter._writer._queue.empty)
        reporter.finish(4)
        reporter.close(timeout=0)
    attempt = spooled(reporter)
    assert (attempt.last_sequence, attempt.finished) == (44, True)
    assert 0 < attempt.unsent < 10
    assert attempt.dropped == 44 - attempt.unsent
    (lost,) = [message for message in caplog.messages if "items of this run are lost so far" in message]
    assert (
        f"lost so far: {attempt.dropped - 3} left out in memory, which was full while nothing could be written" in lost
    )
    assert "; 3 lost with the spool, which was damaged or could not be read any more" in lost
    assert "spool_max_bytes" not in lost


def test_what_is_lost_with_a_damaged_spool_is_not_blamed_on_a_full_one(
    observed: ObservedModel, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("monitor.report.writer.thread.MAX_BYTES", 2000)
    reporter = Reporter(observed.registration(), directory, None)
    for step in range(1, 21):
        report_some(reporter, observed, 1)
        eventually(lambda step=step: getattr(reporter._writer._home.latest, "last_sequence", 0) == step)
    damage(directory)
    reporter.finish(20)
    reporter.close(timeout=0)
    attempt = spooled(reporter)
    assert attempt.dropped == 21 - attempt.unsent > 0
    (lost,) = [message for message in caplog.messages if "items of this run are lost so far" in message]
    assert f"lost so far: {attempt.dropped} lost with the spool, which was damaged" in lost
    assert "give another disk with `directory`" in lost
    assert "spool_max_bytes" not in lost


def test_what_was_delivered_before_the_spool_was_lost_is_not_dropped(
    observed: ObservedModel, directory: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory had no room for all of it, and the training had not seen yet that the service took it."""
    monkeypatch.setattr("monitor.report.writer.thread.MAX_BYTES", 2000)
    reporter = Reporter(observed.registration(), directory, None)
    for step in range(1, 21):
        report_some(reporter, observed, 1)
        eventually(lambda step=step: getattr(reporter._writer._home.latest, "last_sequence", 0) == step)
    command = [COMMAND, "push", str(directory), "--target", client.listening.grpc_address]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    damage(directory)
    reporter.finish(20)
    reporter.close(timeout=0)
    # Not known before the service has said what it has.
    assert spooled(reporter).dropped == 20 - (spooled(reporter).unsent - 1) > 0
    push(directory, client.listening.grpc_address, patience_seconds=30)
    assert steps(client, reporter.key.run_id) == [*range(1, 21)]
    assert spooled(reporter).dropped == client.metric("run_dropped_items", run=reporter.key.run_id) == 0


def test_only_what_is_acknowledged_leaves_a_spool(
    observed: ObservedModel, directory: Path, client: Client, tmp_path: Path
) -> None:
    """Where the run went on elsewhere, and that arrived first, the service has higher numbers than it has here."""
    reporter = Reporter(observed.registration(), directory, None)
    report_some(reporter, observed, 3)
    kept(reporter, 3)
    shutil.copytree(directory, tmp_path / "copy")
    report_some(reporter, observed, 2)
    reporter.finish(5)
    reporter.close(timeout=0)
    with closing(sqlite3.connect(directory / SPOOL_FILE, isolation_level=None)) as connection:
        # The fourth never got anywhere.
        connection.execute("DELETE FROM items WHERE sequence <= 4")
    push(directory, client.listening.grpc_address, patience_seconds=10)
    assert steps(client, reporter.key.run_id) == [5]
    assert push(tmp_path / "copy", client.listening.grpc_address, patience_seconds=10) == 3
    assert steps(client, reporter.key.run_id) == [1, 2, 3, 5]
    # It is not taken for killed, though nothing there says how it ended.
    assert client.run(reporter.key.run_id).state == pb.RunSummary.STATE_FINISHED


def test_a_training_that_left_is_not_taken_for_killed(
    observed: ObservedModel, directory: Path, client: Client, tmp_path: Path
) -> None:
    reporter = Reporter(observed.registration(), directory, None)
    report_some(reporter, observed, 2)
    kept(reporter, 2)
    shutil.copytree(directory, tmp_path / "copy")
    leave_link(tmp_path / "copy", reporter.key, tmp_path / "gone")
    assert goes_on_elsewhere(tmp_path / "copy", reporter.key)
    assert not goes_on_elsewhere(tmp_path / "copy", AttemptKey(reporter.key.run_id, 2))
    push(tmp_path / "copy", client.listening.grpc_address, patience_seconds=10)
    assert client.run(reporter.key.run_id).state == pb.RunSummary.STATE_RUNNING
    reporter.close(timeout=0)


@pytest.mark.xdist_group("reporting processes")
def test_a_training_that_is_killed_after_it_left_is_told_so(
    trainings: Trainings, directory: Path, client: Client
) -> None:
    end = """
import monitor.report.writer.thread as writer
from tests.removal import remove_in_use
writer._PATIENCE_SECONDS = 0.0
remove_in_use(reporter.directory.parent)
reporter.log(3, {"loss": 0.5})
eventually(lambda: reporter.directory.name.startswith("sparsity-monitor-"))
eventually(lambda: spooled(reporter).last_sequence == 4)
print(reporter.directory)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert trainings.run(end, "left", directory, client.listening.grpc_address).status == -9
    eventually(lambda: client.is_over("left"))
    assert steps(client, "left") == [1, 2, 3]
    assert "may have been killed" in client.run("left").reason


def test_push_of_the_directory_finds_what_went_on_elsewhere(
    observed: ObservedModel, directory: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monitor.report.spool.file._BUSY_SECONDS", 0.5)
    reporter = Reporter(observed.registration(), directory, None)
    report_some(reporter, observed, 2)
    kept(reporter, 2)
    with closing(sqlite3.connect(directory / SPOOL_FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        report_some(reporter, observed, 1)
        reporter.finish(3)
        reporter.close(timeout=0)
    assert reporter.directory != directory
    # Two of them are in both places.
    assert push(directory.parent, client.listening.grpc_address, patience_seconds=10) == 6
    assert steps(client, reporter.key.run_id) == [1, 2, 3]
    assert client.run(reporter.key.run_id).state == pb.RunSummary.STATE_FINISHED


def test_push_of_a_directory_that_cannot_be_written_asks_for_a_copy(
    observed: ObservedModel, directory: Path, client: Client, tmp_path: Path
) -> None:
    with Reporter(observed.registration(), directory, None) as reporter:
        report_some(reporter, observed, 1)
    with read_only(directory), pytest.raises(SpoolError, match=r"Read-only file system.*give the copy"):
        push(directory, client.listening.grpc_address, patience_seconds=10)
    shutil.copytree(directory, tmp_path / "copy")
    assert push(tmp_path / "copy", client.listening.grpc_address, patience_seconds=10) == 2


def test_the_end_does_not_wait_for_a_service_that_cannot_be_reached(observed: ObservedModel, directory: Path) -> None:
    reporter = Reporter(observed.registration(), directory, NOWHERE)
    report_some(reporter, observed, 1)
    reporter.finish(1)
    eventually(lambda: reporter.uploader_pid is not None)
    started = time.monotonic()
    assert not reporter.close(timeout=600)
    assert time.monotonic() - started < 60
    assert spooled(reporter).problem
    end_uploader(reporter)


def test_the_end_does_not_wait_where_there_is_no_uploader(observed: ObservedModel, directory: Path) -> None:
    reporter = Reporter(observed.registration(), directory, None)
    started = time.monotonic()
    assert not reporter.close(timeout=600)
    assert time.monotonic() - started < 60


def refuse_locks(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the directory's file system be one that does not lock."""
    lockf = fcntl.lockf

    def lock(descriptor: int, operation: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(directory)):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        lockf(descriptor, operation)

    monkeypatch.setattr("monitor.report.processes.locks.fcntl.lockf", lock)


def link_to_itself(directory: Path) -> None:
    directory.symlink_to(directory)


def be_below_a_file(directory: Path) -> None:
    directory.parent.rmdir()
    directory.parent.touch()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Path.touch, "File exists"),
        (link_to_itself, "File exists|levels of symbolic links"),
        (be_below_a_file, "Not a directory"),
        (lambda directory: (directory / SPOOL_FILE).mkdir(parents=True), "unable to open database file"),
        (lambda directory: (directory / TRAINER_LOCK).mkdir(parents=True), "Is a directory"),
    ],
)
def test_a_directory_that_cannot_be_one_is_left_before_training(
    make: Callable[[Path], None],
    reason: str,
    observed: ObservedModel,
    directory: Path,
    temporary: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory.parent.mkdir()
    make(directory)
    assert_left_before_training(reason, observed, directory, temporary, caplog)


def test_a_file_system_without_locks_is_left_before_training(
    observed: ObservedModel,
    directory: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    refuse_locks(directory, monkeypatch)
    assert_left_before_training("No locks available", observed, directory, temporary, caplog)


def test_a_disk_that_is_full_from_the_start_is_left_before_training(
    observed: ObservedModel, tmp_path: Path, temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        fill(disk)
        assert_left_before_training("No space left|disk is full", observed, disk / "out", temporary, caplog)


def assert_left_before_training(
    reason: str, observed: ObservedModel, directory: Path, temporary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SpoolError, match=rf"cannot keep observations in .*({reason}).*give another one"):
        Reporter(observed.registration(), directory, None)
    reporter = start_anywhere(observed.registration(), directory, None)
    assert reporter.directory.parent == temporary
    report_some(reporter, observed, 1)
    reporter.close(timeout=0)
    assert spooled(reporter).unsent == 1
    assert f"sparsity-monitor push {reporter.directory} --target" in caplog.text
    assert len(caplog.records) == 1


def hide(hidden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system of a directory be one that does not answer what the directory is."""
    stat = Path.stat

    def stale(path: Path, **options: bool) -> os.stat_result:
        if path == hidden:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", stale)


def test_a_place_that_cannot_be_looked_at_does_not_end_reporting(
    observed: ObservedModel, directory: Path, temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in memory").mkdir()
    monkeypatch.setattr("monitor.report.spool.places._IN_MEMORY", str(tmp_path / "in memory"))
    reporter = Reporter(observed.registration(), directory, None)
    report_some(reporter, observed, 2)
    kept(reporter, 2)
    remove(directory)
    hide(temporary, monkeypatch)
    reporter.finish(2)
    reporter.close(timeout=0)
    assert reporter.directory.parent == tmp_path / "in memory"
    assert (spooled(reporter).unsent, spooled(reporter).finished) == (3, True)


def test_a_directory_that_cannot_be_looked_at_from_the_start_is_left(
    observed: ObservedModel, directory: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.mkdir(parents=True)
    hide(directory.parent, monkeypatch)
    reporter = Reporter(observed.registration(), directory, None)
    report_some(reporter, observed, 2)
    reporter.finish(2)
    reporter.close(timeout=0)
    assert reporter.directory.parent == temporary
    assert (spooled(reporter).unsent, spooled(reporter).finished) == (3, True)
    assert goes_on_elsewhere(directory, reporter.key), "what began there would be taken for killed"
    assert str(directory / TRAINER_LOCK) not in open_files()


def open_files() -> set[str]:
    """The paths of the files that this process has open."""
    return {os.path.realpath(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")}


_HOLD = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_directory_that_another_training_has_is_not_left(
    observed: ObservedModel, directory: Path, temporary: Path
) -> None:
    directory.mkdir(parents=True)
    command = [sys.executable, "-c", _HOLD, str(directory / TRAINER_LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(SpoolInUseError, match="another training process reports from"):
            start_anywhere(observed.registration(), directory, None)
        other.communicate()
    assert not list(temporary.iterdir())
