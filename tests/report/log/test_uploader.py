from __future__ import annotations

import sys
from pathlib import Path

import pytest

from monitor.report.log.uploader import UPLOADER_LOG, keep_short
from monitor.report.processes import interpreter
from monitor.report.reporter import Reporter
from tests.eventually import eventually
from tests.report.attempts import NOWHERE, ObservedModel, end_uploader, report_some, uploader_of

LIMIT = 1_000_000


def lines(number: int, first: int = 0) -> bytes:
    return b"".join(b"line %d: cannot reach the service\n" % each for each in range(first, first + number))


def test_a_long_log_keeps_its_latest_lines_in_one_file_that_is_written_on(tmp_path: Path) -> None:
    log = tmp_path / UPLOADER_LOG
    with log.open("ab", buffering=0) as written:
        written.write(lines(20_000))
        keep_short(log)
        assert log.read_bytes() == lines(20_000)
        written.write(lines(20_000, 20_000))
        keep_short(log)
        assert log.stat().st_size <= LIMIT / 2 + 100
        written.write(b"the next\n")
    note, first, *_, last, after = log.read_bytes().splitlines(keepends=True)
    assert b"earlier lines are left out" in note
    assert (first[:5], last, after) == (b"line ", lines(1, 39_999), b"the next\n")
    assert [each.name for each in tmp_path.iterdir()] == [UPLOADER_LOG]


def test_a_long_log_of_no_lines_is_kept_short(tmp_path: Path) -> None:
    log = tmp_path / UPLOADER_LOG
    log.write_bytes(bytes(3 * LIMIT))
    keep_short(log)
    assert log.stat().st_size <= LIMIT / 2 + 100


def test_an_uploader_keeps_its_log_short_whoever_writes_there(observed: ObservedModel, directory: Path) -> None:
    """Libraries write to its standard error."""
    reporter = Reporter(observed.registration(), directory, NOWHERE)
    report_some(reporter, observed, 1)
    log = directory / UPLOADER_LOG
    eventually(lambda: log.exists() and b"cannot reach the service" in log.read_bytes())
    with Path(f"/proc/{uploader_of(reporter)}/fd/2").open("ab") as written:
        written.write(lines(50_000))
    eventually(lambda: log.stat().st_size < LIMIT, seconds=60)
    assert log.read_bytes().endswith(lines(1, 49_999))
    reporter.close(timeout=0)
    end_uploader(reporter)


def test_uploaders_that_die_at_their_start_keep_the_log_short(
    observed: ObservedModel, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash = "import sys; sys.exit('cannot start: ' + 'x' * 400_000)"
    monkeypatch.setattr(interpreter, "command", lambda _module: [sys.executable, "-c", crash])
    monkeypatch.setattr("monitor.report.writer.uploader_process._LAST_RESTART_SECONDS", 0.05)
    monkeypatch.setattr("monitor.report.writer.uploader_process._FIRST_RESTART_SECONDS", 0.05)
    reporter = Reporter(observed.registration(), directory, NOWHERE)
    started: set[int] = set()
    sizes = []

    def is_started_again() -> bool:
        report_some(reporter, observed, 1)
        sizes.append((directory / UPLOADER_LOG).stat().st_size)
        return reporter.uploader_pid not in started

    uploader_of(reporter)
    while len(started) < 6:
        eventually(is_started_again)
        started.add(uploader_of(reporter))
    assert LIMIT < max(sizes) < LIMIT + 410_000
    reporter.close(timeout=0)
