"""Spool files of which a part is gone or is something else, when a training starts and while it runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from monitor.errors import DamagedSpoolError
from monitor.report.push import push
from monitor.report.reporter import Reporter
from monitor.report.spool.file import SPOOL_FILE
from tests.eventually import eventually
from tests.report.attempts import NOWHERE, ObservedModel, report_some, spooled, steps, uploader_of, wait_for_end
from tests.service.running import Client

_ASIDE = f"{SPOOL_FILE}.damaged-"


def cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def overwrite_the_beginning(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(b"of another program " * 300)


def zero_the_middle(file: Path) -> None:
    """As a disk that lost power may leave it."""
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.seek(4096)
        opened.write(bytes(size - 8192))


DAMAGES = [cut_off, empty, overwrite_the_beginning, zero_the_middle]


def leave_some(observed: ObservedModel, directory: Path) -> Reporter:
    """Train, and leave it all in the spool."""
    reporter = Reporter(observed.registration(), directory, None)
    report_some(reporter, observed, 20)
    reporter.finish(20)
    reporter.close(timeout=0)
    return reporter


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_training_that_starts_sets_it_aside_and_reports_from_the_same_directory(
    damage: Callable[[Path], None],
    observed: ObservedModel,
    directory: Path,
    client: Client,
    caplog: pytest.LogCaptureFixture,
) -> None:
    leave_some(observed, directory)
    damage(directory / SPOOL_FILE)
    damaged = (directory / SPOOL_FILE).read_bytes()
    again = ObservedModel()
    reporter = Reporter(again.registration(), directory, client.listening.grpc_address)
    report_some(reporter, again, 2)
    reporter.finish(2)
    assert reporter.close(timeout=60)
    assert reporter.directory == directory
    assert steps(client, reporter.key.run_id) == [1, 2]
    assert (directory / f"{_ASIDE}1").read_bytes() == damaged
    (said,) = [message for message in caplog.messages if "set aside" in message]
    assert f"{SPOOL_FILE} in {str(directory)!r} is damaged" in said
    assert "stays undelivered" in said


@pytest.mark.parametrize("damage", [cut_off, empty, overwrite_the_beginning])
def test_while_a_training_runs_a_new_one_holds_all_that_was_not_delivered(
    damage: Callable[[Path], None],
    observed: ObservedModel,
    directory: Path,
    client: Client,
    caplog: pytest.LogCaptureFixture,
) -> None:
    reporter = Reporter(observed.registration(), directory, None)
    report_some(reporter, observed, 20)
    eventually(lambda: spooled(reporter).last_sequence == 20)
    damage(directory / SPOOL_FILE)
    report_some(reporter, observed, 1)
    reporter.finish(21)
    reporter.close(timeout=0)
    assert reporter.directory == directory
    assert push(directory, client.listening.grpc_address, patience_seconds=30) == 22
    assert steps(client, reporter.key.run_id) == [*range(1, 22)]
    assert any("set aside" in message for message in caplog.messages)


def test_damage_that_no_commit_meets_but_the_delivery_does_is_mended_from_memory(
    observed: ObservedModel, directory: Path, client: Client
) -> None:
    reporter = Reporter(observed.registration(), directory, NOWHERE)
    report_some(reporter, observed, 20)
    eventually(lambda: spooled(reporter).problem != "")
    zero_the_middle(directory / SPOOL_FILE)

    def is_set_aside() -> bool:
        # How the uploader is, is looked at with each commit.
        report_some(reporter, observed, 1)
        return (directory / f"{_ASIDE}1").exists()

    eventually(is_set_aside)
    reporter.finish(observed.step)
    reporter.close(timeout=0)
    os.kill(uploader_of(reporter), signal.SIGKILL)
    wait_for_end(uploader_of(reporter))
    assert push(directory, client.listening.grpc_address, patience_seconds=30) == observed.step + 1
    assert steps(client, reporter.key.run_id) == [*range(1, observed.step + 1)]


def test_of_a_directory_whose_spool_is_damaged_each_time_a_few_are_kept(
    observed: ObservedModel, directory: Path
) -> None:
    for _ in range(5):
        leave_some(ObservedModel(), directory)
        empty(directory / SPOOL_FILE)
    leave_some(observed, directory)
    assert len(list(directory.glob(f"{_ASIDE}*"))) == 3


@pytest.mark.parametrize(
    ("damage", "found"), [(overwrite_the_beginning, "file is not a database"), (zero_the_middle, r"[A-Z]\w+ \d+")]
)
def test_push_says_that_a_spool_is_damaged_and_delivers_nothing_of_it(
    damage: Callable[[Path], None], found: str, observed: ObservedModel, directory: Path, client: Client
) -> None:
    reporter = leave_some(observed, directory)
    damage(directory / SPOOL_FILE)
    with pytest.raises(DamagedSpoolError, match=rf"is damaged: {found}.*look after the disk\. Nothing of it is"):
        push(directory, client.listening.grpc_address, patience_seconds=0)
    with pytest.raises(StopIteration):
        client.run(reporter.key.run_id)
